"""Single heads as the page shows them: classes, confusions, calibration, the most confidently wrong pictures, a map."""

import json
from pathlib import Path

import numpy as np

from backbench.report import choice, formatting, images, inspect_head
from backbench.report.formatting import printable
from backbench.report.study import Study

WORST = 10
"""Classes in the confusion matrix."""

WRONG = 24
"""Most confidently wrong pictures of a head."""

HEADS_BYTES = 3 << 20
"""Most JSON for single heads; the best of each data set come first, the others are left to ``report details``."""

PICTURES_BYTES = 5 << 20
"""Most bytes of thumbnails in a page."""

POINTS = 240_000
"""Points of all maps together, 7 bytes each before base64: 2.2 MB."""

MOST_POINTS = 60_000
"""Points of one map."""

NONE = 65_535
"""In place of a picture's number where a point has none."""


def gather(study: Study, *, cache_dir: Path, data_root: Path, datasets=(), umap=False, per_set=1500) -> dict:
    """``heads``, ``maps`` and ``pictures`` of the page, and ``notes``, what is missing of them and why.

    Pictures are made for the images that heads get most confidently wrong, and then for up to ``per_set`` images of
    each data set, evenly spaced, shared by all its maps. None where ``per_set`` is 0.
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
    notes = [f"No pictures of {printable(name)}: {printable(why)}." for name, why in thumbs.why.items()]
    notes += [printable(fault) for fault in files.faults]
    if any(head["map"] is None and head["extracted"] for head in heads):
        notes.append(
            f"Backbones without a map and pictures: their feature files are not under {printable(cache_dir)}. "
            "Name their folder: report page --cache-dir DIR"
        )
    if not per_set:
        notes.append("Made without pictures (--pictures 0).")
    if left:
        notes.append(f"{left:,} more heads are left out to keep this file small: report details MODEL")
    return notes


def _heads(study: Study, files: images.Files) -> tuple[list[dict], int]:
    """The heads that have room, best of each data set first, and how many have none."""
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
        "map": images.identity_of(row) if path else None,
        "extracted": row["stage"] == "probe",
        **_wrong(content, names, files.tested.get((content["dataset_digest"], content["ids_digest"]))),
    }


def _matrix(content: dict, names: list[str]) -> dict:
    """Test images of the worst classes by what they were taken for: those classes, and all others together."""
    labels, predicted = np.array(content["labels"]), np.array(content["predicted"])
    missed = np.bincount(labels[labels != predicted], minlength=len(names))
    worst = [int(k) for k in np.argsort(-missed, kind="stable")[:WORST] if missed[k]]
    counts = []
    for k in worst:
        said = np.bincount(predicted[labels == k], minlength=len(names))
        counts.append([*(int(said[j]) for j in worst), int(said.sum() - said[worst].sum())])
    return {"names": [names[k] for k in worst], "counts": counts}


def _wrong(content: dict, names: list[str], tested: tuple[dict, list[str]] | None) -> dict:
    """The ``WRONG`` test images that the head is surest of and wrong about, surest first; or why there are none.

    ``tested`` are an identity and the names of the test images, of whatever feature file holds the same ones.
    """
    if "confidence" not in content:
        return {"wrong": [], "of": None, "why": "How sure the head is was not kept. Run probe again."}
    ids = tested[1] if tested else None
    sure, labels, said = content["confidence"], content["labels"], content["predicted"]
    wrong = [i for i in range(len(labels)) if labels[i] != said[i]]
    wrong = sorted(wrong, key=lambda i: -sure[i])[:WRONG]
    found = [
        {"id": ids[i] if ids else "", "is": names[labels[i]], "said": names[said[i]], "sure": sure[i]} for i in wrong
    ]
    identity = tested[0] if tested else None
    return {"wrong": found, "of": identity, "why": "" if wrong else "No test image is taken for another class."}


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
