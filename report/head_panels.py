"""Single heads for the page: classes, confusions, calibration, the most confident errors and a map of the features."""

import json
from pathlib import Path

import numpy as np

from backbench.report import choice, formatting, images, inspect_head
from backbench.report.formatting import printable
from backbench.report.study import Study

WORST = 10
"""Largest number of classes in the confusion matrix."""

WRONG = 24
"""Largest number of errors shown for a head."""

LEAST = 3
"""Largest number of least covered classes named for a head."""

HEADS_BYTES = 3 << 20
"""Largest size of the JSON for single heads. Heads beyond it are left out, and ``report details`` shows them."""

PICTURES_BYTES = 5 << 20
"""Largest size of all thumbnails in a page."""

POINTS = 240_000
"""Largest number of points in all maps together. Each takes 7 bytes before base64, so that all take 2.2 MB."""

MOST_POINTS = 60_000
"""Largest number of points in one map."""

NONE = 65_535
"""The number that stands for a missing thumbnail."""


def gather(study: Study, *, cache_dir: Path, data_root: Path, datasets=(), umap=False, per_set=1500) -> dict:
    """Return ``heads``, ``maps`` and ``pictures`` (thumbnails) for the page, and ``notes`` on what is missing and why.

    Thumbnails are made first for the most confident errors of the heads. Then up to ``per_set`` evenly spaced images of
    each data set follow, which all its maps share. There are none where ``per_set`` is 0.
    """
    files = images.Files(cache_dir)
    thumbs = images.Thumbnails(data_root, datasets, budget=PICTURES_BYTES if per_set else 0)
    heads, left = _heads(study, files)
    paths = {head["map"]: files.found[head["map"]] for head in heads if head["map"] in files.found}
    most = min(MOST_POINTS, POINTS // max(1, len(paths)))
    maps = {}
    for name, path in paths.items():
        try:
            maps[name] = images.feature_map(path, most=most, umap=umap)
        except images.features.FeatureFileError as error:  # a damaged file costs its map, not the page
            files.faults.append(str(error))
    if per_set:
        _illustrate(study, heads, maps, thumbs, per_set)
    named = {dataset: {name: i for i, name in enumerate(made)} for dataset, made in thumbs.made.items()}
    numbers = {name: f"m{i}" for i, name in enumerate(maps)}
    shown = {numbers[name]: _shown(found, named.get(found["dataset"], {})) for name, found in maps.items()}
    for head in heads:
        head["map"] = numbers.get(head["map"])
        there = named.get(head["key"][0], {})
        for wrong in head["wrong"]:
            wrong["picture"] = there.get(wrong["id"], NONE)
            wrong["id"] = printable(wrong["id"])
        head["dataset"] = printable(head.pop("key")[0])
        head.pop("of")
    return {
        "heads": heads,
        "maps": shown,
        "pictures": {
            printable(dataset): {"names": list(map(printable, made)), "uris": list(made.values())}
            for dataset, made in thumbs.made.items()
        },
        "notes": _notes(heads, left, files, thumbs, cache_dir, per_set),
    }


def _notes(heads, left, files, thumbs, cache_dir, per_set) -> list[str]:
    notes = [f"There are no images of {printable(name)}: {printable(why)}." for name, why in thumbs.why.items()]
    notes += [printable(fault) for fault in files.faults]
    if any(head["map"] is None and head["extracted"] for head in heads):
        notes.append(
            "Some backbones have no map and no images, since their feature files are not under "
            f"{printable(cache_dir)}. Name their folder: report page --cache-dir DIR"
        )
    if not per_set:
        notes.append("This page was made without images (--pictures 0).")
    if left:
        notes.append(f"{left:,} more heads are left out to keep this file small. To see one: report details MODEL")
    return notes


def _heads(study: Study, files: images.Files) -> tuple[list[dict], int]:
    """Return the heads that fit, with the first of each data set in front, and the number of heads left out."""
    order = sorted(study.heads, key=lambda key: (*choice.order(study.heads[key]), key))
    there = {key[0] for key in order}
    firsts = [next(key for key in order if key[0] == dataset) for dataset in study.datasets if dataset in there]
    found, size = [], 0
    for n, key in enumerate([*firsts, *(key for key in order if key not in firsts)]):
        content = study.details(key)
        if content is None:
            continue
        found.append(_head(study, key, content, files))
        size += len(json.dumps(found[-1]))
        if size > HEADS_BYTES:
            return found, len(order) - n - 1
    return found, 0


def _head(study: Study, key: tuple, content: dict, files: images.Files) -> dict:
    row = study.heads[key]
    looked = inspect_head.look(row, study.results_dir, content)
    path = files.of(row)
    names = list(map(printable, content["class_names"]))
    bins = looked["calibration"].pop("bins")
    return {
        "key": key,
        "model": printable(key[1]),
        "method": printable(key[2]),
        "row": study.where(row),
        "top1": formatting.accuracy(row, "top1"),
        "n": looked["n_test"],
        "classes": [
            [
                printable(one["name"]),
                one["n"],
                *(round(one[f"accuracy{end}"], 4) for end in ("", "_low", "_high")),
            ]
            for one in looked["classes"]
        ],
        "matrix": _matrix(content, names),
        "calibration": looked["calibration"],
        "bins": bins,
        "sets": inspect_head.set_lines(looked),
        "least": _least(looked),
        "map": images.identity_of(row) if path else None,
        "extracted": row["stage"] == "probe",
        **_wrong(content, names, files.tested.get((content["dataset_digest"], content["ids_digest"]))),
    }


def _least(looked: dict) -> str:
    """Return a sentence that names the least covered classes, or "" where all are covered as often as asked for."""
    key, name = f"coverage_{inspect_head.LEAST}", formatting.set_name(inspect_head.LEAST)
    worst = [f"{printable(one['name'])} ({100 * one[key]:.1f} %)" for one in inspect_head.least_covered(looked)[:LEAST]]
    return f"Least covered by {name}: {', '.join(worst)}." if worst else ""


def _matrix(content: dict, names: list[str]) -> dict:
    """Count the test images of the worst classes by predicted class: each of these classes, and all others together."""
    labels, predicted = np.array(content["labels"]), np.array(content["predicted"])
    missed = np.bincount(labels[labels != predicted], minlength=len(names))
    worst = [int(k) for k in np.argsort(-missed, kind="stable")[:WORST] if missed[k]]
    counts = []
    for k in worst:
        found = np.bincount(predicted[labels == k], minlength=len(names))
        counts.append([*(int(found[j]) for j in worst), int(found.sum() - found[worst].sum())])
    return {"names": [names[k] for k in worst], "counts": counts}


def _wrong(content: dict, names: list[str], tested: tuple[dict, list[str]] | None) -> dict:
    """Return the ``WRONG`` most confident errors, the most confident first, or the reason why there are none.

    ``tested`` is the identity of any feature file with the same test images, and their names.
    """
    if "confidence" not in content:
        return {"wrong": [], "of": None, "why": "The head's confidence was not stored. Run probe again."}
    ids = tested[1] if tested else None
    confidence, labels, predicted = content["confidence"], content["labels"], content["predicted"]
    wrong = [i for i in range(len(labels)) if labels[i] != predicted[i]]
    wrong = sorted(wrong, key=lambda i: -confidence[i])[:WRONG]
    found = [
        {
            "id": ids[i] if ids else "",
            "is": names[labels[i]],
            "said": names[predicted[i]],
            "sure": confidence[i],
        }
        for i in wrong
    ]
    identity = tested[0] if tested else None
    return {"wrong": found, "of": identity, "why": "" if wrong else "There are no errors on the test images."}


def _illustrate(study: Study, heads: list[dict], maps: dict, thumbs: images.Thumbnails, per_set: int) -> None:
    by_set: dict[str, list] = {}
    for head in heads:
        if head["of"]:
            thumbs.add(head["of"], [wrong["id"] for wrong in head["wrong"]])
        if head["map"] in maps:
            identity = study.heads[head["key"]]["features"]
            by_set.setdefault(identity["dataset"], []).append((identity, maps[head["map"]]["ids"]))
    rooms = len(by_set)
    for listed in by_set.values():
        identity, ids = max(listed, key=lambda pair: len(pair[1]))
        step = max(1, len(ids) / per_set)
        budget, thumbs.left = thumbs.left, thumbs.left // rooms
        share = thumbs.left
        thumbs.add(identity, [ids[int(i * step)] for i in range(min(per_set, len(ids)))])
        thumbs.left = budget - (share - thumbs.left)
        rooms -= 1


def _shown(found: dict, named: dict[str, int]) -> dict:
    numbers = np.array([min(named.get(name, NONE), NONE) for name in found["ids"]])
    return images.packed(found, numbers) | {"classes": list(map(printable, found["classes"]))}
