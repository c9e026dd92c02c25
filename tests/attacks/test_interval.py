import numpy as np
import pytest
import torch

from attacks.interval import bootstrap_mean

VALUES = torch.tensor(np.random.default_rng(0).normal(20, 3, size=40))


def test_gives_the_mean_and_the_number_of_records():
    found = bootstrap_mean(torch.tensor([1.0, 2.0, 6.0]))

    assert found.mean == 3
    assert found.records == 3


def test_contains_the_mean_and_lies_within_the_values():
    found = bootstrap_mean(VALUES)

    assert float(VALUES.min()) < found.low < found.mean < found.high < float(VALUES.max())


def test_equal_values_leave_no_room():
    found = bootstrap_mean(torch.full((8,), 7.0))

    assert (found.low, found.mean, found.high) == (7, 7, 7)


def test_the_same_seed_gives_the_same_interval_and_another_one_another():
    assert bootstrap_mean(VALUES, seed=3) == bootstrap_mean(VALUES, seed=3)
    assert bootstrap_mean(VALUES, seed=3).low != bootstrap_mean(VALUES, seed=4).low


def test_drawing_leaves_the_global_random_state_alone():
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()

    bootstrap_mean(VALUES)

    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_the_width_is_that_of_the_normal_approximation():
    """For many values the percentile interval comes close to mean ± 1.96 standard errors (population form)."""
    found = bootstrap_mean(VALUES)

    error = float(VALUES.std(correction=0)) / len(VALUES) ** 0.5
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.15 * error)


def test_a_higher_confidence_is_wider():
    narrow, wide = bootstrap_mean(VALUES, confidence=0.5), bootstrap_mean(VALUES, confidence=0.99)

    assert wide.low < narrow.low < narrow.high < wide.high


def test_covers_the_true_mean_about_as_often_as_it_says():
    """400 samples of 40 normal values: 95 % nominal; the percentile interval falls a little short at this size."""
    draw = np.random.default_rng(1)

    hits = 0
    for seed in range(400):
        found = bootstrap_mean(torch.tensor(draw.normal(5, 2, size=40)), seed=seed)
        hits += found.low <= 5 <= found.high

    assert 0.90 <= hits / 400 <= 0.98
