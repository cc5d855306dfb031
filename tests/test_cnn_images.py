"""Pictures in memory, how they are varied, and the layer that is made from them."""

import numpy as np
import pytest
import torch

from backbench import UserError
from backbench.cnn import images, job, whitening
from backbench.cnn.images import Varied, reflected, resized, statistics
from backbench.data import registry
from backbench.training.views import Views
from tests import tuning

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
"""With these, normalised pictures keep their levels."""


def numbered(n=4, side=5):
    """(N, H, W, 3): 10 times the row and the column, 100 more for each channel."""
    grid = 10 * torch.arange(side)[:, None] + torch.arange(side)
    return torch.stack([grid + 100 * c for c in range(3)], -1).clamp(max=255).byte().repeat(n, 1, 1, 1)


def varied(given, *, epoch=0, draw=0, **how):
    how = {"seed": 0, "translate": 0, "cutout": 0, "flip": False} | PLAIN | how
    made = Varied(given, how.pop("mean"), how.pop("std"), **how)
    return made(made.draw(np.arange(len(given)), epoch, np.random.default_rng(draw)))


def test_reflection_by_hand():
    assert reflected(torch.tensor([-2, -1, 0, 3, 4, 5]), 4).tolist() == [2, 1, 0, 3, 2, 1]


def test_nothing_asked_for_changes_nothing():
    given = numbered()
    assert torch.allclose(varied(given), given.permute(0, 3, 1, 2).float(), atol=1e-3)


def test_normalised_by_hand():
    # (51 / 255 - 0.1) / 0.5 = 0.2
    found = varied(torch.full((1, 2, 2, 3), 51, dtype=torch.uint8), mean=(0.1,) * 3, std=(0.5,) * 3)
    assert torch.allclose(found, torch.full((1, 3, 2, 2), 0.2), atol=1e-6)


def test_moved_pictures_are_crops_of_the_reflected_ones():
    given = numbered(n=200)
    found = varied(given, translate=2)
    room = torch.nn.functional.pad(given.permute(0, 3, 1, 2).float(), (2, 2, 2, 2), "reflect")
    moves = np.random.default_rng(0).integers(-2, 3, (2, 200, 1))[..., 0]
    for k, (down, across) in enumerate(moves.T):
        assert torch.allclose(found[k], room[k, :, 2 + down : 7 + down, 2 + across : 7 + across], atol=1e-3)
    assert len({*map(tuple, moves.T.tolist())}) == 25  # every move there is


def test_flips_alternate():
    """In two epochs running each picture is seen both ways; about half are mirrored in each."""
    given = numbered(n=200)
    first, second, third = (varied(given, epoch=e, flip=True) for e in range(3))
    assert torch.equal(first, second.flip(3))
    assert torch.equal(first, third)
    as_given = (first == varied(given)).all((1, 2, 3)).sum()
    assert 70 < as_given < 130


def test_cutout_sets_a_square_to_the_mean():
    given = torch.full((50, 8, 8, 3), 255, dtype=torch.uint8)
    found = varied(given, cutout=3)[:, 0] == 0
    assert found.any((1, 2)).all()  # at least one pixel of each
    for one in found:
        down, across = one.nonzero().T
        assert one[down.min() : down.max() + 1, across.min() : across.max() + 1].all()
        assert max(down.max() - down.min(), across.max() - across.min()) < 3
    assert found.sum((1, 2)).max() == 9


def test_statistics_and_resizing_by_hand():
    half = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    half[0] = 255
    assert statistics(half) == ((0.5,) * 3, (0.5,) * 3)
    assert torch.equal(resized(half, 2), half[:, :2, :2])


def test_whitening_by_hand():
    # Patches of one pixel, 2 and 4 in the only channel: mean square 10.
    found = whitening.filters(torch.tensor([[[[2.0, 4.0]]]]), 1, eps=0.0)[:, 0, 0, 0]
    assert found.tolist() == pytest.approx([10**-0.5, -(10**-0.5)])


def test_whitened_patches_are_uncorrelated_and_of_equal_spread():
    torch.manual_seed(0)
    given = torch.nn.functional.avg_pool2d(torch.randn(50, 3, 12, 12), 3, 1)  # neighbours are alike
    filters = whitening.filters(given, 2, eps=0.0)
    assert filters.shape == (24, 3, 2, 2)
    assert torch.equal(filters[:12], -filters[12:])
    found = torch.nn.functional.conv2d(given, filters[:12]).permute(1, 0, 2, 3).flatten(1)
    assert torch.allclose(found @ found.T / found.shape[1], torch.eye(12), atol=1e-3)


def test_views_by_hand():
    """A model that says the first pixel. Numbers 0..8; the mirror image has 2 there, those moved 4 on either side."""
    given = torch.arange(9.0).view(1, 1, 3, 3)
    model = torch.nn.Identity()
    model.forward = lambda x: x[:, 0, 0, :1]
    assert Views(model, "none")(given).item() == 0
    assert Views(model, "flip")(given).item() == 1
    assert Views(model, "all")(given).item() == pytest.approx(0.5 * 1 + 0.25 * (4 + 4))


def test_a_share_is_of_each_class_and_lies_in_the_larger_one():
    digits = registry.load("digits", data_root=".")
    found = {share: job.prepared(digits, split="study", share=share) for share in (0.1, 0.3, 1.0)}
    train = {share: set(np.flatnonzero(one.split == 0)) for share, one in found.items()}
    assert train[0.1] < train[0.3] < train[1.0]
    for share in (0.1, 0.3):
        counts = np.bincount(digits.labels[sorted(train[share])], minlength=10)
        whole = np.bincount(digits.labels[digits.split == 0], minlength=10)
        assert (np.abs(counts - share * whole) <= 0.5).all()
        for code in (1, 2):
            assert np.array_equal(found[share].split == code, digits.split == code)
    usual = job.prepared(digits, split="usual", share=1.0).split
    assert np.array_equal(usual == 0, digits.split < 2)
    assert np.array_equal(usual == 2, digits.split == 2)


def test_what_can_not_be_trained_on_is_said(tmp_path, monkeypatch):
    few = tuning.imageset(tuning.pictures(tmp_path / "few", train=1, val=4))
    with pytest.raises(UserError, match=r"3 training images of 3 classes are too few .* probe --shots"):
        job.prepared(few, split="study", share=1.0)
    tiny = tuning.imageset(tuning.pictures(tmp_path / "tiny", val=3))
    with pytest.raises(UserError, match="val has 9 images, too few to choose weights on"):
        job.prepared(tiny, split="study", share=1.0)
    assert (job.prepared(tiny, split="usual", share=1.0).split == 0).sum() == 33
    monkeypatch.setattr(images, "memory", lambda device: 1000)
    with pytest.raises(UserError, match=r"Use a smaller --pixels, or finetune"):
        images.read(tiny, job.network(job.recipe.make("small"), 2, 0))


def test_large_pictures_are_warned_of(tmp_path, capsys):
    imageset = tuning.imageset(tuning.pictures(tmp_path))  # 48 x 40
    for side, warned in ((32, False), (9, True)):
        images.read(imageset, job.network(job.recipe.make("small", pixels=side, translate=2), 2, 0))
        assert ("have sides of about 48 pixels" in capsys.readouterr().err) == warned
