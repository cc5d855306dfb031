"""The network, as timm knows it, and its recipe."""

import pytest
import timm
import torch

from backbench import UsageError
from backbench.cnn import model as networks
from backbench.cnn import recipe


@pytest.mark.parametrize("size", networks.SIZES)
def test_timm_knows_it(size):
    model = timm.create_model(f"cnn_{size}", num_classes=7).eval()
    x = torch.randn(2, 3, 32, 32)
    assert model(x).shape == (2, 7)
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    assert features.shape == (2, model.num_features)
    assert torch.allclose(model.get_classifier()(features) / model.num_features, model(x))
    model.reset_classifier(0)
    assert torch.equal(model(x), features)
    assert timm.data.resolve_data_config({}, model=model)["input_size"] == (3, 32, 32)


def test_operations_by_hand():
    """Sides 31, 15, 7 and 3; the last pooling and the head: 192 x 10."""
    model = timm.create_model("cnn_small")
    first = 31**2 * 24 * 3 * 4
    blocks = (31**2 * 24 * 32 + 15**2 * 32 * 32) + (15**2 * 32 * 96 + 7**2 * 96**2) + (7**2 * 96 * 192 + 3**2 * 192**2)
    forward = first + 9 * blocks + 1920
    assert networks.forward_macs(model, 32) == forward
    # Backward: a product for the weights and one for what comes from below, but neither for the first layer's input.
    assert networks.training_flops(model, 32) == 2 * (3 * forward - 2 * first)
    model.whiten.bias.requires_grad_(False)
    assert networks.training_flops(model, 32) == 2 * (3 * forward - 2 * first - 9 * 31**2 * 24 * 32)


def test_convolutions_begin_as_the_identity():
    layer = networks.Convolution(4, 6)
    x = torch.randn(1, 4, 5, 5)
    assert torch.allclose(layer(x)[:, :4], x, atol=1e-6)


@pytest.mark.parametrize(
    ("pictures", "side", "rows"),
    [
        (20, 3, (2, 8, 3, 40)),  # ten, and a column after each
        (20, 7, (4, 8, 7, 40)),  # five
        (14, 3, (2, 8, 3, 28)),  # seven is the most that divides them
        (6, 2, (1, 8, 2, 18)),
        (3, 3, (3, 8, 3, 3)),  # too few to pay
        (20, 15, (20, 8, 15, 15)),  # large enough alone
    ],
)
def test_small_pictures_lie_side_by_side_and_change_nothing(pictures, side, rows, monkeypatch):
    torch.manual_seed(0)
    layer, plain = networks.Convolution(8, 12), torch.nn.Conv2d(8, 12, 3, padding=1, bias=False)
    torch.nn.init.normal_(layer.weight)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(pictures, 8, side, side).to(memory_format=torch.channels_last)
    g, found, seen = torch.randn(pictures, 12, side, side), [], []
    for one in (layer, plain):
        inner = one._conv_forward
        note = lambda y, *rest, inner=inner: (seen.append(tuple(y.shape)), inner(y, *rest))[1]  # noqa: E731
        monkeypatch.setattr(one, "_conv_forward", note)
        asked = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = one(asked)
        found.append((y.float(), *torch.autograd.grad(y, (asked, one.weight), g.to(y.dtype))))
    assert seen == [rows, (pictures, 8, side, side)]
    for wide, alone in zip(*found, strict=True):
        assert wide.shape == alone.shape
        assert (wide - alone).norm() < 0.01 * alone.norm()  # bfloat16, added up in another order
    assert layer(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [networks.LEAST_SIDE, 17, 40])
def test_any_size_from_the_least_on(side):
    assert timm.create_model("cnn_large").eval()(torch.randn(1, 3, side, side)).shape == (1, 10)


def test_rates_fall_to_zero_in_a_line():
    made = recipe.make("base", ("warmup=0.2", "whiten_bias=0.5"))
    assert [recipe.rate(made, done) for done in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert [recipe.bias_rate(made, done) for done in (0, 0.25, 0.5, 1)] == pytest.approx([1, 0.5, 0, 0])


def test_epochs_follow_from_the_pictures_seen():
    made = recipe.make("base", ("images=400000", "batch_size=500"))
    assert recipe.fitted(made, 50_000).epochs == 8
    assert recipe.fitted(made, 5_000).epochs == recipe.MOST_EPOCHS
    assert recipe.fitted(made, 10**7).epochs == 1
    few = recipe.fitted(recipe.make("base", epochs=3), 100)
    assert (few.epochs, few.batch_size) == (3, 12)


def test_small_pictures_come_first():
    made = recipe.make("base", ("early_scale=0.75", "early_share=0.5"), epochs=5)
    assert [recipe.side(made, epoch) for epoch in range(5)] == [24, 24, 32, 32, 32]


def test_all_faults_at_once():
    with pytest.raises(UsageError) as error:
        recipe.make("base", ("lr=fast", "smoothing=2", "pixel=3", "views=many"))
    text = str(error.value)
    assert all(word in text for word in ("lr=fast", "smoothing=2", "Did you mean pixels", "views=many"))
    with pytest.raises(UsageError, match=r"translate=16: a move below half of pixels=32"):
        recipe.make("base", ("translate=16",))
