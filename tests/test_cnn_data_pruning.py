"""Which pictures an epoch shows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backbench.cnn import data_pruning, recipe


def made(epochs=9, **settings):
    return recipe.make("base", tuple(f"{key}={value}" for key, value in settings.items()), epochs=epochs)


def test_the_first_epoch_and_the_last_eighth_show_all():
    whole = [[data_pruning.left_out(made(e), k, 1000)[1] == 0 for k in range(e)] for e in (1, 2, 4, 17)]
    assert whole[:3] == [[True], [True, True], [True, False, False, True]]
    assert [k for k in range(17) if whole[3][k]] == [0, 15, 16]
    reference = recipe.make("reference")
    assert all(data_pruning.left_out(recipe.fitted(reference, 50_000), k, 50_000)[1] == 0 for k in range(8))


def test_of_the_easy_ones_a_share_stays_and_all_others():
    losses = np.array([5, 1, 4, 2, np.inf, 3.0, 9, 8, 7, 6])
    ours = made(prune=0.6, prune_easy=0.5)
    seen = [data_pruning.shown(losses, ours, 3, np.random.default_rng(seed)) for seed in range(200)]
    hard, easy = {4, 6, 7, 8, 9}, {0, 1, 2, 3, 5}
    assert all(hard <= set(one) and len(set(one) & easy) == 2 for one in seen)
    often = np.bincount(np.concatenate(seen), minlength=10)[sorted(easy)] / 200
    assert np.allclose(often, 0.4, atol=0.12)  # each of them by the same chance


@given(st.integers(16, 300), st.floats(0, 1), st.floats(0, 0.8), st.integers(0, 8))
def test_as_many_as_a_run_is_counted_with(n, prune, easy, epoch):
    ours, draw = made(prune=prune, prune_easy=easy), np.random.default_rng(n)
    rows = data_pruning.shown(draw.random(n), ours, epoch, draw)
    assert len(rows) == n - data_pruning.left_out(ours, epoch, n)[1]
    assert len(np.unique(rows)) == len(rows)
    assert len(rows) > 0
