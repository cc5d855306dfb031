"""What is said below tables: the commands that use the chosen head are there, work when pasted, or aren't said."""

import json
import shlex
import shutil

import pytest
from click.testing import CliRunner
from markupsafe import escape

import backbench.predict.cli
import backbench.probe.cli
import backbench.report.cli
from backbench import findings, rows
from backbench.cache.arrays import MADE_BY_USER
from backbench.data import registry
from backbench.probe import head
from backbench.probe.run import Settings
from backbench.probe.study import probe_all
from backbench.report import compare, page, summary, use
from backbench.report.study import load
from backbench.training import checkpoint
from tests.study import extracted
from tests.test_report_table import row

SET = "my set's"


def probe(paths, methods=("logistic",), **settings):
    save = settings.pop("save", None)
    how = {key: settings.pop(key) for key in ("shots", "folds", "exclude") if key in settings}
    with pytest.MonkeyPatch.context() as here:
        here.setattr("sys.stderr", None)
        return probe_all(paths, methods, results_dir="results", settings=Settings(**settings), save=save, jobs=1, **how)


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A folder with feature files of two backbones on the digits, in cache/<a name to quote>/."""
    monkeypatch.chdir(tmp_path)
    digits = registry.load("digits", data_root=tmp_path)
    for name, apart in (("good", 3.0), ("fair", 1.0)):
        made = extracted(digits, tmp_path / "cache", name, apart)
        (tmp_path / "cache" / SET).mkdir(exist_ok=True)
        made.rename(tmp_path / "cache" / SET / f"{name}.h5")
    return [tmp_path / "cache" / SET / f"{name}.h5" for name in ("good", "fair")]


PLACE = "'heads/my set'\"'\"'s/good-logistic'"


def relative(paths, tmp_path):
    return [path.relative_to(tmp_path) for path in paths]


def run(command: str, code: int = 0):
    """Run a command as it was printed, with a folder in place of IMAGES."""
    name, *words = shlex.split(command)
    main = {"probe": backbench.probe.cli.main, "report": backbench.report.cli.main}.get(name)
    if name == "backbench":
        assert words.pop(0) == "predict"
        main = backbench.predict.cli.main
    done = CliRunner().invoke(main, words)
    assert done.exit_code == code, done.output
    return done


def said(**how):
    return use.of_table(rows.read("results"), how.get("results_dir", use.Path("results")))


def test_the_command_that_stores_the_head_and_then_the_one_that_uses_it(there, tmp_path):
    probe(relative(there, tmp_path))
    first, store, then = said()
    assert first == "To classify new images with what was chosen on digits, store it first:"
    assert shlex.split(store) == [
        "probe",
        "--features",
        f"cache/{SET}/good.h5",
        *["--method", "logistic", "--save", "heads"],
    ]
    assert then == f"  backbench predict {PLACE} IMAGES"
    run(store)
    assert said() == ["To classify new images with what was chosen on digits:", then]
    assert head.load(shlex.split(then)[2]).method == "logistic"
    done = run("report")
    assert done.stderr == "\n" + "\n".join(said()) + "\n"
    assert "backbench predict" not in done.stdout
    assert run("report --json").stderr == run("report --format md").stderr == ""


def test_no_command_would_fit_the_head_of_another_data_set_than_the_audited_one(there, tmp_path):
    """The file with the decisions may lie anywhere, and without it the head would be that of all images."""
    csv = tmp_path / "audit.csv"
    findings.write(
        csv, [findings.Finding(registry.load("digits", data_root=tmp_path).ids[0], "outlier", "", "", "wrong")]
    )
    probe(relative(there[:1], tmp_path), exclude=[csv])
    assert said() == []
    probe(relative(there[:1], tmp_path), exclude=[csv], save="heads")
    assert said() == [
        "To classify new images with what was chosen on digits (1 left out):", f"  backbench predict {PLACE} IMAGES"
    ]  # fmt: skip


def test_compare_and_the_page_say_the_same(there, tmp_path):
    probe(relative(there, tmp_path), save="heads")
    found = rows.read("results")
    records = compare.compare(found, use.Path("results"))
    assert use.of_comparison(records, found, use.Path("results")) == said()
    assert run("report compare").stderr == "\n" + "\n".join(said()) + "\n"
    first = summary.answers(load(use.Path("results")))[0]
    assert first["use"] == [f"backbench predict {PLACE} IMAGES"]
    html = page.build(load(use.Path("results")), {"heads": [], "maps": {}, "pictures": {}, "notes": []})
    assert f'<pre tabindex="0">{escape(first["use"][0])}</pre>' in html


def test_the_head_of_another_measurement_is_not_taken_for_it(there, tmp_path):
    probe(relative(there, tmp_path)[:1], save="heads", options={"logistic": {"class_weight": "balanced"}})
    (use.Path("results") / rows.FILE).unlink()
    probe(relative(there, tmp_path)[:1])
    (_, store, then) = said()
    assert then.startswith(f"  backbench predict {PLACE[:-1]}-")  # beside the other
    run(store)
    assert said()[1:] == [then]
    probe(relative(there, tmp_path)[:1], options={"logistic": {"class_weight": "balanced"}})
    balanced = next(line for line in rows.read("results") if line["settings"].get("class_weight") == "balanced")
    assert use.advice([balanced], "digits", use.Path("results")) == [f"backbench predict {PLACE} IMAGES"]
    shutil.rmtree("heads")
    assert "--class-weight balanced" in use.advice([balanced], "digits", use.Path("results"))[0]


def test_of_several_seeds_the_stored_one_is_used_and_else_the_newest(there, tmp_path):
    probe(relative(there, tmp_path)[:1], seed=7, save="heads")
    probe(relative(there, tmp_path)[:1], seed=8)
    assert len(said()) == 2
    shutil.rmtree("heads")
    assert said()[1].endswith("--save heads --seed 8")


def test_elsewhere_the_results_folder_is_named_and_heads_beside_it_are_found(there, tmp_path):
    probe(relative(there, tmp_path), save="heads")
    (tmp_path / "study").mkdir()
    use.Path("results").rename("study/my results")
    where = use.Path("study/my results")
    found = rows.read(where)
    shutil.move("heads", "study/heads")
    assert (
        use.of_table(found, where)[1] == "  backbench predict " + PLACE.replace("'heads", "'study/heads", 1) + " IMAGES"
    )
    shutil.rmtree("study/heads")
    assert use.of_table(found, where)[1].endswith("--save heads --results-dir 'study/my results'")


def test_nothing_is_said_where_no_command_would_work(there, tmp_path):
    probe(relative(there, tmp_path)[:1], shots=[2])
    probe(relative(there, tmp_path)[:1], folds=3)
    assert said() == []
    probe(relative(there, tmp_path)[:1])
    assert len(said()) == 3
    made = next(line for line in rows.read("results") if not line["shots"] and "folds" not in line["settings"])
    for wrong in (
        {"features": made["features"] | {"weights": MADE_BY_USER}},
        {"features": made["features"] | {"path": None}},
        {"features": None},
        {"method": "--evil"},
        {"settings": {"class_weight": "none", "tolerance": 0.1}},
    ):
        assert use.advice([made | wrong], "digits", use.Path("results")) == [], wrong
    there[0].unlink()
    assert said() == []


def test_weights_of_ones_own_are_asked_for(there, tmp_path):
    probe(relative(there, tmp_path)[:1])
    made = rows.read("results")[0]
    for weights, option in (
        ("file my best.pth", "--weights 'PATH-OF-my best.pth'"),
        ("tuned on x", "--weights ITS-RUN"),
    ):
        its = made | {"features": made["features"] | {"weights": weights}}
        assert use.advice([its], "digits", use.Path("results"))[1].endswith(f" IMAGES {option}")


def test_a_run_that_is_there_and_is_the_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "digits" / "my run"
    made = row("net", "digits", 0.9, method="full", features={"path": "runs/digits/my run", "input_scale": 1.0})
    made["stage"] = "finetune"
    rows.append("results", made)
    assert said() == []
    about = {
        "format": checkpoint.FORMAT, "schema": checkpoint.SCHEMA, "sha256": "0", "model": "net",
        "timm_name": "resnet18", "arguments": {"num_classes": 2}, "classes": ["a", "b"], "pooling": "avg",
        "recipe": {"name": "full", "strategy": "full"},
        "transform": {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "exif": "ignore",
                      "interpolation": "bilinear", "crop_mode": "center"},
        "seed": 42, "precision": "float32", "dataset": "digits", "dataset_digest": "d", "identity": {}, "ended": "",
        "row": made,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / checkpoint.ABOUT).write_text(json.dumps(about))
    checkpoint.read_about(folder)  # or the test below would say nothing
    assert said()[1:] == ["  backbench predict 'runs/digits/my run' IMAGES"]
    (folder / checkpoint.ABOUT).write_text(json.dumps(about | {"row": made | {"top1": 0.8}}))
    assert said() == []
