"""The commands that use what was chosen on new images, to be shown below tables and on the page.

Rows may come from a stranger. A head is therefore looked for by its row's id in ``heads``, and nothing of a row is made
a word of a command but a path, a name and a seed, each quoted.
"""

import glob
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

from backbench import UserError
from backbench import rows as result_rows
from backbench.cache.arrays import MADE_BY_USER
from backbench.decisions import AUDITED
from backbench.probe import METHODS, head, study
from backbench.progress import tell
from backbench.report import choice, compare, formatting, names, table
from backbench.report.formatting import printable

HEADS = Path("heads")
"""The folder in which ``probe --save`` keeps heads, in every example."""

IMAGES = "IMAGES"
"""Stands for the user's images in a command."""

SEED = 42
"""The seed that the commands take where none is given."""


def nothing_yet(results_dir: Path, *, extracted: bool) -> str:
    """Return the sentence and the commands for a folder without accuracies."""
    where = "" if results_dir == Path("results") else f" --results-dir {shlex.quote(str(results_dir))}"
    commands = [] if extracted else [f"extract --model mobilenetv2_100 --dataset digits{where}"]
    commands.append(f"probe --features cache{where}")
    return "\n  ".join([f"{results_dir} holds no accuracies yet. Run, for example:", *commands])


def tell_after(form: str, lines_of: Callable, *given) -> None:
    """Say below a table on a ``terminal`` the lines that ``lines_of`` makes of what it was ``given``."""
    if form == "terminal" and (lines := lines_of(*given)):
        tell("\n".join(["", *lines]))


def of_table(rows: list[dict], results_dir: Path) -> list[str]:
    """Return lines of advice for each data set of ``rows``, as ``rows.read`` gives them, that has a chosen head."""
    frame = table.tidy(rows, origins=True)
    by_dataset: dict[str, list[dict]] = {}
    for record in table.records(frame):
        if record["rows"] and record["top1"] is not None and not choice.FEW.search(record["method"]):
            by_dataset.setdefault(record["dataset"], []).append(record)
    chosen = ((dataset, choice.chosen(found)) for dataset, found in by_dataset.items())
    return _lines((name, advice([rows[i] for i in one["rows"]], name, results_dir)) for name, one in chosen if one)


def of_comparison(records: list[dict], rows: list[dict], results_dir: Path) -> list[str]:
    """Return lines of advice for each data set that ``report.compare`` chose a head on, from its ``records``."""
    told, found = names.told_apart(rows), []
    for one in records:
        if one["verdict"] == compare.CHOSEN:
            keys = ("dataset", "model", "method", "seed", "created")
            its = [row for row, named in zip(rows, told, strict=True) if all(named[key] == one[key] for key in keys)]
            found.append((one["dataset"], advice(its, one["dataset"], results_dir)))
    return _lines(found)


def _lines(found: Iterable[tuple[str, list[str]]]) -> list[str]:
    lines = []
    for dataset, commands in found:
        if commands:
            stored = "" if len(commands) == 1 else ", store it first"
            lines.append(f"To classify new images with what was chosen on {printable(dataset)}{stored}:")
            lines += [f"  {command}" for command in commands]
    return lines


def advice(rows: list[dict], dataset: str, results_dir: Path) -> list[str]:
    """Return the commands that use the head of ``rows``, one thing measured at one or more seeds, oldest first.

    That is one command where a head of these is kept in ``heads`` or the run is there, and before it the command that
    keeps the head where its feature file is there. Otherwise there is none. With folds and for features of one's own
    there is none either, nor for a head that isn't kept where ``audit.csv`` changed the data set: a row doesn't say
    where that file lies.
    """
    if formatting.FOLDED.search(dataset):
        return []
    found = [_tuned(row) if row["stage"] != "probe" else _probed(row, results_dir) for row in reversed(rows)]
    return min(filter(None, found), key=len, default=[])


def _probed(row: dict, results_dir: Path) -> list[str]:
    features = row["features"] or {}
    path, method, set_ = Path(str(features.get("path") or "")), row["method"], result_rows.plain(row.get("settings"))
    weights = str(features.get("weights"))
    if not path.name or weights == MADE_BY_USER or method not in METHODS or row.get("shots") is not None:
        return []
    option = f" --weights {_word('PATH-OF-' + weights[5:])}" if weights.startswith("file ") else ""
    option = " --weights ITS-RUN" if weights.startswith("tuned on ") else option
    for root in dict.fromkeys([HEADS, Path(results_dir).parent / HEADS]):
        usual = study.usual_place(root, path, method)
        for place in sorted(usual.parent.glob(f"{glob.escape(usual.name)}*/{head.ABOUT}")):
            if _same(place.parent, row):
                return [f"backbench predict {_word(place.parent)} {IMAGES}{option}"]
    set_ = {key: value for key, value in (set_ or {}).items() if value not in (None, "none")}
    if not path.is_file() or not set_.keys() <= {"class_weight"} or AUDITED in features:
        return []
    words = ["probe --features", _word(path), "--method", method, "--save", str(HEADS)]
    words += ["--seed", str(int(row["seed"]))] if row["seed"] != SEED else []
    words += ["--class-weight", _word(set_["class_weight"])] if set_ else []
    words += ["--results-dir", _word(results_dir)] if Path(results_dir) != Path("results") else []
    place = study.free_place(study.usual_place(HEADS, path, method), row)
    return [" ".join(words), f"backbench predict {_word(place)} {IMAGES}{option}"]


def _same(folder: Path, row: dict) -> bool:
    """Whether the head in a folder is the one that ``row`` was measured with."""
    try:
        there = head.load(folder).row
        return result_rows.identified(there)["id"] == result_rows.identified(row)["id"]
    except UserError:
        return False


def _tuned(row: dict) -> list[str]:
    """The command for the run of a fine-tuned backbone or of the CNN, where it is there."""
    from backbench.training import checkpoint

    folder = Path(str((row["features"] or {}).get("path") or ""))
    try:
        there = checkpoint.read_about(folder)["row"]
    except UserError:
        return []
    same = there and result_rows.identified(there)["id"] == result_rows.identified(row)["id"]
    return [f"backbench predict {_word(folder)} {IMAGES}"] if same else []


def _word(text) -> str:
    """Return ``text`` as one word of a command that prints."""
    return printable(shlex.quote(str(text)))
