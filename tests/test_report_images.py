import base64
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from backbench import UserError, rows
from backbench.cache import features, writer
from backbench.data import derived, registry
from backbench.report import images
from tests.conftest import IDENTITY
from tests.study import HOSTILE


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def file_of(path, x, **identity):
    n = len(x)
    return writer.write(
        path,
        features=x.astype("f4"),
        labels=np.arange(n) % 3,
        split=np.arange(n) % 3,
        ids=[f"{i}.png" for i in range(n)],
        class_names=["a", "b", "c"],
        identity=IDENTITY | identity,
    )


def test_the_map_is_pca(tmp_path, rng):
    x = rng.normal(size=(300, 20)) * np.linspace(3, 0.1, 20) + 5
    found = images.feature_map(file_of(tmp_path / "f.h5", x), most=1000)
    wanted = PCA(2).fit(x)
    for ours, theirs in zip(found["xy"].T, wanted.transform(x).T, strict=True):
        assert abs(np.corrcoef(ours, theirs)[0, 1]) > 0.9999
        assert ours.std() == pytest.approx(theirs.std(), rel=1e-3)
    assert found["how"] == f"PCA, {wanted.explained_variance_ratio_.sum():.0%} of the variance in two axes"


@pytest.mark.parametrize("d", [1, 2, 9])
def test_few_features_and_fewer_points_than_images(tmp_path, rng, d):
    path = file_of(tmp_path / "f.h5", rng.normal(size=(101, d)))
    found = images.feature_map(path, most=11)
    assert (found["xy"].shape, found["of"]) == ((11, 2), 101)
    assert found["ids"] == [f"{i}.png" for i in range(0, 101, 10)]
    assert np.isfinite(found["xy"]).all()


def test_packed_points_come_back_within_a_step(tmp_path, rng):
    found = images.feature_map(file_of(tmp_path / "f.h5", rng.normal(size=(50, 4))), most=50)
    packed = images.packed(found, np.arange(50))
    steps = np.stack([np.frombuffer(base64.b64decode(packed[axis]), "<u2") for axis in "xy"], axis=1)
    low, span = found["xy"].min(axis=0), np.ptp(found["xy"], axis=0)
    assert np.abs(low + steps / images.STEPS * span - found["xy"]).max() <= span.max() / images.STEPS
    assert np.frombuffer(base64.b64decode(packed["labels"]), "<u2").tolist() == found["labels"].tolist()
    assert np.frombuffer(base64.b64decode(packed["pictures"]), "<u2").tolist() == list(range(50))


def test_files_of_equal_names_and_other_images_are_not_taken_for_each_other(tmp_path, rng):
    for digest in "de":
        file_of(tmp_path / f"{digest}.h5", rng.normal(size=(9, 3)), dataset_digest=digest * 64)
    files = images.Files(tmp_path)
    assert {digest for digest, _ in files.tested} == {"d" * 64, "e" * 64}
    assert len({names for _, names in files.tested}) == 2  # of the test images, and of all
    assert all(told["dataset_digest"] == digest for (digest, _), (told, _) in files.tested.items())


def test_files_are_found_by_identity_and_broken_ones_named(tmp_path, rng):
    path = file_of(tmp_path / "deep" / "f.h5", rng.normal(size=(9, 3)), model="m")
    (tmp_path / "broken.h5").write_bytes(b"no")
    files = images.Files(tmp_path)
    with features.open_file(path) as file:
        identity = file.identity
    assert files.of({"features": identity | {"path": "/etc/passwd"}}) == path
    assert files.of({"features": identity | {"model": "other"}}) is None
    assert files.of({"features": None}) is None
    assert "broken.h5" in files.faults[0]


def test_thumbnails_are_small_pictures_of_the_right_images(study):
    root = study["pictures"]
    imageset = registry.load(f"folder:{root}", data_root=root)
    identity = next(row["features"] for row in rows.read(study["results"]) if row["dataset"] == imageset.name)
    made = images.Thumbnails(root, [f"folder:{root}"], budget=1 << 20)
    names = [f"test/plain/{HOSTILE}.png", "test/b&b/01.png", "../../etc/passwd"]
    made.add(identity, names)
    assert list(made.made[imageset.name]) == names[:2]
    for name, uri in made.made[imageset.name].items():
        assert uri.startswith("data:image/webp;base64,")
        image = opened(uri)
        wanted = np.asarray(imageset.read(imageset.ids.index(name)), float)
        assert (
            np.abs(np.asarray(image, float).mean(axis=(0, 1)) - wanted.mean(axis=(0, 1))).max() < 25
        )  # of 255: WebP, and noise
        assert image.size == (30, 20)  # smaller than a thumbnail: as it is


def test_other_images_than_the_features_are_refused_and_room_ends(study, capsys):
    root = study["pictures"]
    identity = next(row["features"] for row in rows.read(study["results"]) if row["dataset"].startswith("folder-"))
    made = images.Thumbnails(root, [f"folder:{root}"], budget=1 << 20)
    made.add(identity | {"dataset_digest": "another"}, ["test/plain/01.png"])
    assert "not the data set" in made.why[identity["dataset"]]
    unnamed = images.Thumbnails(root, budget=1 << 20)
    unnamed.add(identity, ["test/plain/01.png"])
    assert "--dataset folder:PATH" in unnamed.why[identity["dataset"]]
    tight = images.Thumbnails(root, [f"folder:{root}"], budget=1)
    tight.add(identity, ["test/plain/01.png", "test/plain/02.png"])
    assert len(tight.made[identity["dataset"]]) == 1
    assert "no room" in tight.why[identity["dataset"]]
    assert "There are no images of" in capsys.readouterr().err


def test_without_umap_it_says_what_to_install(tmp_path, rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UserError, match=r"backbench\[umap\]"):
        images.feature_map(file_of(tmp_path / "f.h5", rng.normal(size=(9, 3))), most=9, umap=True)


def test_the_page_needs_neither_torch_nor_timm(study, tmp_path):
    where = ["--results-dir", str(study["results"]), "--cache-dir", str(study["cache"]), "--out", "p.html"]
    code = "import sys; from backbench.report.cli import main\n"
    code += f"main(['page', *{where!r}], standalone_mode=False)\nprint({{'torch', 'timm'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_pictures_of_a_view_are_its_sets(study, tmp_path):
    """Features of a set's test images alone (+test) show those images; another view's name or digest shows none."""
    given = f"folder:{study['pictures']}"
    origin = registry.load(given, data_root=tmp_path)
    shown = derived.plain(origin, "test")
    identity = {"dataset": shown.name, "dataset_digest": shown.digest, "seed": 42, "transform": {"exif": "ignore"}}
    thumbs = images.Thumbnails(tmp_path, [given], budget=100_000)
    thumbs.add(identity, shown.ids[:2])
    assert list(thumbs.made[shown.name]) == shown.ids[:2]
    thumbs.add(identity | {"dataset": f"{origin.name}+all"}, shown.ids[:2])
    assert "is not the data set that" in thumbs.why[f"{origin.name}+all"]
