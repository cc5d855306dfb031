"""The input guard, with numbers worked out by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.guard import InputGuard, InputRangeError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def normalised(pixels, mean, std, scale=1.0):
    """Pixels 0..255 as a model takes them."""
    m, s = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
    return (pixels.float() / 255 * scale - m) / s


def photos(seed=0):
    torch.manual_seed(seed)
    return (torch.randn(4, 3, 16, 16) * 0.226 * 255 + 0.449 * 255).clamp(0, 255)


def test_mean_and_spread_are_those_of_everything_seen():
    guard = InputGuard(*HALF, name="m")
    # 48 values of -1 and 144 of +1: mean (144 - 48) / 192 = 0.5, spread sqrt(1 - 0.25).
    guard.see(torch.full((1, 3, 4, 4), -1.0), check=False)
    for _ in range(3):
        guard.see(torch.full((1, 3, 4, 4), 1.0), check=False)
    assert guard.mean == pytest.approx(0.5)
    assert guard.std == pytest.approx(0.75**0.5)


def test_what_is_expected_follows_from_the_normalisation():
    guard = InputGuard(*HALF, name="m")
    assert (guard.lowest, guard.highest) == (-1, 1)
    assert guard.expected_mean == pytest.approx((0.449 - 0.5) / 0.5)
    assert guard.expected_std == pytest.approx(0.226 / 0.5)


@pytest.mark.parametrize(("mean", "std"), [IMAGENET, HALF])
def test_the_published_mistake_is_stopped_and_measured(mean, std):
    """0..255 into mean and std for 0..1: 255 times the expected spread."""
    InputGuard(mean, std, name="m").see(normalised(photos(), mean, std))
    with pytest.raises(InputRangeError) as caught:
        InputGuard(mean, std, name="vit").see(normalised(photos(), mean, std, scale=255))
    message = str(caught.value)
    assert "vit" in message
    assert "--no-input-guard" in message
    times = int(message.split("about ")[1].split()[0])
    assert 230 < times < 280


def test_dividing_by_255_twice_is_stopped():
    with pytest.raises(InputRangeError, match="divided by 255 twice"):
        InputGuard(*IMAGENET, name="m").see(normalised(photos(), *IMAGENET, scale=1 / 255))


def test_nan_input_is_stopped():
    with pytest.raises(InputRangeError):
        InputGuard(*IMAGENET, name="m").see(torch.full((1, 3, 4, 4), float("nan")))


def test_unchecked_it_only_measures():
    guard = InputGuard(*IMAGENET, name="m")
    guard.see(normalised(photos(), *IMAGENET, scale=255), check=False)
    assert guard.std > 200


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=4),
    st.sampled_from([IMAGENET, HALF]),
)
def test_no_real_image_is_stopped(shades, norm):
    """Two-tone images of any shades (black on black but for a few levels excepted) pass."""
    guard = InputGuard(*norm, name="m")
    for dark, light in shades:
        pixels = torch.full((1, 3, 8, 8), dark)
        pixels[..., ::2] = light if abs(light - dark) > 4 else (dark + 5) % 256
        guard.see(normalised(pixels, *norm))
