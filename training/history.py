"""The history of a run, as a table and as a plot."""

import csv
import io
from pathlib import Path

from backbench import UserError
from backbench.files import write_whole

LINES = {"val_top1_tuned": "val", "val_top1_ema": "val, EMA"}


def write(folder: Path, history: list[dict]) -> None:
    """Write ``history.csv``, with one line for each epoch and epoch 0 for the start, and the plot ``history.png``.

    Raises UserError where they can't be written.
    """
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO()
    lines = csv.DictWriter(text, columns, lineterminator="\n")
    lines.writeheader()
    lines.writerows(history)
    try:
        write_whole(folder / "history.csv", text.getvalue().encode())
        write_whole(folder / "history.png", _plot(history))
    except OSError as error:
        raise UserError(
            f"the history can't be written to {folder}: {error.strerror}. Make room there and run the same command "
            "again; the training is kept."
        ) from error


def _plot(history: list[dict]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    _line(left, epochs, history, "train_loss", "train, augmented")
    for name, label in (("val_nll_tuned", "val, best temperature"), ("val_nll_ema", "val, EMA, best temperature")):
        _line(left, epochs, history, name, label)
    for name, label in LINES.items():
        _line(right, epochs, history, name, label, factor=100)
    left.set(xlabel="epoch", ylabel="cross-entropy")
    right.set(xlabel="epoch", ylabel="top-1 %")
    for axis in (left, right):
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    room = io.BytesIO()
    figure.savefig(room, format="png", dpi=120)
    return room.getvalue()


def _line(axis, epochs, history, name, label, *, factor=1):
    points = [(e, factor * row[name]) for e, row in zip(epochs, history, strict=True) if row.get(name) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), marker=".", label=label)
