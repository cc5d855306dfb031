"""Hugging Face data sets on disk, written as the hub has them, and by ``datasets`` itself where it is installed."""

import io
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from backbench import UserError
from tests.packed import KINDS, arrow, hub, image_type, parquet, png, table
from tests.test_data_sources import counts, load

pa = pytest.importorskip("pyarrow")


@pytest.mark.parametrize(("write", "ending"), KINDS)
def test_as_the_hub_has_it(tmp_path, write, ending):
    images = load(hub(tmp_path / "pets", write, ending), "unused")
    assert images.name == images.slug == "hf-pets"
    assert counts(images) == [36, 4, 8]  # int(20 * 0.125) of each class
    assert images.ids[:2] == ["test/0000000", "test/0000001"]
    assert images.ids[-1] == "train/0000039"  # rows are counted through the files of a split
    assert images.class_names == ["cat", "dog"]
    assert images.labels.tolist() == [0, 1] * 24
    one = [images.encoded(i) for i in range(48)]
    assert one == [png(i) for i in (*range(8), *range(40))]
    assert np.array_equal(np.asarray(images.read(9)), np.asarray(Image.open(io.BytesIO(png(1)))))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.encoded, range(48))) == one
        assert list(pool.map(images.encoded, reversed(range(48)))) == one[::-1]
    assert [pickle.loads(pickle.dumps(images)).encoded(i) for i in range(0, 48, 5)] == one[::5]  # noqa: S301
    assert load(f"hf:{tmp_path}/pets", "unused").digest == images.digest


def test_train_alone_is_split_by_the_caltech_rule(tmp_path):
    parquet(tmp_path / "train-00000-of-00001.parquet", table(22))
    images = load(f"hf:{tmp_path}", "unused")
    assert counts(images) == [14, 2, 6]
    assert images.ids[1] == "0000001"


def test_test_without_labels_gives_way_to_validation(tmp_path):
    for split, labels in (("train", (0, 1)), ("validation", (0, 1)), ("test", (-1,))):
        parquet(tmp_path / f"data/{split}-0.parquet", table(16, labels=labels))
    with pytest.raises(UserError, match="16 of 48 images have no label: test/0000000"):
        load(f"hf:{tmp_path}", "unused")
    assert counts(load(f"hf:{tmp_path}?test=val", "unused")) == [14, 2, 16]


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        (("b", "a"), None, ["a", "b"]),
        (("b", "a"), pa.dictionary(pa.int8(), pa.string()), ["a", "b"]),
        ((10, 9), pa.int16(), ["9", "10"]),
        ((True, False), None, ["False", "True"]),
    ],
)
def test_labels_without_a_note(tmp_path, labels, kind, classes):
    parquet(tmp_path / "x.parquet", table(16, labels=labels, names=None, kind=kind))
    images = load(f"hf:{tmp_path}", "unused")
    assert images.class_names == classes
    assert images.labels[:3].tolist() == [1, 0, 1]


def test_class_names_from_the_readme(tmp_path):
    parquet(tmp_path / "data/x.parquet", table(16, names=None, label="kind"))
    info = """
  features:
  - name: image
    dtype: image
  - name: kind
    dtype:
      class_label:
        names:
          '1': ant
          '0': zebra
"""
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\ndataset_info:{info}---\n# Animals\n")
    images = load(f"hf:{tmp_path}", "unused")
    assert images.class_names == ["ant", "zebra"]
    assert images.labels[:2].tolist() == [1, 0]
    assert load(f"hf:{tmp_path}/data", "unused").digest == images.digest  # from the folder above
    several = info.replace("\n  ", "\n    ").replace("\n    features", "\n  - config_name: default\n    features", 1)
    (tmp_path / "README.md").write_text(f"---\ndataset_info:{several}  - config_name: other\n---\n")
    assert load(f"hf:{tmp_path}", "unused").digest == images.digest
    (tmp_path / "README.md").write_text("---\ndataset_info: [\n---\n")
    with pytest.raises(UserError, match=r"README.md: its dataset_info can't be read"):
        load(f"hf:{tmp_path}", "unused")


def test_columns_to_choose_from(tmp_path):
    fine = table(16, image="img", label="fine")
    note = json.loads(fine.schema.metadata[b"huggingface"])
    note["info"]["features"]["coarse"] = {"_type": "ClassLabel", "names": ["pet", "wild"]}
    both = fine.append_column("coarse", pa.array([1, 0] * 8)).replace_schema_metadata({"huggingface": json.dumps(note)})
    parquet(tmp_path / "x.parquet", both)
    with pytest.raises(
        UserError, match=r"2 columns of classes \(fine, coarse\): choose by hf:.*\?label=COLUMN.*img \(s"
    ):
        load(f"hf:{tmp_path}", "unused")
    images = load(f"hf:{tmp_path}?label=coarse", "unused")
    assert images.class_names == ["pet", "wild"]
    assert images.name == f"hf-{tmp_path.name}-coarse"
    with pytest.raises(UserError) as caught:
        load(f"hf:{tmp_path}?label=img&image=fine", "unused")
    assert len(caught.value.faults) == 2
    assert "'fine' is no column of images. Columns: img (struct" in caught.value.faults[0]


def test_what_makes_no_set(tmp_path):
    cells = pa.array([{"bytes": None, "path": "/etc/passwd"}] * 8, image_type())
    for name, write in (("a/x.parquet", parquet), ("b/x.arrow", arrow)):
        write(tmp_path / name, pa.table({"image": cells, "label": pa.array([0, 1] * 4)}))
        with pytest.raises(
            UserError,
            match=r"first image can't be read, its row holds no image, at most the path of one\. Embed the im",
        ):
            load(f"hf:{(tmp_path / name).parent}", "unused")
    with pytest.raises(UserError, match=r"holds .parquet and .arrow files"):
        load(f"hf:{tmp_path}", "unused")
    for config in ("one", "two"):
        parquet(tmp_path / f"c/{config}/train-0.parquet", table(8))
    with pytest.raises(UserError, match=r"has files in several folders .*name one configuration, hf:.*one"):
        load(f"hf:{tmp_path}/c", "unused")
    parquet(tmp_path / "d/train-0.parquet", table(8))
    parquet(tmp_path / "d/train-1.parquet", table(8, label="kind"))
    with pytest.raises(UserError, match=r"train-1.parquet has other columns than the first file: .*label differs"):
        load(f"hf:{tmp_path}/d", "unused")
    parquet(tmp_path / "d/train-1.parquet", table(8, names=("dog", "cat")))
    with pytest.raises(
        UserError, match=r"train-1.parquet numbers its classes in label differently from the first file"
    ):
        load(f"hf:{tmp_path}/d", "unused")
    parquet(tmp_path / "e/x.parquet", pa.table({"text": ["a"], "label": [[1]]}))
    with pytest.raises(UserError, match="no column known to hold images") as caught:
        load(f"hf:{tmp_path}/e", "unused")
    assert "no column known to hold classes" in str(caught.value)
    (tmp_path / "f").mkdir()
    with pytest.raises(UserError, match=r"holds no .parquet or .arrow file"):
        load(f"hf:{tmp_path}/f", "unused")


def test_a_missing_label_and_labels_beyond_the_names(tmp_path):
    parquet(tmp_path / "x.parquet", table(15, labels=(0, None, 7)))
    with pytest.raises(UserError, match="5 of 15 images have no label: 0000001"):
        load(f"hf:{tmp_path}", "unused")
    parquet(tmp_path / "x.parquet", table(16, labels=(0, 7)))
    with pytest.raises(UserError, match="labels 7, where only 2 class names are given"):
        load(f"hf:{tmp_path}", "unused")


def test_without_pyarrow(run, tmp_path):
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    done = run("data", "show", "hf:x")
    assert done.returncode == 1
    assert "hf:x needs pyarrow: pip install pyarrow" in done.stderr


def test_what_datasets_itself_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})

    def made(n, first):
        cells = [{"bytes": png(i), "path": None} for i in range(first, first + n)]
        return datasets.Dataset.from_dict({"image": cells, "label": [i % 2 for i in range(n)]}, features=features)

    both = datasets.DatasetDict({"train": made(32, 0), "test": made(8, 32)})
    both.save_to_disk(tmp_path / "saved", num_shards={"train": 3, "test": 1})
    for split, each in both.items():
        (tmp_path / "hub/data").mkdir(parents=True, exist_ok=True)
        each.to_parquet(tmp_path / f"hub/data/{split}-00000-of-00001.parquet")
    # What a later .map leaves beside the data is none of it.
    arrow(tmp_path / "saved/train/cache-0123456789abcdef.arrow", table(8))
    for name in ("saved", "hub"):
        images = load(f"hf:{tmp_path}/{name}", "unused")
        assert images.class_names == ["cat", "dog"]
        assert images.labels[:2].tolist() == [1, 0]  # dog is 0 there
        assert counts(images) == [28, 4, 8]
        assert [images.encoded(i) for i in range(40)] == [png(i) for i in (*range(32, 40), *range(32))]
    (tmp_path / "saved/train/data-00001-of-00003.arrow").unlink()
    with pytest.raises(UserError, match=r"lacks data-00001-of-00003.arrow, which its state.json names"):
        load(f"hf:{tmp_path}/saved", "unused")


@pytest.mark.parametrize(("write", "ending"), KINDS)
def test_groups_of_a_column(tmp_path, write, ending):
    patients = pa.array([f"p{i // 4}" for i in range(80)])
    write(tmp_path / f"all.{ending}", table(80, patient=patients, site=pa.array([i // 8 for i in range(80)])))
    images = load(f"hf:{tmp_path}?group=patient", "unused")
    assert images.groups.tolist() == patients.to_pylist()
    assert all(len({*images.split[images.groups == group]}) == 1 for group in {*images.groups})
    assert counts(images) == [56, 8, 16]
    assert load(f"hf:{tmp_path}?group=site", "unused").groups[79] == "9"
    assert load(f"hf:{tmp_path}", "unused").groups is None
    with pytest.raises(UserError, match=r"'image' is no column of groups. Columns: image \(struct"):
        load(f"hf:{tmp_path}?group=image", "unused")


def test_images_without_a_group_are_named(tmp_path):
    parquet(tmp_path / "all.parquet", table(40, patient=pa.array([None, "", *["p"] * 38])))
    with pytest.raises(UserError, match="2 of 40 images have no group: 0000000, 0000001"):
        load(f"hf:{tmp_path}?group=patient", "unused")
