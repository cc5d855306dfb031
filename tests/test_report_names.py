"""Rows followed from the command to the table: what measured different things is never merged, and is told apart."""

import csv
import io
import json
from collections import Counter

import numpy as np
import pytest
import timm
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import backbench.extract.cli
import backbench.probe.cli
from backbench import identity, rows
from backbench.probe import head
from backbench.report import cli, compare, names, table
from tests.conftest import IDENTITY
from tests.test_probe_cli import toy
from tests.test_report_table import row as table_row

MODEL = "test_resnet"


def images(folder, *, hue=0):
    """Three classes of twelve pictures, told apart by their colour."""
    rng = np.random.default_rng(hue)
    for k, name in enumerate(("ant", "bee", "cat")):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 200, (32, 32, 3), dtype=np.uint8)
            pixels[..., (k + hue) % 3] = 250
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


class Commands:
    """Commands run in this process, with one results folder; ``cache`` is a folder of its own for each extraction."""

    def __init__(self, place):
        self.place, self.results = place, place / "results"

    def run(self, main, *words):
        result = CliRunner().invoke(main, [*map(str, words), "--results-dir", str(self.results)])
        assert result.exit_code == 0, result.output
        return result

    def extract(self, cache, dataset, *words):
        how = ("--precision", "float32", "--compile", "off", "--batch-size", 16, "--cache-dir", self.place / cache)
        self.run(backbench.extract.cli.main, "--model", MODEL, "--dataset", f"folder:{dataset}", *how, *words)

    def probe(self, features, *words):
        method = () if "--method" in words else ("--method", "centroid")
        place = self.place / features
        return json.loads(self.run(backbench.probe.cli.main, "--features", place, "--json", *method, *words).stdout)

    def table(self):
        """top1 and seeds by (data set, backbone, method)."""
        lines = csv.DictReader(io.StringIO(self.run(cli.main, "table", "--format", "csv").stdout))
        return {(r["dataset"], r["model"], r["method"]): (float(r["top1"]), int(r["seeds"])) for r in lines}


@pytest.fixture
def commands(tmp_path):
    return Commands(tmp_path)


def test_random_weights_never_replace_trained_ones_and_seeds_are_averaged_among_equals(commands, tmp_path):
    shown, weights = images(tmp_path / "images"), tmp_path / "trained.safetensors"
    save_file(timm.create_model(MODEL, num_classes=0).state_dict(), weights)
    tops = {}
    for name, given_weights, seed in (
        ("trained", weights, 42), ("random", "random", 42), ("trained", weights, 43), ("random", "random", 44),
    ):  # fmt: skip
        cache = f"{name}-{seed}"
        commands.extract(cache, shown, "--weights", given_weights, "--seed", seed)
        (row,) = commands.probe(cache, "--seed", seed)
        tops.setdefault(name, []).append(row["top1"])
    assert len({row["features"]["dataset_digest"] for row in rows.read(commands.results)}) == 3  # other splits
    assert commands.table() == {
        ("folder-images", MODEL, "centroid"): (pytest.approx(np.mean(tops["trained"])), 2),
        ("folder-images", f"{MODEL} (weights random)", "centroid"): (pytest.approx(np.mean(tops["random"])), 2),
    }
    shown = commands.run(cli.main, "table", "--format", "md").stdout
    assert names.NOTE in shown


def test_two_folders_of_one_name_never_share_a_column(commands, tmp_path):
    for place, hue in (("a", 0), ("b", 1)):
        commands.extract(place, images(tmp_path / place / "images", hue=hue), "--weights", "random")
        commands.probe(place)
    first, second = ((tmp_path / place / "folder-images").glob("*.h5") for place in "ab")
    assert [path.name for path in first] == [path.name for path in second]
    found = commands.table()
    assert len(found) == 2
    assert ("folder-images", f"{MODEL} (weights random)", "centroid") in found
    (other,) = {dataset for dataset, *_ in found} - {"folder-images"}
    digest = rows.read(commands.results)[-1]["features"]["images_digest"]
    assert other == f"folder-images (2: {digest[:4]})"
    done = CliRunner().invoke(cli.main, ["compare", "--results-dir", str(commands.results)])
    assert "holds no two heads" in done.stderr  # each is alone on its images


def test_settings_stand_beside_each_other_and_the_newest_of_each_counts(commands, tmp_path):
    toy(tmp_path / "a.h5", spread=6.0)
    how = ("--method", "logistic")
    commands.probe("a.h5", *how)
    (plain,) = commands.probe("a.h5", *how, "--intervals", "bootstrap")
    (balanced,) = commands.probe("a.h5", *how, "--class-weight", "balanced")
    found = commands.table()
    assert found["toy", "resnet18", "logistic"] == (plain["top1"], 1)
    assert found["toy", "resnet18", "logistic (class_weight balanced)"] == (balanced["top1"], 1)
    assert len(found) == 2
    compared = json.loads(commands.run(cli.main, "compare", "--json").stdout)
    assert {one["method"] for one in compared} == {method for *_, method in found}


def test_rows_without_settings_are_renewed_by_rows_with_them(commands, tmp_path):
    """As they were before: without ``settings``, and without the digest of the images."""
    toy(tmp_path / "a.h5", spread=6.0)
    (made,) = commands.probe("a.h5", "--method", "logistic")
    old = {key: value for key, value in made.items() if key not in ("settings", "id")}
    old |= {"created": "2026-01-01", "top1": 0.125}
    (commands.results / rows.FILE).unlink()
    rows.append(commands.results, old)
    rows.append(commands.results, old | {"protocol": old["protocol"] | {"class_weight": "balanced"}, "top1": 0.25})
    rows.append(
        commands.results, old | {"protocol": old["protocol"] | {"C": 7.0}, "top1": 0.5, "created": "2026-01-02"}
    )
    name = made["method"]
    assert {method: top1 for (*_, method), (top1, _) in commands.table().items()} == {
        name: 0.5, f"{name} (class_weight balanced)": 0.25,
    }  # fmt: skip
    rows.append(commands.results, made)
    assert commands.table()["toy", "resnet18", name] == (made["top1"], 1)


def test_a_saved_head_is_never_lost_to_another_of_its_name(commands, tmp_path):
    (tmp_path / "a" / "set").mkdir(parents=True)
    (tmp_path / "b" / "set").mkdir(parents=True)
    toy(tmp_path / "a" / "set" / "net.h5", spread=4.0)
    toy(tmp_path / "b" / "set" / "net.h5", spread=4.0, seed=5, identity=IDENTITY | {"dataset_digest": "e" * 64})
    heads = tmp_path / "heads"
    commands.probe("[ab]/set/*.h5", "--save", heads)
    commands.probe("a", "--save", heads, "--method", "logistic", "--class-weight", "balanced")
    kept = {path.name: head.load(path) for path in (heads / "set").iterdir()}
    assert len(kept) == 3
    assert Counter(one.method for one in kept.values()) == {"centroid": 2, "logistic": 1}
    assert {one.identity["dataset_digest"] for one in kept.values()} == {"d" * 64, "e" * 64}
    done = commands.run(backbench.probe.cli.main, "--features", tmp_path / "a", "--method", "logistic", "--save", heads)
    assert "holds the head of another measurement" in done.stderr
    assert len(list((heads / "set").iterdir())) == 4
    # The same thing measured again takes its own place, wherever that is.
    commands.probe("[ab]/set/*.h5", "--save", heads)
    assert len(list((heads / "set").iterdir())) == 4


def test_no_row_of_a_stranger_can_say_what_it_is(tmp_path):
    liar = table_row("net", "d", 0.9) | {"key": "k", "written": {"dataset": "e"}, "shown": 1}
    rows.append(tmp_path, liar)
    (found,) = names.told_apart(rows.read(tmp_path))
    assert (found["dataset"], found["key"]) == ("d", identity.key(liar))


def test_few_shots_stand_behind_all_others_since_their_val_is_as_small():
    found = [table_row("net", "d", 0.5, val_top1=0.6), table_row("net", "d", 0.4, val_top1=1.0, shots=1)]
    _, lines = table.lay_out(table.tidy(found))
    assert [method for _, method, _ in lines] == ["logistic", "logistic, 1 shot"]


def test_val_chooses_in_the_table_the_tests_and_the_answers(tmp_path):
    from backbench.report import study, summary
    from tests.test_backbench_details import save
    from tests.test_report_compare import head as told
    from tests.test_report_compare import said

    # Of 40 images lucky has all, steady 38; on val it is the other way round.
    save(tmp_path, told("lucky", said()), val_top1=0.7, n_test=40)
    save(tmp_path, told("steady", said(0, 1)), val_top1=0.9, n_test=40)
    save(tmp_path, told("steady", said(0), method="published"), val_top1=0.99, n_test=40)
    read = study.load(tmp_path)
    (sentence,) = summary.which(read)["answer"]
    assert sentence.startswith("On d: steady (logistic): 95.0")
    _, lines = table.lay_out(read.frame)
    assert [(model, method) for model, method, _ in lines] == [
        ("steady", "published"), ("steady", "logistic"), ("lucky", "logistic"),
    ]  # fmt: skip
    found = compare.compare(read.rows, tmp_path)
    assert {(one["model"], one["method"]): one["verdict"] for one in found} == {
        ("steady", "published"): compare.NOT_TOLD,
        ("steady", "logistic"): compare.CHOSEN,
        ("lucky", "logistic"): compare.NOT_TOLD,
    }
    assert [one["difference"] for one in found if one["model"] == "lucky"] == [pytest.approx(0.05)]


def test_what_has_no_val_comes_last_and_is_not_chosen(tmp_path):
    from backbench.report import choice

    usual = table_row("cnn", "d", 0.99, val_top1=None)
    probed = table_row("net", "d", 0.5)
    assert sorted([usual, probed], key=choice.order) == [probed, usual]
    assert choice.chosen([usual]) is None
    assert choice.chosen([usual, probed]) is probed


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["random, seed 1", "random, seed 2", "a", "b"]),
            st.sampled_from([None, 1, 2]),
            st.sampled_from(["x", "y"]),
            st.sampled_from(["float32", "bfloat16", None]),
            st.sampled_from(["probe", "finetune"]),
            st.integers(1, 2),
        ),
        max_size=12,
    )
)
def test_names_are_equal_only_for_the_same_thing(made):
    found = []
    for weights, setting, digest, precision, stage, seed in made:
        features = {"weights": weights, "weights_sha256": weights * 4, "dataset_digest": digest, "precision": precision}
        found.append(table_row("m", "d", 0.5, seed=seed, features=features, settings={"epochs": setting}))
        found[-1]["stage"] = stage
    shown = names.told_apart(found)
    assert [row[rows.WRITTEN] for row in shown] == found
    by_name = {}
    for row in shown:
        by_name.setdefault((row["dataset"], row["model"], row["method"]), set()).add(row["key"])
    assert all(len(keys) == 1 for keys in by_name.values())
    assert len(by_name) == len({identity.key(row) for row in found})
    assert names.told_apart(shown[:1]) == shown[:1]  # a part of them keeps its names
    records = table.records(table.tidy(found))
    assert len(records) == len(by_name)
