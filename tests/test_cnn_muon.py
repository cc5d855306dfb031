"""The optimizer, against numbers worked out by hand and against torch's SGD."""

import pytest
import torch

from backbench.cnn.muon import COEFFICIENTS, Muon, orthogonal


def quintic(x, steps):
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        x = a * x + b * x**3 + c * x**5
    return x


def test_one_iteration_by_hand():
    # diag(3, 4) / 5 is diag(0.6, 0.8);  3.4445 0.6 - 4.7750 0.216 + 2.0315 0.07776 = 1.19327, and 0.97647 of 0.8.
    found = orthogonal(torch.diag(torch.tensor([3.0, 4.0]))[None], steps=1)[0]
    assert torch.allclose(found, torch.diag(torch.tensor([1.19327, 0.97647])), atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_singular_values_come_near_one_and_vectors_stay(shape):
    torch.manual_seed(0)
    given = torch.randn(3, *shape)
    found = orthogonal(given, steps=5)
    for one, other in zip(given, found, strict=True):
        u, s, vh = torch.linalg.svd(one, full_matrices=False)
        turned = u.T @ other @ vh.T
        assert torch.allclose(turned, torch.diag(quintic(s / s.norm(), 5)), atol=1e-3)
        assert turned.diag().min() > 0.6 and turned.diag().max() < 1.3  # noqa: PT018


def test_a_step_of_filters_by_hand():
    """Two filters of one weight each: (3, 4) is brought to the norm sqrt(2), then moved by lr along the gradient."""
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]).view(2, 1, 1, 1))
    optimizer = Muon([{"params": [weight], "lr": 0.1, "momentum": 0.5, "filters": True}])
    weight.grad = torch.tensor([2.0, 0.0]).view(2, 1, 1, 1)
    optimizer.step()
    scale = 2**0.5 / 5
    expected = [3 * scale - 0.1 * quintic(1.0, 3), 4 * scale]
    assert weight.flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_other_weights_go_as_sgd_with_nesterov_does():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(4)) for _ in range(2))
    optimizers = (
        Muon([{"params": [ours], "lr": 0.1, "momentum": 0.9}]),
        torch.optim.SGD([theirs], lr=0.1, momentum=0.9, nesterov=True),
    )
    for _ in range(4):
        gradient = torch.randn(4)
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_decay_falls_with_the_rate():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = Muon([{"params": [weight], "lr": 0.4, "weight_decay": 0.1}])
    weight.grad = torch.zeros(1)
    optimizer.rates([0.5])
    optimizer.step()
    assert weight.item() == pytest.approx(0.95)


def test_a_weight_without_a_gradient_stays():
    still, moved = (torch.nn.Parameter(torch.ones(2, 1, 1, 1)) for _ in range(2))
    optimizer = Muon([{"params": [still, moved], "lr": 0.1, "filters": True}])
    moved.grad = torch.ones_like(moved)
    optimizer.step()
    assert torch.equal(still, torch.ones_like(still))
    assert not torch.equal(moved, still)
