"""The study's four questions, each answered in a sentence made from the rows, with its evidence and how sure it is.

An answer is a dict: ``question``; ``answer``, sentences, one a data set, none where rows are missing; ``evidence``,
each ``text`` and the ``rows`` it comes from; ``sure``, what speaks for and against trusting it; ``run``, the commands
that would fill what is missing.
"""

import shlex

from backbench import UserError
from backbench.report import choice, formatting, names
from backbench.report import generalization as others
from backbench.report.compare import BETTER, CHOSEN, LEVEL, NOT_TOLD, WORSE, paired
from backbench.report.formatting import printable
from backbench.report.study import LOW_RESOLUTION, Study

FEW = 300
"""Test images below which an interval is wider than most differences between good backbones: ±3 points at 90 %."""


def answers(study: Study) -> list[dict]:
    """All four, whatever rows there are."""
    return [which(study), resolution(study), fine_tuning(study), elsewhere(study)]


def _answer(question: str, *, answer=(), evidence=(), sure=(), run=()) -> dict:
    found = {"question": question, "answer": list(answer), "evidence": list(evidence)}
    return found | {"sure": list(dict.fromkeys(sure)), "run": list(run)}


def _said(record: dict, name: str | None = None) -> str:
    """``lite0 (logistic): 96.9 [93.8, 98.5] %``."""
    shown = name or f"{printable(record['named'])} ({printable(record['method'])})"
    return f"{shown}: {formatting.accuracy(record, 'top1')} %"


def _evidence(record: dict, name: str | None = None) -> dict:
    return {"text": f"{_said(record, name)} top-1 on {printable(record['dataset'])}", "rows": record["rows"]}


def _pasted(name: str) -> str:
    """``name`` as one word of a command to paste, without what tables put beside it."""
    return shlex.quote(printable(names.plain(name)))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def which(study: Study) -> dict:
    """Which backbone, and how good is it?"""
    said, evidence, sure = [], [], []
    for dataset in study.datasets:
        best = study.best(dataset)
        if not best:
            continue
        evidence += [_evidence(record) for record in list(best.values())[:4]]
        sure += _sureness(next(iter(best.values())))
        said.append(f"On {printable(dataset)}: {_leader(best, study.compared(dataset))}")
    if any(len(study.best(dataset)) > 1 for dataset in study.datasets):
        sure.append(
            f"{choice.RULE} Paired tests between the backbones, each with its chosen head: McNemar's exact, "
            f"Holm-corrected over all pairs, level {LEVEL}."
        )
    few = [dataset for dataset in study.datasets if len(study.best(dataset)) < 2]
    run = [f"extract --model study --dataset {_pasted(dataset)}" for dataset in few or ()]
    run = run if study.datasets else ["extract --model study --dataset caltech256", "probe --features cache"]
    return _answer(
        "Which backbone should you use, and how good is it?", answer=said, evidence=evidence, sure=sure, run=run
    )


def _leader(best: dict[str, dict], compared: dict[str, dict]) -> str:
    """The backbone that val chose, those that can't be told from it, and the cheapest of them."""
    first, *others = best.values()
    sentence = f"{_said(first)} of {first['n_test']:,} test images right, chosen on val."
    if not others:
        return f"{sentence} No other backbone has been measured there."
    if compared.get(first["named"], {}).get("verdict") != CHOSEN:
        return f"{sentence} No paired test: its predictions, or those of the others on the same images, were not kept."
    by = {
        verdict: [record for record in others if compared.get(record["named"], {}).get("verdict") == verdict]
        for verdict in (NOT_TOLD, WORSE, BETTER)
    }
    if by[BETTER]:
        listed = _listed([printable(record["named"]) for record in by[BETTER]])
        sentence += f" On test {listed} did better than that, by paired tests; val did not show it."
    if alike := by[NOT_TOLD]:
        listed = _listed([printable(record["named"]) for record in alike])
        sentence += f" These images can't tell it from {listed}"
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
            f"{printable(record['dataset'])} has {record['n_test']:,} test images: differences of a few points "
            "can't be told from chance there."
        )
    if record["converged"] is False:
        notes.append(formatting.UNCONVERGED_NOTE)
    return notes


def resolution(study: Study) -> dict:
    """Does what is good at high resolution hold at low resolution?"""
    question = "Does it hold at high and at low resolution?"
    low = [name for name in study.datasets if names.plain(name) in LOW_RESOLUTION and study.best(name)]
    high = [name for name in study.datasets if names.plain(name) not in LOW_RESOLUTION and study.best(name)]
    smaller, shown = _made_smaller(study)
    if not (low and high):
        wanted = [*([] if high else ["caltech256"]), *([] if low else ["cifar100"])]
        run = [f"extract --model study --dataset {name}" for name in wanted]
        return _answer(question, answer=smaller, evidence=shown, run=[*run, "probe --features cache"])
    said, evidence, sure = [], [], []
    a, b = high[0], low[0]
    first, second = study.best(a), study.best(b)
    shared = [name for name in first if name in second]
    sets = printable(a), printable(b)
    if shared:
        tops = [next(name for name in found if name in shared) for found in (first, second)]
        same = tops[0] == tops[1]
        said.append(
            f"Of the {len(shared)} backbones measured on both {sets[0]} and {sets[1]}, val chooses "
            f"{printable(tops[0])} " + ("on either." if same else f"on the one, {printable(tops[1])} on the other.")
        )
        for name in dict.fromkeys(tops):
            evidence += [_evidence(first[name]), _evidence(second[name])]
        note, certain = _agreement([(first[name]["top1"], second[name]["top1"]) for name in shared])
        said += note
        sure += [certain, *_sureness(first[tops[0]]), *_sureness(second[tops[1]])]
    missing = [name for name in (*first, *second) if name not in shared]
    run = [
        f"extract --model {_pasted(name)} --dataset {_pasted(b if name in first else a)}"
        for name in missing
        if "(input x" not in name
    ]
    run += ["probe"] if run else []
    return _answer(question, answer=[*said, *smaller], evidence=[*evidence, *shown], sure=sure, run=run)


def _agreement(pairs: list[tuple[float, float]]) -> tuple[list[str], str]:
    """Of the two orders: what is said, and how sure it is. Kendall's tau, its p exact for few backbones."""
    if len(pairs) < 4:
        return [], f"{len(pairs)} backbone{'s' if len(pairs) > 1 else ''} can't show whether the orders agree."
    from scipy.stats import kendalltau

    found = kendalltau(*zip(*pairs, strict=True))
    verdict = "agree" if found.pvalue < LEVEL and found.statistic > 0 else "can't be shown to agree"
    said = f"The two orders {verdict}: Kendall's tau {found.statistic:.2f}."
    return [said], f"Kendall's tau over {len(pairs)} backbones, p = {found.pvalue:.3f}."


def fine_tuning(study: Study) -> dict:
    """What does fine-tuning add to a probe, and how far does a small network come?"""
    said, evidence, sure, run = [], [], [], []
    for dataset in study.datasets:
        probed, tuned = study.best(dataset), study.best(dataset, stages=("finetune",))
        for name in [name for name in tuned if name in probed][:3]:
            sentence, notes = _gain(study, probed[name], tuned[name])
            said.append(f"On {printable(dataset)}: {sentence}")
            sure += notes
            evidence += [_evidence(probed[name]), _evidence(tuned[name])]
        for record in list(study.best(dataset, stages=("cnn",)).values())[:1]:
            sentence, notes = _scratch(study, record, [*probed.values(), *tuned.values()])
            said.append(f"On {printable(dataset)}, from scratch, {sentence}")
            sure += notes
            evidence.append(_evidence(record))
        if probed and not tuned:
            best = _pasted(next(iter(probed.values()))["model"])
            run.append(f"finetune simple --model {best} --dataset {_pasted(dataset)}")
    if not any(record["stage"] == "cnn" for record in study.records):
        run.append("cnn train --dataset cifar100")
    return _answer("What does fine-tuning add?", answer=said, evidence=evidence, sure=sure, run=run)


def _scratch(study: Study, record: dict, others: list[dict]) -> tuple[str, list[str]]:
    """How the network trained from scratch stands to what val chose of ``others``, and at what cost."""
    row = study.rows[record["rows"][-1]]
    cost = [f"{row['parameters'] / 1e6:.1f} million parameters"] if row.get("parameters") else []
    cost += [f"{row['train_flops'] / 1e15:.2g} PFLOP of training"] if row.get("train_flops") else []
    unchosen = ", which had no val to be chosen on," if record["val_top1"] is None else ""
    sentence = f"{_said(record)}{unchosen}{' with ' if cost else ''}{' and '.join(cost)}"
    if not others:
        return f"{sentence}.", []
    best = min(others, key=choice.order)
    points = 100 * (record["top1"] - best["top1"])
    beside = f"; {_said(best)} is {abs(points):.1f} points {'behind' if points > 0 else 'ahead'}"
    try:
        test = paired(*((study.results_dir, study.rows[one["rows"][-1]]) for one in (record, best)))
    except UserError as error:
        return f"{sentence}{beside}.", [str(error)]
    if test is None:
        return f"{sentence}{beside}, which no paired test backs.", []
    told = "" if test.p < LEVEL else ", which these images can't tell from nothing"
    return f"{sentence}{beside}{told}.", [f"{printable(record['named'])}: McNemar's p = {test.p:.3g}."]


def _gain(study: Study, probed: dict, tuned: dict) -> tuple[str, list[str]]:
    points = 100 * (tuned["top1"] - probed["top1"])
    name, method = printable(tuned["named"]), printable(tuned["method"])
    try:
        test = paired(*((study.results_dir, study.rows[record["rows"][-1]]) for record in (tuned, probed)))
    except UserError as error:
        return f"fine-tuning {name} ({method}) changes top-1 by {points:+.1f} points.", [str(error)]
    if test is None:
        return (
            f"fine-tuning {name} ({method}) changes top-1 by {points:+.1f} points, which no paired test backs.",
            ["Probe and fine-tuning were not measured on the same test images, or their predictions were not kept."],
        )
    ends = f"{100 * test.difference:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}] points"
    told = "" if test.p < LEVEL else ", which these images can't tell from nothing"
    return f"fine-tuning {name} ({method}) changes its probe's top-1 by {ends}{told}.", [
        f"{name}: McNemar's p = {test.p:.3g}."
    ]


def elsewhere(study: Study) -> dict:
    """What survives on images from another source?"""
    said, evidence, sure = [], [], []
    by_target: dict[tuple, list[dict]] = {}
    for record in others.records(study.rows, study.results_dir):
        by_target.setdefault((record["source"], record["target"]), []).append(record)
    for (source, target), found in by_target.items():
        best = found[0]
        name = f"{printable(best['model'])} ({printable(best['method'])})"
        top1, lost = formatting.accuracy(best, "top1"), others.with_ends(best, "drop")
        said.append(
            f"{name} has {100 * best['source_top1']:.1f} % on {printable(source)} and {top1} % on "
            f"{printable(target)}" + (f", a drop of {lost} points." if best["drop_low"] is not None else ".")
        )
        evidence.append({"text": f"{name} on {printable(target)}: {top1} %", "rows": [study.where(best["row"])]})
        if above := [r for r in found if r["effective_robustness"] is not None]:
            most = max(above, key=lambda r: r["effective_robustness"])
            sure.append(
                f"{printable(target)}: furthest above the line of all {len(found)} is "
                f"{printable(most['model'])} ({printable(most['method'])}), by "
                f"{100 * most['effective_robustness']:.1f} points."
            )
    run = [] if by_target else ["finetune generalize --dataset openimages"]
    sure = ["On each target the head is named that the source's val chose; the chart shows all.", *sure]
    if any(found[0]["val_top1"] is None for found in by_target.values()):
        sure.append("Where no top-1 on the source's val is known, the first by name is named.")
    sure = sure if by_target else []
    return _answer("What survives on images from elsewhere?", answer=said, evidence=evidence, sure=sure, run=run)


LOW = 32
"""Pixels on the shorter side at which pictures made smaller are asked about."""


def _made_smaller(study: Study) -> tuple[list[str], list[dict]]:
    """By source: what the head that val chose keeps at ``LOW`` pixels, and of what."""
    by_source: dict[str, list[dict]] = {}
    for row in others.newest(study.rows, corruptions=True):
        if row["corruption"] == "resolution" and row.get("level") == LOW:
            by_source.setdefault(others.pair(row)[0], []).append(row)
    said, evidence = [], []
    for source, rows in by_source.items():
        best = min(rows, key=choice.order)
        name = f"{printable(best['model'])} ({printable(best['method'])})"
        said.append(
            f"On {printable(source)} brought down to {LOW} pixels, {name}, chosen of {len(rows)} on the source's "
            f"val, has {formatting.accuracy(best, 'top1')} % of {100 * best['source_top1']:.1f} %."
        )
        evidence.append(
            {"text": f"{name}, {LOW} pixels: {formatting.accuracy(best, 'top1')} %", "rows": [study.where(best)]}
        )
    return said, evidence
