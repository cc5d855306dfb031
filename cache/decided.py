"""A feature file as ``audit.csv`` corrects it: some rows are left out and some have another label. No byte changes."""

import copy
import hashlib
import json
import re

import numpy as np

from backbench.cache import schema
from backbench.decisions import AUDITED, Applied, Decisions
from backbench.split_rule import TEST


def decided(file, decisions: Decisions | None):
    """Return an open feature file, or features in memory, as ``decisions`` make it. ``file`` itself stays as it was.

    Rows that are left out are marked ``schema.LEFT_OUT`` and in no split. The digests of the identity are computed
    again, and are those that ``extract`` would find for these images. The identity says what was applied, under
    ``decisions.AUDITED``. Where nothing changes, it is ``file``.

    Raises UserError, with all faults at once, for decisions that don't fit the file.
    """
    if decisions is None:
        return file
    ids = images(file)
    applied = decisions.apply(ids, file.labels, file.class_names, to=str(file.path))
    if not (applied.n_left_out or applied.n_relabelled):
        return file
    made = copy.copy(file)
    vars(made).pop("equal", None)  # it was computed with the rows that are left out now
    made.labels = applied.labels
    made.split = np.where(applied.keep, file.split, schema.NO_SPLIT).astype(np.int8)
    made.done = np.where(applied.keep, file.done, schema.LEFT_OUT).astype(np.uint8)
    about = {AUDITED: applied.about(file.identity.get("dataset_digest"))}
    made.identity = {**file.identity, **_digests(file, ids, applied), **about}
    return made


def note(file, decisions: Decisions) -> str:
    """Return the sentence for people about what was applied to a file that ``decided`` returned."""
    about = file.identity.get(AUDITED) or {}
    return decisions.note(about.get("left_out", 0), about.get("relabelled", 0))


def images(file) -> list[str]:
    """Return the id of the image of each row, (N,). Rows of several views have their image's id and ``#1``."""
    if not str(file.identity.get("views") or "").startswith("rows"):
        return file.ids
    known = set(file.ids)
    found = (re.fullmatch(r"(.+)#\d+", id, re.DOTALL) for id in file.ids)
    return [one[1] if one and one[1] in known else id for id, one in zip(file.ids, found, strict=True)]


def _digests(file, ids: list[str], applied: Applied) -> dict[str, str]:
    """Return the digests of what is left, by the images' contents where the file's own digests are made of these."""
    old = {key: file.identity[key] for key in schema.DIGESTS if file.identity.get(key)}
    told = {"ids": file.ids, "labels": file.labels, "split": file.split}
    if (contents := getattr(file, "contents", None)) is not None:
        whole = schema.image_digests(contents, **told, class_names=file.class_names)
        if whole == old:
            told |= {"labels": applied.labels, "contents": contents}
            kept = {key: np.asarray(value)[applied.keep] for key, value in told.items()}
            return schema.image_digests(**kept, class_names=file.class_names)
    # Of arrays, and in files of earlier versions, digests are made of other things: they and the changes make new ones.
    rows = np.flatnonzero(~applied.keep | (applied.labels != file.labels))
    changes = {
        (ids[i], file.class_names[applied.labels[i]] if applied.keep[i] else None, int(file.split[i]) == TEST)
        for i in rows
    }
    made = {}
    for key, digest in old.items():
        some = sorted(change[:2] for change in changes if change[2] or key != "test_digest")
        made[key] = hashlib.sha256(json.dumps([digest, some]).encode()).hexdigest() if some else digest
    return made
