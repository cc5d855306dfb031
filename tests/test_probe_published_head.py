"""The published study's training: Adam with L2, five epochs, to the same bits for a seed."""

import json
import subprocess
import sys
from unittest.mock import patch

import numpy as np
import pytest
import torch

from backbench.probe import published_head
from backbench.probe.published_head import PublishedHead
from tests.conftest import ROOT
from tests.toy import clusters, mapped, split


def adam(x, labels, weights, intercept, *, decay):
    """Five steps of Adam on mean cross-entropy, the decay added to the gradient. Kingma & Ba (2015), algorithm 1."""
    parameters = np.column_stack([weights, intercept])
    m, v, losses = np.zeros_like(parameters), np.zeros_like(parameters), []
    x = np.column_stack([x, np.ones(len(x))])
    for t in range(1, 6):
        logits = x @ parameters.T
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        losses.append(-np.log(p[np.arange(len(x)), labels]).mean())
        p[np.arange(len(x)), labels] -= 1
        gradient = p.T @ x / len(x) + decay * parameters
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        parameters = parameters - 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return parameters, losses


def test_one_batch_an_epoch_is_five_steps_of_adam_from_torchs_linear():
    data = split(clusters(150, 6, 3), 100)
    with patch.object(published_head, "WEIGHT_DECAY", 0.1):  # the published one changes no digit in five steps
        head = PublishedHead(data, n_classes=3, seed=7)
    torch.manual_seed(7)
    layer = torch.nn.Linear(6, 3)
    start = (p.detach().numpy().astype(float) for p in (layer.weight, layer.bias))
    parameters, losses = adam(data.train.features.astype(float), data.train.labels, *start, decay=0.1)
    np.testing.assert_allclose(head.head.weights, parameters[:, :-1], atol=1e-6)
    np.testing.assert_allclose(head.head.intercept, parameters[:, -1], atol=1e-6)
    assert head.protocol["train_loss"] == pytest.approx(losses, rel=1e-5)


def test_the_protocol_is_the_published_one():
    protocol = PublishedHead(split(clusters(30, 6, 3), 20), n_classes=3, seed=0).protocol
    published = {"optimiser": "Adam", "learning_rate": 1e-3, "weight_decay": 1e-5, "batch_size": 256, "epochs": 5}
    assert protocol.items() >= published.items()
    json.dumps(protocol, allow_nan=False)


def test_the_same_seed_gives_the_same_bits_mapped_or_not(tmp_path):
    data = split(clusters(700, 8, 4, spread=3.0), 600)
    here, again, other = (PublishedHead(data, n_classes=4, seed=seed) for seed in (1, 1, 2))
    there = PublishedHead(mapped(data, tmp_path / "f"), n_classes=4, seed=1)
    for head in (again, there):
        np.testing.assert_array_equal(here.head.weights, head.head.weights)
        np.testing.assert_array_equal(here.val_scores, head.val_scores)
        assert here.protocol == head.protocol
    assert (here.head.weights != other.head.weights).all()


def test_every_image_is_used_once_an_epoch_in_batches_of_the_size_asked_for():
    data = split(clusters(110, 3, 2), 100)
    with patch.object(type(data.train), "__getitem__", autospec=True, side_effect=type(data.train).__getitem__) as get:
        head = PublishedHead(data, n_classes=2, seed=0, batch_size=40)
    batches = [call.args[1] for call in get.call_args_list]
    assert [len(batch) for batch in batches] == [40, 40, 20] * 5
    epochs = [np.concatenate(batches[i : i + 3]) for i in range(0, 15, 3)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert all((np.diff(batch) > 0).all() for batch in batches)  # as they lie in the file
    assert head.protocol["batch_size"] == 40


def test_it_is_fitted_on_train_alone_and_on_features_as_they_are():
    data = split(clusters(150, 6, 3), 100)
    head = PublishedHead(data, n_classes=3, seed=0)
    data.val.features[:] = 0
    np.testing.assert_array_equal(head.head.weights, PublishedHead(data, n_classes=3, seed=0).head.weights)
    assert (head.head.mean == 0).all()
    assert (head.head.scale == 1).all()
    np.testing.assert_array_equal(head.scores(data.val.features), PublishedHead(data, n_classes=3, seed=0).val_scores)


@pytest.mark.parametrize(
    ("losses", "converged"),
    [
        ([5.0, 3.0, 2.0, 1.0, 0.995], True),
        ([5.0, 3.0, 2.0, 1.0, 0.985], False),
        ([5.0, 3.0, 2.0, 1.0, 1.5], False),
        ([5.0, 3.0, 2.0, 1.0, float("nan")], False),
        ([0.0] * 5, True),
    ],
)
def test_a_loss_that_still_moves_has_not_converged(losses, converged):
    data = split(clusters(30, 6, 3), 20)
    _, head = published_head._train(data.train, n_classes=3, seed=0, batch_size=256)
    with patch.object(published_head, "_train", lambda *_, **__: (losses, head)):
        assert PublishedHead(data, n_classes=3, seed=0).converged is converged


def test_training_leaves_torchs_own_random_numbers_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    PublishedHead(split(clusters(30, 6, 3), 20), n_classes=3, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_importing_the_heads_is_cheap():
    code = (
        "import sys, backbench.probe.centroid, backbench.probe.knn, backbench.probe.predict;"
        "import backbench.probe.ridge, backbench.probe.published_head;"
        "sys.exit(' '.join({'torch', 'sklearn', 'scipy', 'h5py', 'safetensors'} & {*sys.modules}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
