"""Many files as one set: their names, their splits, and the same pictures the same whatever they lie in."""

import io

import numpy as np
import pytest
from PIL import Image

from backbench import UserError
from tests.packed import arrow, image_type, parquet, png, samples, shard, shards
from tests.test_data_sources import counts, load

pytestmark = pytest.mark.usefixtures("cache_home")


def test_shards_named_by_split(tmp_path):
    images = load(shards(tmp_path / "pets", train_0000=10, train_0001=10, validation_0000=4, test_0000=6), "unused")
    assert images.name == images.slug == "wds-pets"
    assert counts(images) == [20, 4, 6]
    assert images.class_names == ["cat", "dog"]
    # in the order of the files' names, then as stored
    assert images.ids[:2] == ["test/024.png", "test/025.png"]
    assert images.ids[-1] == "val/023.png"
    assert images.labels.tolist() == [0, 1] * 15
    assert images.labels.dtype == np.int64
    assert images.split.dtype == np.int8
    assert np.array_equal(np.asarray(images.read(0)), np.asarray(Image.open(io.BytesIO(png(24)))))
    assert images.path(0) is None


def test_folders_named_by_split_and_val_taken_from_train(tmp_path):
    shard(tmp_path / "train/0.tar", *samples(16))
    shard(tmp_path / "test/0.tar", *samples(4))  # the same names, of other pictures
    (tmp_path / "train/._0.tar").write_bytes(b"as macOS leaves them")
    images = load(f"wds:{tmp_path}", "unused")
    assert counts(images) == [14, 2, 4]  # int(8 * 0.125) of each class
    assert images.ids[0] == "test/000.png"


@pytest.mark.parametrize("name", ["a-0", "train-0", "0"])
def test_without_splits_or_with_train_alone_the_caltech_rule(tmp_path, name):
    shard(tmp_path / f"{name}.tar", *samples(22))
    images = load(f"wds:{tmp_path}/{name}.tar", "unused")
    assert images.name == f"wds-{name}"
    assert counts(images) == [14, 2, 6]  # of 11: int(7.7), int(8.8) - 7
    assert images.ids[0] == "000.png"


def test_names_that_come_twice_get_their_shards(tmp_path):
    for n in range(2):
        shard(tmp_path / f"{n}.tar", *samples(4))
    images = load(f"wds:{tmp_path}", "unused", seed=3)
    assert images.ids == [f"{n}/{i:03d}.png" for n in range(2) for i in range(4)]


def test_patterns(tmp_path):
    shards(tmp_path, **{f"x_{n:03d}": 4 for n in range(12)})
    assert len(load(f"wds:{tmp_path}/x-{{000..003}}.tar", "unused")) == 16
    assert len(load(f"wds:{tmp_path}/x-0[01]?.tar", "unused")) == 48
    shard(tmp_path / "y-000.tar", *samples(4, first=48))
    shard(tmp_path / "y-001.tar", *samples(4, first=52))
    images = load(f"wds:{tmp_path}/{{x,y}}-00{{0..1}}.tar", "unused")
    assert len(images) == 16
    assert images.name == f"wds-{tmp_path.name}"
    with pytest.raises(UserError, match=r"does not exist \(.*x-012.tar, .*x-013.tar\): a folder of .tar files"):
        load(f"wds:{tmp_path}/x-{{010..013}}.tar", "unused")


def test_test_on_val(tmp_path):
    name = shards(tmp_path, train_0=16, val_0=4, test_0=2)
    shard(tmp_path / "test-0.tar", ("a.png", png()), ("a.cls", "-1"))
    images = load(f"{name}?test=val", "unused")
    assert counts(images) == [14, 2, 4]
    assert images.name.endswith("-val")
    with pytest.raises(UserError, match=r"\?test=val, to test on val, is expected"):
        load(f"{name}?test=train", "unused")


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["train-0.tar", "b.tar"], "b.tar name no split, but 1 other files do"),
        (["train-test.tar"], "train-test.tar match more than one of train, val and test: rename"),
        (["a.tar.gz"], "holds no .tar file, but a.tar.gz: uncompress it to a .tar"),
        (["a.txt"], "holds no .tar file"),
        (["train-0.tar", "val-0.tar"], r"no images in test .*\?test=val after the path"),
    ],
)
def test_files_that_make_no_set(tmp_path, names, fault):
    for name in names:
        shard(tmp_path / name, *samples(8))
    with pytest.raises(UserError, match=fault):
        load(f"wds:{tmp_path}", "unused")


def test_what_is_passed_over_in_and_beside_shards_is_said(tmp_path):
    """A linked folder and an ending in capitals are shards; packed tars and samples without an image are not."""
    shard(tmp_path / "set/a-0.tar", *samples(20), ("x.heic", b"1"), ("x.json", '{"label": "cat"}'), ("README.md", "r"))
    shard(tmp_path / "set/B-1.TAR", *samples(20, first=20))
    shard(tmp_path / "store/c-2.tar", *samples(20, first=40))
    (tmp_path / "set/more").symlink_to(tmp_path / "store")
    (tmp_path / "set/round").symlink_to(tmp_path / "set")
    (tmp_path / "set/d-3.tar.gz").write_bytes(b"packed")
    (tmp_path / "set/a-0.json").write_text("{}")
    images = load(f"wds:{tmp_path}/set", "unused")
    assert len(images) == 60
    assert images.notes[1:] == (
        "1 file (d-3.tar.gz) and 1 link to a folder above or already taken (round) were passed over.",
        "1 link to a folder was followed.",
        "2 samples (README.md, x.heic) were passed over.",
    )


def pictures(root):
    """Files of every kind that decoding treats in its own way: 16-bit grey, transparent, turned, palette, photo."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = rng.integers(0, 256, (30, 40, 4), dtype=np.uint8)
    made = [
        (Image.fromarray(rng.integers(0, 65536, (33, 47), dtype=np.uint16)), "16.png", {}),
        (Image.fromarray(noise), "rgba.png", {}),
        (Image.fromarray(noise[..., :3]), "turned.jpg", {"exif": exif}),
        (Image.fromarray(noise[..., :3]).quantize(16), "palette.gif", {}),
    ]
    for split, n in (("test", 2), ("train", 8)):
        for name in ("cat", "dog"):
            for i in range(n):
                image, ending, options = made[i % 4]
                path = root / split / name / f"{i}-{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.rotate(i).save(path, **options)


def test_the_same_pictures_give_the_same_features_from_any_source(run, tmp_path):
    """As a folder, tar shards, parquet and arrow: labels, splits and every bit of the features."""
    from backbench.cache.features import open_file

    pa = pytest.importorskip("pyarrow")
    pictures(tmp_path / "pets")
    files = sorted((tmp_path / "pets").rglob("*.*"))
    for split in ("train", "test"):
        mine = [file for file in files if file.parts[-3] == split]
        members = []
        for file in mine:
            key = f"{file.parent.name}/{file.stem}"
            members += [(f"{key}{file.suffix}", file.read_bytes()), (f"{key}.cls", file.parent.name)]
        shard(tmp_path / f"tars/{split}.tar", *members)
        cells = pa.array([{"bytes": file.read_bytes(), "path": None} for file in mine], image_type())
        made = pa.table({"image": cells, "label": [file.parent.name for file in mine]})
        parquet(tmp_path / f"hub/{split}.parquet", made)
        arrow(tmp_path / f"saved/{split}/data.arrow", made)
    sets = ("folder:pets", "wds:tars", "hf:hub", "hf:saved")
    how = ("--model", "test_resnet", "--weights", "random", "--batch-size", "8", "--device", "cpu")
    quick = ("--precision", "float32", "--compile", "off", "--no-input-guard", "--exif", "apply")
    found = {}
    for name in sets:  # each in a cache of its own: in one, the features of the first would be taken over
        place = tmp_path / "caches" / name.partition(":")[2]
        done = run("extract", "--dataset", name, *how, *quick, "--cache-dir", place)
        assert done.returncode == 0, done.stderr
        with open_file(place / name.replace(":", "-") / "test_resnet.h5") as file:
            classes = [file.class_names[label] for label in file.labels]
            found[name] = (
                classes,
                list(file.split),
                np.array(file.features),
                file.ids,
                file.identity["dataset_digest"],
            )
    classes, split, features, ids, digest = found["folder:pets"]
    assert features.std() > 0
    for name in sets[1:]:
        assert found[name][0] == classes
        assert [code == 2 for code in found[name][1]] == [code == 2 for code in split]
        assert np.array_equal(found[name][2], features)
    # Shards of a folder are the folder: the same ids, splits and digest.
    assert found["wds:tars"][3] == ids
    assert found["wds:tars"][4] == digest
