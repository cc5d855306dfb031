"""What was trained as files for other programs: they are written, checked against our own scores, and then named."""

import contextlib
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

from backbench import Faults, UserError, identity, rows
from backbench.export import card, graph, hub, network, origin, sample, timm_model
from backbench.predict import find
from backbench.probe import head
from backbench.progress import step
from backbench.training import checkpoint, onnx

SCRIPT = "classify.py"

FILES = (timm_model.TENSORS, timm_model.CONFIG, onnx.FILE, SCRIPT, card.FILE)
"""All that may be written."""

AGREE = 1e-4
"""Largest difference of a probability from our own scores, in float32. Rounding leaves 1e-5 at most."""


def run(
    path: Path, out: Path, *, push: str | None = None, private: bool = False, overwrite: bool = False,
    trust: bool = False, weights: Path | None = None, dataset: str | None = None,
    data_root: Path = Path("data/raw"), results_dir: Path = Path("results"),
) -> dict:  # fmt: skip
    """Write the head or the checkpoint at ``path`` into the folder ``out``, and give what was written, as plain JSON.

    ``trust`` and ``weights`` are those of ``predictors.Predictor``. ``dataset`` names the images that the files are
    checked on, see ``sample.images``. With ``push`` the files are uploaded to that repository. Raises UserError where
    no file can be made, where one says something else than our own scores, and where ``out`` holds other files; nothing
    is written then.
    """
    started, faults = time.monotonic(), Faults()
    with faults.collect():
        check_out(out, overwrite=overwrite)
    with faults.collect():
        onnx.check_packages("export")
    if push:
        with faults.collect():
            hub.check(push)
    with faults.collect():
        predictor = find.at(path)
    faults.stop()
    given = network.trained(replace(predictor, trust=trust, weights=weights))
    images = sample.images(given, dataset=dataset, data_root=data_root)
    new = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.new")
    try:
        new.mkdir(parents=True)
        with step("writing the files and comparing what they say", usually="5 to 30 s"):
            told = _written(given, new, images, push, _elsewhere(given.predictor.row, results_dir))
        _move(new, out, told.files)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{out} can't be written: {reason}. Make room there, or name another folder.") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return {
        "out": str(out),
        "files": {name: (out / name).stat().st_size for name in told.files},
        "left_out": told.left_out,
        "checked_on": told.images,
        "difference": told.differences,
        "tolerance": AGREE,
        "pushed": hub.push(out, push, told.files, private=private) if push else None,
        "seconds": round(time.monotonic() - started, 1),
    }


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raise UserError where ``out`` is no folder, is a head's or a run's own, or holds files and is not to be."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file. Name a folder.")
    there = sorted(one.name for one in out.iterdir()) if out.exists() else []
    if {head.ABOUT, checkpoint.ABOUT} & {*there}:
        raise UserError(f"--out {out} holds a head or a run itself. Name another folder.")
    if there and not overwrite:
        more = f" and {len(there) - 5} more" if len(there) > 5 else ""
        raise UserError(
            f"--out {out} holds {', '.join(there[:5])}{more}. Name another folder; or --overwrite replaces what export "
            "writes, and leaves other files."
        )


def _written(given, new: Path, images: sample.Images, push, elsewhere: list[dict]) -> card.Told:
    """Write all files into the folder ``new``. Raises UserError where one says something else than our own scores."""
    pixels, ours = images.pixels, given.probabilities(images.pixels)
    source, differences, left_out = origin.of(given.predictor), {}, {}
    try:
        timm_model.write(given, new)
        differences[timm_model.TENSORS] = timm_model.difference(given, new, pixels, ours)
    except timm_model.NoForm as error:
        left_out[timm_model.TENSORS] = "; ".join(error.faults)
    try:
        session = graph.write(given, new / onnx.FILE, source)
        differences[onnx.FILE] = graph.difference(session, pixels, ours)
        if reason := graph.no_script(given.backbone.config):
            left_out[SCRIPT] = reason
        else:
            shutil.copyfile(Path(__file__).with_name(SCRIPT), new / SCRIPT)
    except onnx.NoGraph as error:
        left_out[onnx.FILE] = error.reason
    if not differences:
        raise UserError(*(f"{given.predictor.folder}: no {name}, since {why}." for name, why in left_out.items()))
    if wrong := {name: value for name, value in differences.items() if not value <= AGREE}:
        raise UserError(
            *(
                f"{name} gives other probabilities than backbench, by up to {value:.2g} on {images.said}, where "
                f"{AGREE:g} is allowed, so nothing was written."
                for name, value in wrong.items()
            )
        )
    files = [name for name in FILES if (new / name).exists() or name == card.FILE]
    told = card.Told(source, files, differences, images.said, left_out, push, elsewhere)
    (new / card.FILE).write_text(card.text(given, told), encoding="utf-8")
    return told


def _elsewhere(row: dict, results_dir: Path) -> list[dict]:
    """Return the newest rows of ``generalize`` that measured this model, by target and corruption."""
    with contextlib.suppress(KeyError, TypeError, AttributeError):  # a row that no version wrote
        key, found = identity.key(row), {}
        for one in rows.read(results_dir):
            if one["stage"] == "generalize" and one.get("trained_key") == key:
                found[one["dataset"], one.get("corruption"), one.get("strength")] = one
        return list(found.values())
    return []


def _move(new: Path, out: Path, files: list[str]) -> None:
    """Give the files in ``new`` their names in ``out``, when they are on disk. Raises OSError."""
    for name in files:
        (new / name).chmod((new / card.FILE).stat().st_mode)  # safetensors' own may be read by nobody else
        with (new / name).open("rb") as file:
            os.fsync(file.fileno())
    if not out.exists():
        new.rename(out)
        return
    for name in FILES:
        if name in files:
            os.replace(new / name, out / name)
        else:
            (out / name).unlink(missing_ok=True)
