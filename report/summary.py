"""The study's four questions, answered in sentences made from the rows, with evidence and confidence.

An answer is a dict with ``question``. Its ``answer`` holds sentences, one for each data set, and is empty where rows
are missing. Each item of ``evidence`` has ``text`` and the ``rows`` it comes from. ``sure`` holds notes on how reliable
the answer is, ``run`` the commands that would provide the missing rows, and ``use`` those that use what was chosen.
"""

import shlex

from backbench import UserError
from backbench.report import choice, formatting, names, use
from backbench.report import generalization as others
from backbench.report.compare import BETTER, CHOSEN, LEVEL, NOT_TOLD, WORSE, paired
from backbench.report.formatting import printable
from backbench.report.study import LOW_RESOLUTION, Study
from backbench.rows import WRITTEN

FEW = 300
"""Number of test images below which an accuracy of 90 % has an interval wider than ±3 points, which is more than most
differences between good backbones."""


def answers(study: Study) -> list[dict]:
    """Return all four answers, whatever rows there are."""
    return [which(study), resolution(study), fine_tuning(study), other_data_sets(study)]


def _answer(question: str, *, answer=(), evidence=(), sure=(), run=(), use=()) -> dict:
    found = {"question": question, "answer": list(answer), "evidence": list(evidence), "use": list(use)}
    return found | {"sure": list(dict.fromkeys(sure)), "run": list(run)}


def _with_top1(record: dict, name: str | None = None) -> str:
    """Return a text such as ``lite0 (logistic): 96.9 [93.8, 98.5] %``."""
    shown = name or f"{printable(record['named'])} ({printable(record['method'])})"
    return f"{shown}: {formatting.accuracy(record, 'top1')} %"


def _evidence(record: dict, name: str | None = None) -> dict:
    return {"text": f"{_with_top1(record, name)} top-1 on {printable(record['dataset'])}", "rows": record["rows"]}


def _pasted(name: str) -> str:
    """Return ``name`` as one word of a command, without the brackets that tables add."""
    return shlex.quote(printable(names.plain(name)))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def which(study: Study) -> dict:
    """Answer which backbone is best, and how good it is."""
    sentences, evidence, sure, commands = [], [], [], []
    for dataset in study.datasets:
        best = study.best(dataset)
        if not best:
            continue
        first = next(iter(best.values()))
        commands += use.advice([study.rows[i][WRITTEN] for i in first["rows"]], dataset, study.results_dir)
        evidence += [_evidence(record) for record in list(best.values())[:4]]
        sure += _sureness(first)
        sentences.append(f"On {printable(dataset)}: {_leader(best, study.compared(dataset))}")
    if any(len(study.best(dataset)) > 1 for dataset in study.datasets):
        sure.append(
            f"{choice.RULE} The backbones, each with its chosen head, are compared by McNemar's exact test, "
            f"Holm-corrected over all pairs, at the level {LEVEL}."
        )
    few = [dataset for dataset in study.datasets if len(study.best(dataset)) < 2]
    run = [f"extract --model study --dataset {_pasted(dataset)}" for dataset in few or ()]
    run = run if study.datasets else ["extract --model study --dataset caltech256", "probe --features cache"]
    return _answer(
        "Which backbone should you use, and how good is it?", answer=sentences, evidence=evidence, sure=sure, run=run,
        use=dict.fromkeys(commands),
    )  # fmt: skip


def _leader(best: dict[str, dict], compared: dict[str, dict]) -> str:
    """Name the backbone chosen on val, those that are not distinguishable from it, and the cheapest of all these."""
    first, *others = best.values()
    sentence = f"{_with_top1(first)} of {first['n_test']:,} test images are right; it was chosen on val."
    if not others:
        return f"{sentence} No other backbone has been measured there."
    if compared.get(first["named"], {}).get("verdict") != CHOSEN:
        return (
            f"{sentence} It could not be compared by paired tests, since its predictions, or those of the others on "
            "the same images, were not kept."
        )
    by = {
        verdict: [record for record in others if compared.get(record["named"], {}).get("verdict") == verdict]
        for verdict in (NOT_TOLD, WORSE, BETTER)
    }
    if by[BETTER]:
        listed = _listed([printable(record["named"]) for record in by[BETTER]])
        sentence += f" By paired tests {listed} did better on test, which val did not show."
    if alike := by[NOT_TOLD]:
        listed = _listed([printable(record["named"]) for record in alike])
        sentence += f" On these images it is not distinguishable from {listed}"
        if timed := [record for record in [first, *alike] if record["extract_seconds"]]:
            cheapest = min(timed, key=lambda record: record["extract_seconds"])
            sentence += f"; the cheapest of them to extract is {printable(cheapest['named'])}"
        return f"{sentence}."
    if by[WORSE]:
        count = len(by[WORSE])
        rest = "the other" if len(others) == 1 else f"all {count} others" if count == len(others) else f"{count} others"
        return f"{sentence} By paired tests between these backbones it is better than {rest}."
    return sentence


def _sureness(record: dict) -> list[str]:
    notes = []
    if record["n_test"] and record["n_test"] < FEW:
        notes.append(
            f"{printable(record['dataset'])} has only {record['n_test']:,} test images, so differences of a few points "
            "there may be chance."
        )
    if formatting.FOLDED.search(record["dataset"]):
        notes.append(formatting.FOLDS_NOTE)
    if record["converged"] is False:
        notes.append(formatting.UNCONVERGED_NOTE)
    return notes


def resolution(study: Study) -> dict:
    """Answer whether the order of backbones at high resolution holds at low resolution."""
    question = "Does the answer hold at high and at low resolution?"
    low = [name for name in study.datasets if names.plain(name) in LOW_RESOLUTION and study.best(name)]
    high = [name for name in study.datasets if names.plain(name) not in LOW_RESOLUTION and study.best(name)]
    smaller, shown = _low_resolution(study)
    if not (low and high):
        wanted = [*([] if high else ["caltech256"]), *([] if low else ["cifar100"])]
        run = [f"extract --model study --dataset {name}" for name in wanted]
        return _answer(question, answer=smaller, evidence=shown, run=[*run, "probe --features cache"])
    sentences, evidence, sure = [], [], []
    a, b = high[0], low[0]
    first, second = study.best(a), study.best(b)
    shared = [name for name in first if name in second]
    sets = printable(a), printable(b)
    if shared:
        tops = [next(name for name in found if name in shared) for found in (first, second)]
        same = tops[0] == tops[1]
        sentences.append(
            f"Of the {len(shared)} backbones measured on both {sets[0]} and {sets[1]}, {printable(tops[0])} is chosen "
            "on val of " + ("both." if same else f"the first, and {printable(tops[1])} on val of the second.")
        )
        for name in dict.fromkeys(tops):
            evidence += [_evidence(first[name]), _evidence(second[name])]
        note, certain = _agreement([(first[name]["top1"], second[name]["top1"]) for name in shared])
        sentences += note
        sure += [certain, *_sureness(first[tops[0]]), *_sureness(second[tops[1]])]
    missing = [name for name in (*first, *second) if name not in shared]
    run = [
        f"extract --model {_pasted(name)} --dataset {_pasted(b if name in first else a)}"
        for name in missing
        if "(input x" not in name
    ]
    run += ["probe"] if run else []
    return _answer(question, answer=[*sentences, *smaller], evidence=[*evidence, *shown], sure=sure, run=run)


def _agreement(pairs: list[tuple[float, float]]) -> tuple[list[str], str]:
    """Return a sentence on whether the two orders agree, and its confidence, by Kendall's tau (exact p for few)."""
    if len(pairs) < 4:
        return (
            [],
            f"{len(pairs)} backbone{'s are' if len(pairs) > 1 else ' is'} too few to show whether the orders agree.",
        )
    from scipy.stats import kendalltau

    found = kendalltau(*zip(*pairs, strict=True))
    verdict = "agree" if found.pvalue < LEVEL and found.statistic > 0 else "don't agree significantly"
    sentence = f"The two orders {verdict}: Kendall's tau {found.statistic:.2f}."
    return [sentence], f"Kendall's tau over {len(pairs)} backbones, p = {found.pvalue:.3f}."


def fine_tuning(study: Study) -> dict:
    """Answer what fine-tuning adds to a probe, and how accurate a small network from scratch is."""
    sentences, evidence, sure, run = [], [], [], []
    for dataset in study.datasets:
        probed, tuned = study.best(dataset), study.best(dataset, stages=("finetune",))
        for name in [name for name in tuned if name in probed][:3]:
            sentence, notes = _gain(study, probed[name], tuned[name])
            sentences.append(f"On {printable(dataset)}: {sentence}")
            sure += notes
            evidence += [_evidence(probed[name]), _evidence(tuned[name])]
        for record in list(study.best(dataset, stages=("cnn",)).values())[:1]:
            sentence, notes = _scratch(study, record, [*probed.values(), *tuned.values()])
            sentences.append(f"On {printable(dataset)}, from scratch, {sentence}")
            sure += notes
            evidence.append(_evidence(record))
        if probed and not tuned:
            best = _pasted(next(iter(probed.values()))["model"])
            run.append(f"finetune simple --model {best} --dataset {_pasted(dataset)}")
    if not any(record["stage"] == "cnn" for record in study.records):
        run.append("cnn train --dataset cifar100")
    return _answer("What does fine-tuning add?", answer=sentences, evidence=evidence, sure=sure, run=run)


def _scratch(study: Study, record: dict, others: list[dict]) -> tuple[str, list[str]]:
    """Compare the network trained from scratch, and its cost, with the one of ``others`` that is chosen on val."""
    row = study.rows[record["rows"][-1]]
    cost = [f"{row['parameters'] / 1e6:.1f} million parameters"] if row.get("parameters") else []
    cost += [f"{row['train_flops'] / 1e15:.2g} PFLOP of training"] if row.get("train_flops") else []
    unchosen = ", which had no val to be chosen on," if record["val_top1"] is None else ""
    sentence = f"{_with_top1(record)}{unchosen}{' with ' if cost else ''}{' and '.join(cost)}"
    if not others:
        return f"{sentence}.", []
    best = min(others, key=choice.order)
    points = 100 * (record["top1"] - best["top1"])
    beside = f"; {_with_top1(best)} is {abs(points):.1f} points {'behind' if points > 0 else 'ahead'}"
    try:
        test = paired(*((study.results_dir, study.rows[one["rows"][-1]]) for one in (record, best)))
    except UserError as error:
        return f"{sentence}{beside}.", [str(error)]
    if test is None:
        return f"{sentence}{beside}, without a paired test.", []
    chance = "" if test.p < LEVEL else ", which is not significant"
    return f"{sentence}{beside}{chance}.", [f"{printable(record['named'])}: McNemar's p = {test.p:.3g}."]


def _gain(study: Study, probed: dict, tuned: dict) -> tuple[str, list[str]]:
    points = 100 * (tuned["top1"] - probed["top1"])
    name, method = printable(tuned["named"]), printable(tuned["method"])
    try:
        test = paired(*((study.results_dir, study.rows[record["rows"][-1]]) for record in (tuned, probed)))
    except UserError as error:
        return f"fine-tuning {name} ({method}) changes top-1 by {points:+.1f} points.", [str(error)]
    if test is None:
        return (
            f"fine-tuning {name} ({method}) changes top-1 by {points:+.1f} points, without a paired test.",
            [
                "There is no paired test, since probe and fine-tuning were not measured on the same test images or "
                "their predictions were not kept."
            ],
        )
    ends = f"{100 * test.difference:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}] points"
    chance = "" if test.p < LEVEL else ", which is not significant"
    return f"fine-tuning {name} ({method}) changes its probe's top-1 by {ends}{chance}.", [
        f"{name}: McNemar's p = {test.p:.3g}."
    ]


def other_data_sets(study: Study) -> dict:
    """Answer how much accuracy is left on other data sets."""
    sentences, evidence, sure = [], [], []
    by_target: dict[tuple, list[dict]] = {}
    for record in others.records(study.rows, study.results_dir):
        by_target.setdefault((record["source"], record["target"]), []).append(record)
    for (source, target), found in by_target.items():
        best = found[0]
        name = f"{printable(best['model'])} ({printable(best['method'])})"
        top1, lost = formatting.accuracy(best, "top1"), others.with_ends(best, "drop")
        sentences.append(
            f"{name} has {100 * best['source_top1']:.1f} % on {printable(source)} and {top1} % on "
            f"{printable(target)}" + (f", a drop of {lost} points." if best["drop_low"] is not None else ".")
        )
        evidence.append({"text": f"{name} on {printable(target)}: {top1} %", "rows": [study.where(best["row"])]})
        if above := [r for r in found if r["effective_robustness"] is not None]:
            most = max(above, key=lambda r: r["effective_robustness"])
            sure.append(
                f"On {printable(target)}, {printable(most['model'])} ({printable(most['method'])}) has the highest "
                f"effective robustness of {len(found)} heads, {100 * most['effective_robustness']:.1f} points."
            )
    run = [] if by_target else ["finetune generalize --dataset openimages"]
    sure = ["On each target the head chosen on the source's val is named; the chart shows all heads.", *sure]
    if any(found[0]["val_top1"] is None for found in by_target.values()):
        sure.append("Where no head has an accuracy on the source's val, the first one by name is named.")
    sure = sure if by_target else []
    return _answer(
        "How much accuracy is left on other data sets?", answer=sentences, evidence=evidence, sure=sure, run=run
    )


LOW = 32
"""Pixels on the shorter side of the shrunk images that the answer is about."""


def _low_resolution(study: Study) -> tuple[list[str], list[dict]]:
    """Say by source how accurate the head chosen on val is on images of ``LOW`` pixels, and give the evidence."""
    by_source: dict[str, list[dict]] = {}
    for row in others.newest(study.rows, corruptions=True):
        if row["corruption"] == "resolution" and row.get("level") == LOW:
            by_source.setdefault(others.pair(row)[0], []).append(row)
    sentences, evidence = [], []
    for source, rows in by_source.items():
        best = min(rows, key=choice.order)
        name = f"{printable(best['model'])} ({printable(best['method'])})"
        sentences.append(
            f"On {printable(source)} with images shrunk to {LOW} pixels, {name} has "
            f"{formatting.accuracy(best, 'top1')} %, and {100 * best['source_top1']:.1f} % at full size. It was chosen "
            f"among {len(rows)} heads on the source's val."
        )
        evidence.append(
            {"text": f"{name}, {LOW} pixels: {formatting.accuracy(best, 'top1')} %", "rows": [study.where(best)]}
        )
    return sentences, evidence
