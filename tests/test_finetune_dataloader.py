"""Training pictures: the same whoever makes them and whenever, and mixed alike in pieces and whole."""

import numpy as np
import pytest
import torch

from backbench import UserError
from backbench.extract.preprocess import scaled
from backbench.finetune.dataloader import Batches, Images, Mixing, loader
from backbench.finetune.recipe import make
from tests import tuning

CONFIG = {
    "input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "crop_pct": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def imageset(tmp_path_factory):
    return tuning.imageset(tuning.pictures(tmp_path_factory.mktemp("set") / "images"))


def test_a_picture_depends_on_run_epoch_and_number_alone(imageset):
    recipe = make("full", epochs=8)  # the last two of them larger
    one, other = (Images(imageset, CONFIG, recipe, seed=1) for _ in range(2))
    a = [one[0, i][0] for i in range(4)]
    b = [other[0, i][0] for i in reversed(range(4))][::-1]
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(one[0, 0][0], one[1, 0][0])
    assert not torch.equal(one[0, 0][0], Images(imageset, CONFIG, recipe, seed=2)[0, 0][0])
    assert one[5, 0][0].shape == (3, 64, 64)
    assert one[6, 0][0].shape == (3, 64, 64)  # 64 x 1.15 is nearer to 64 than to 96


def test_larger_pictures_are_whole_multiples_of_what_networks_take():
    """224 x 1.15 = 257.6, nearest to 8 x 32; a ViT of 14 pixels a patch: 518 x 1.15 = 595.7, nearest to 43 x 14."""
    assert scaled(CONFIG | {"input_size": (3, 224, 224)}, 1.15)["input_size"] == (3, 256, 256)
    assert scaled(CONFIG | {"input_size": (3, 518, 518)}, 1.15)["input_size"] == (3, 602, 602)
    assert scaled(CONFIG, 1.0) is CONFIG


def test_batches_taken_up_are_those_that_were_left():
    rows = np.arange(100, 123)
    whole = list(Batches(rows, 4, epochs=3, seed=7))
    assert len(whole) == 15
    assert {len(batch) for batch in whole} == {4}
    for epoch in range(3):
        seen = [i for batch in whole for e, i in batch if e == epoch]
        assert len(set(seen)) == 20
        assert set(seen) <= set(rows)
    assert whole[:5] != [[(0, i) for _, i in batch] for batch in whole[5:10]]
    assert list(Batches(rows, 4, epochs=3, seed=7, epoch=1, step=2)) == whole[7:]
    assert list(Batches(rows, 4, epochs=3, seed=7, epoch=1, step=5)) == whole[10:]
    assert len(Batches(rows, 4, epochs=3, seed=7, epoch=1, step=2)) == 8


def test_workers_make_what_the_process_itself_makes(imageset):
    rows = np.flatnonzero(imageset.split == 0)
    found = []
    for workers in (0, 2):
        images = Images(imageset, CONFIG, make("full", ("re_prob=1",)), seed=3)
        stream = loader(images, Batches(rows, 8, epochs=1, seed=3), tuning.accelerator(), workers=workers)
        found.append(list(stream))
    for (x, y), (u, v) in zip(*found, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    assert len(found[0]) == 3


def test_an_unreadable_image_is_named(tmp_path):
    folder = tuning.pictures(tmp_path / "images")
    found = tuning.imageset(folder)
    (folder / "train" / "bee" / "03.png").write_bytes(b"no picture")
    batches = Batches(np.flatnonzero(found.split == 0), 24, epochs=1, seed=0)
    stream = loader(Images(found, CONFIG, make("simple"), seed=0), batches, tuning.accelerator(), workers=0)
    with pytest.raises(UserError, match=r"train/bee/03.png: .*Repair or remove it"):
        next(stream)


@pytest.mark.parametrize("setting", ["mixup=1.0", "cutmix=1.0"])
def test_a_batch_is_mixed_in_pieces_as_it_is_whole(setting):
    mix = Mixing(make("simple", (setting,)), 5)
    pictures, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 5
    for seed in range(4):
        whole, targets = mix(pictures.clone(), labels, seed=seed)
        pieces = [mix(pictures[at : at + 2].clone(), labels[at : at + 2], seed=seed) for at in range(0, 8, 2)]
        assert torch.equal(whole, torch.cat([x for x, _ in pieces]))
        assert torch.equal(targets, torch.cat([y for _, y in pieces]))


def test_neighbours_are_mixed_by_hand():
    """Of image 0 (all 1, class 0) and 1 (all 3, class 1) by lam: lam + 3 (1 - lam); targets smoothed by 0.1 of 2."""
    mix = Mixing(make("simple", ("mixup=1",)), 2)
    pictures = torch.tensor([1.0, 3, 10, 20]).view(4, 1, 1, 1).expand(4, 3, 2, 2).clone()
    found, targets = mix(pictures, torch.tensor([0, 1, 1, 1]), seed=5)
    lam = (3 - found[0, 0, 0, 0].item()) / 2
    assert 0 < lam < 1
    assert found[:, 0, 0, 0].tolist() == pytest.approx([3 - 2 * lam, 1 + 2 * lam, 20 - 10 * lam, 10 + 10 * lam])
    assert targets[0].tolist() == pytest.approx([0.95 * lam + 0.05 * (1 - lam), 0.05 * lam + 0.95 * (1 - lam)])
    assert targets[3].tolist() == pytest.approx([0.05, 0.95])


def test_without_mixing_nothing_changes():
    pictures, labels = torch.randn(2, 3, 4, 4), torch.tensor([1, 0])
    found = Mixing(make("simple"), 2)(pictures, labels, seed=0)
    assert found[0] is pictures
    assert found[1] is labels
