"""Labels in tables, as spreadsheets and programs write them: columns, encodings, paths, splits and faults."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

from backbench import UsageError, UserError
from tests.test_data_sources import counts, lay, load


def table(root, text, name="labels.csv", encoding="utf-8"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.encode(encoding))
    return f"table:{root / name}"


def rows(root, n=24, *, line="{file},{label}", head="file,label"):
    """Lay n images, of cats and dogs by turns, and give the text of a table of them."""
    files = [f"images/{i:03d}.png" for i in range(n)]
    lay(root, *files)
    lines = [line.format(file=file, label=("cat", "dog")[i % 2], i=i) for i, file in enumerate(files)]
    return "\n".join([head, *lines]) + "\n"


def fails(name, error=UserError, **options):
    with pytest.raises(error) as caught:
        load(name, "unused", **options)
    return "\n".join(caught.value.faults)


def test_a_table_beside_its_images(tmp_path):
    images = load(table(tmp_path, rows(tmp_path, 22)), "unused")
    assert images.name == images.slug == "table-labels"
    assert images.class_names == ["cat", "dog"]
    assert images.ids[:2] == ["images/000.png", "images/001.png"]
    assert images.labels.tolist() == [0, 1] * 11
    assert (images.labels.dtype, images.split.dtype) == (np.int64, np.int8)
    assert sum(counts(images)) == 22
    assert all(counts(images))
    assert images.read(0).size == (5, 4)
    assert images.path(0) == f"{tmp_path}/images/000.png"
    assert images.groups is None
    assert images.notes[1] == "Columns of labels.csv: file 'file', label 'label'."
    assert images.notes[0].startswith("2 classes, ")
    turned = "\n".join(reversed((tmp_path / "labels.csv").read_text().splitlines()[1:]))
    again = load(table(tmp_path, f"file,label\n{turned}"), "unused")
    assert (again.ids, again.digest) == (images.ids, images.digest)  # the order of rows decides nothing


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "9", "9.0", "1"], ["1", "9", "10"]),
        (["NA", "nan", "null", "None"], ["NA", "None", "nan", "null"]),  # classes, and no gaps
        (["007", "010", "1"], ["1", "007", "010"]),  # a code isn't the number that it looks like
        (["0.5", "10.5", "2.5"], ["0.5", "2.5", "10.5"]),
        (["-1", "1", "+1"], ["-1", "1"]),
    ],
)
def test_labels_are_text_or_numbers_sorted_by_size(tmp_path, labels, names):
    rows(tmp_path, 48)
    lines = [f"images/{i:03d}.png,{labels[i % len(labels)]}" for i in range(48)]
    assert load(table(tmp_path, "\n".join(["file,label", *lines])), "unused").class_names == names


def test_columns_are_found_by_their_names_or_asked_for(tmp_path):
    text = rows(tmp_path, head="Image Index,Finding", line="{file},{label}")
    said = fails(table(tmp_path, text), UsageError)
    assert "no column is known to hold the label: choose by label=COLUMN. Columns: 'Image Index', 'Finding'" in said
    assert "The first line must hold the columns' names" in said
    assert len(load(f"{table(tmp_path, text)}?label=Finding", "unused")) == 24
    said = fails(f"{table(tmp_path, text)}?label=Findings&file=Index", UsageError)
    assert "there is no column 'Findings' to be the label. Did you mean Finding?" in said
    assert "there is no column 'Index' to be the file" in said
    both = table(tmp_path, rows(tmp_path, head="file,label,class", line="{file},{label},{i}"))
    assert "'label' and 'class' could be the label: choose by label=COLUMN. Columns: 'file'" in fails(both, UsageError)
    assert load(f"{both}?label=label", "unused").class_names == ["cat", "dog"]
    assert (
        "table:PATH?key=value takes file, label, split, group, folder, test, not 'lable'. Did you mean label?"
        in fails(f"{both}?lable=label", UsageError)
    )


def test_splits_of_a_column_in_any_wording(tmp_path):
    text = rows(tmp_path, 30, head="file,label,Set", line="{file},{label},{i}")
    words = {0: "Training", 1: "TRAIN", 2: "valid"}
    lines = [
        f"{line.rpartition(',')[0]},{words.get(i % 4 // 1, 'test_set')}" for i, line in enumerate(text.splitlines()[1:])
    ]
    name = table(tmp_path, "\n".join([text.splitlines()[0], *lines]))
    images = load(name, "unused")
    assert counts(images) == [16, 7, 7]
    assert "16 / 7 / 7 images in train / val / test, by the table" in images.notes[0]
    assert counts(load(f"{name}?test=val", "unused")) == [14, 2, 7]  # an eighth of 8 a class
    drawn = load(f"{name}?split=-", "unused")
    assert counts(drawn) != [16, 7, 7]
    assert "drawn with seed 42" in drawn.notes[0]
    odd = name.replace("labels", "odd")
    table(tmp_path, (tmp_path / "labels.csv").read_text().replace("valid", "later"), "odd.csv")
    assert "the column 'Set' holds 'later', where train, val and test are expected" in fails(odd)


def test_a_column_that_only_looks_like_splits_is_passed_over_and_said(tmp_path):
    images = load(table(tmp_path, rows(tmp_path, head="file,label,fold", line="{file},{label},{i}")), "unused")
    assert all(counts(images))
    assert "The column 'fold' is not taken for the split, since it holds '0', '1', '10', '11', '12'." in images.notes
    said = fails(f"table:{tmp_path}/labels.csv?split=fold")
    assert "the column 'fold' holds '0', '1'" in said


def test_train_and_test_give_val_and_train_alone_is_split(tmp_path):
    text = rows(tmp_path, 40, head="file,label,split", line="{file},{label},{i}")
    lines = text.splitlines()

    def splits(word):
        return "\n".join([lines[0], *(f"{x.rpartition(',')[0]},{word(i)}" for i, x in enumerate(lines[1:]))])

    images = load(table(tmp_path, splits(lambda i: "test" if i >= 32 else "train")), "unused")
    assert counts(images) == [28, 4, 8]
    images = load(table(tmp_path, splits(lambda i: "train")), "unused")
    assert all(counts(images))
    name = table(tmp_path, splits(lambda i: "val" if i >= 32 else "train"))
    assert "no images in test (train / val / test: 32 / 8 / 0)" in fails(name)
    assert "test=val tests on val" in fails(name)
    assert counts(load(f"{name}?test=val", "unused")) == [28, 4, 8]
    assert counts(load(table(tmp_path, splits(lambda i: "test")), "unused")) == [0, 0, 40]


def test_groups_of_a_column_stay_in_one_split(tmp_path):
    text = rows(tmp_path, 120, head="file,label,patient_id", line="{file},{label},{i}")
    lines = [f"{x.rpartition(',')[0]},p{i // 6}" for i, x in enumerate(text.splitlines()[1:])]
    name = table(tmp_path, "\n".join([text.splitlines()[0], *lines]))
    for seed in range(5):
        images = load(name, "unused", seed=seed)
        split_of = {group: {*images.split[images.groups == group].tolist()} for group in {*images.groups}}
        assert len(split_of) == 20
        assert all(len(splits) == 1 for splits in split_of.values())
        assert counts(images) == [84, 12, 24]
    assert "20 groups of 6 to 6 images, each in one split." in images.notes
    assert "group 'patient_id'" in images.notes[1]
    assert load(f"{name}?group=-", "unused").groups is None


def test_a_split_that_groups_cross_is_said(tmp_path):
    text = rows(tmp_path, 60, head="file,label,split,patient", line="{file},{label},x,{i}")
    lines = [f"{x[:-4 - len(str(i))]},{('train', 'train', 'val', 'test')[i % 4]},p{i // 4}" for i, x in
             enumerate(line.replace(",x,", ",xx,") for line in text.splitlines()[1:])]  # fmt: skip
    images = load(table(tmp_path, "\n".join([text.splitlines()[0], *lines])), "unused")
    (said,) = [note for note in images.notes if note.startswith("Warning")]
    assert said.startswith("Warning: 15 groups have images in more than one split: p0 in train and val and test; p1 in")
    assert said.endswith("and 10 more.")


def test_faults_are_named_all_at_once(tmp_path):
    rows(tmp_path, 4)
    text = "file,label,patient\nimages/000.png,cat,1\nimages/x.png,,1\nimages/y.png,dog,\n,dog,2\n"
    said = fails(table(tmp_path, text))
    assert "1 row has no file (row 4)" in said
    assert "1 row has no label (row 2)" in said
    assert "1 row has no group: give every image its group, or take none by group=- (row 3)" in said
    assert "2 of 3 files are not there: images/x.png, images/y.png. Files were looked for in" in said
    many = "file,label\n" + "".join(f"no/{i:02d}.png,{i % 2}\n" for i in range(25))
    said = fails(table(tmp_path, many))
    assert "25 of 25 files are not there: no/00.png" in said
    assert "no/19.png and 5 more" in said


def test_files_elsewhere(tmp_path):
    text = rows(tmp_path / "data/photos")
    name = table(tmp_path / "data", text)
    said = fails(name)
    assert f"The first is in photos/: --dataset '{name}?folder=photos'" in said
    images = load(f"{name}?folder=photos", "unused")
    assert images.ids[0] == "images/000.png"
    assert images.read(3).size == (5, 4)
    up = load(table(tmp_path / "data/tables", text.replace("images/", "../photos/images/")), "unused")
    assert up.ids[0] == "../photos/images/000.png"
    assert up.read(0).size == (5, 4)
    absolute = load(table(tmp_path / "data", text.replace("images/", f"{tmp_path}/data/photos/images/")), "unused")
    assert absolute.ids == [f"photos/{id}" for id in images.ids]
    assert absolute.read(0).size == (5, 4)


def test_names_without_endings_and_with_backslashes(tmp_path):
    text = rows(tmp_path)
    bare = load(table(tmp_path, text.replace(".png", "")), "unused")
    assert bare.ids[0] == "images/000.png"
    assert "24 files were found with .png added to the name." in bare.notes
    windows = load(table(tmp_path, text.replace("/", "\\")), "unused")
    assert windows.ids == bare.ids
    assert r"24 files were found with / for \ in the name." in windows.notes


def test_several_rows_of_one_file(tmp_path):
    text = rows(tmp_path)
    images = load(table(tmp_path, text + "images/000.png,cat\n./images/001.png,dog\n"), "unused")
    assert len(images) == 24
    assert "2 rows repeat a file, which was taken once." in images.notes
    said = fails(table(tmp_path, text + "images/000.png,dog\n"))
    assert "1 file is in several rows with different values of the label" in said
    assert "images/000.png (cat, dog)" in said


def test_no_such_table(tmp_path):
    assert "does not exist: a .csv, .tsv or .parquet file on this disk is expected" in fails(f"table:{tmp_path}/no.csv")
    assert "is a folder" in fails(f"table:{tmp_path}")
    assert "does not exist" in fails("table:https://example.org/labels.csv")


def test_groups_that_are_whole_classes_are_refused(tmp_path):
    text = rows(tmp_path, head="file,label,group", line="{file},{label},{label}")
    said = fails(table(tmp_path, text))
    assert "the images of each class are all of one group" in said
    assert said.startswith(f"{tmp_path}/labels.csv: ")


def test_a_folder_and_other_files_are_not_images(tmp_path):
    text = rows(tmp_path) + "images,cat\n"
    assert "1 of 25 files are not there: images." in fails(table(tmp_path, text))


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps names as UTF-16")
def test_control_characters_and_nul_do_no_harm(tmp_path):
    said = fails(table(tmp_path, 'file,label\n"a\x1b[2J\nb.png",1\n../../../../etc,2\n'))
    assert r"2 of 2 files are not there: 'a\x1b[2J\nb.png', ../../../../etc." in said


def test_data_show(tmp_path):
    from backbench.data.cli import main

    result = CliRunner().invoke(main, ["show", table(tmp_path, rows(tmp_path)), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["n_classes"] == 2
    assert CliRunner().invoke(main, ["show", f"table:{tmp_path}/labels.csv?label=x"]).exit_code == 2


def test_from_the_table_to_the_folds(tmp_path):
    """Groups go into the feature file, from there into folds and intervals; without them nothing is computed again."""
    import backbench as bb
    from tests.packed import png

    text = rows(tmp_path, 60, head="file,label,patient", line="{file},{label},p{i}")
    lines = [f"{x.rpartition(',')[0]},p{i // 4}" for i, x in enumerate(text.splitlines()[1:])]
    name = table(tmp_path, "\n".join([text.splitlines()[0], *lines]))
    for i in range(60):
        (tmp_path / f"images/{i:03d}.png").write_bytes(png(i))
    how = {"weights": "random", "precision": "float32", "compile": "off", "input_guard": False}
    with bb.extract("test_resnet", name, cache_dir=tmp_path / "cache", **how) as found:
        assert found.groups.tolist() == [f"p{i // 4}" for i in range(60)]
        row = bb.probe(found, "centroid", folds=5).row
        plain = bb.probe(found, "centroid").row
    assert (row["n_groups"], row["n_test"], row["dataset"]) == (15, 60, "table-labels")
    assert plain["n_groups"] == len({*found.groups[found.split == 2]})
    assert "by the spread between groups" in plain["protocol"]["intervals"]
    with bb.extract("test_resnet", f"{name}?group=-", cache_dir=tmp_path / "cache", **how) as alone:
        assert alone.groups is None
        assert alone.measured["images_per_second"] == found.measured["images_per_second"]
