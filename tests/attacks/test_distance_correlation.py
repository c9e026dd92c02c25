import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attacks.distance_correlation import distance_correlation


def rows(records: int, size: int, seed: int) -> Tensor:
    return torch.randn(records, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def straight(x_NP: Tensor, y_NQ: Tensor, power: int = 1) -> float:
    """Székely and Rizzo 2014, section 3.2, sum by sum: U-centred distances, their products over i ≠ j, normalised."""
    n = len(x_NP)

    def centred(z: Tensor) -> list[list[float]]:
        a = [[math.dist(z[i].tolist(), z[j].tolist()) ** power for j in range(n)] for i in range(n)]
        total = sum(map(sum, a))
        found = [[0.0] * n for _ in range(n)]
        for i in range(n):
            for j in range(n):
                if i != j:
                    down, across = sum(a[k][j] for k in range(n)) / (n - 2), sum(a[i]) / (n - 2)
                    found[i][j] = a[i][j] - down - across + total / ((n - 1) * (n - 2))
        return found

    def product(one: list[list[float]], other: list[list[float]]) -> float:
        return sum(one[i][j] * other[i][j] for i in range(n) for j in range(n) if i != j) / (n * (n - 3))

    a, b = centred(x_NP), centred(y_NQ)
    return product(a, b) / math.sqrt(product(a, a) * product(b, b))


@given(records=st.integers(4, 7), sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=st.integers(0, 999))
def test_equals_the_definition_written_out(records, sizes, seed):
    x, y = rows(records, sizes[0], seed), rows(records, sizes[1], seed + 1)

    assert distance_correlation(x, y) == pytest.approx(straight(x, y), abs=1e-9)


def test_distances_are_not_squared():
    """Regression, SIMBA's distance correlation squares them: that is the squared linear correlation, and blind here.

    y = x² with x symmetric around 0: the covariance Σ x·x² is 0, though y is a function of x.
    """
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    y = x.square()

    assert straight(x, y, power=2) < 0.01
    assert distance_correlation(x, y) == pytest.approx(straight(x, y))
    assert distance_correlation(x, y) > 0.15


@given(records=st.integers(4, 9), size=st.integers(1, 5), seed=st.integers(0, 99), scale=st.sampled_from([1e-6, 3.0]))
def test_is_one_for_a_sample_against_itself_scaled_moved_and_turned(records, size, seed, scale):
    """Distances are then the same but for a factor."""
    x = rows(records, size, seed)
    turn = torch.linalg.qr(rows(size, size, seed + 1))[0]

    assert distance_correlation(x, x) == pytest.approx(1)
    assert distance_correlation(x, scale * x @ turn + 5) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("size", [1, 200])
def test_is_zero_on_average_for_independent_samples(size):
    """100 pairs of 10 records. The biased estimator goes to 1 as dimensions grow; this one stays at 0."""
    found = torch.tensor(
        [distance_correlation(rows(10, size, seed), rows(10, size, 1000 + seed)) for seed in range(100)]
    )

    assert abs(float(found.mean())) < 4 * float(found.std()) / 10
    assert float(found.min()) < 0


def test_is_the_same_both_ways_and_in_any_order_of_records():
    x, y, order = rows(8, 2, 0), rows(8, 3, 1), torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])

    assert distance_correlation(x, y) == pytest.approx(distance_correlation(y, x))
    assert distance_correlation(x[order], y[order]) == pytest.approx(distance_correlation(x, y))
    assert distance_correlation(x[order], y) != pytest.approx(distance_correlation(x, y))


def test_images_are_flattened_and_half_precision_is_widened():
    x, y = rows(6, 12, 0).half(), rows(6, 4, 1).half()

    found = distance_correlation(x.reshape(6, 3, 2, 2), y.reshape(6, 1, 2, 2))

    assert found == pytest.approx(distance_correlation(x.double(), y.double()))


@pytest.mark.parametrize("alike", [torch.ones(8, 3), 0.3 * torch.eye(8), 1e-9 * torch.eye(8), 1e9 * torch.eye(8)])
def test_is_zero_where_all_records_are_equally_far_from_each_other(alike):
    """U-centred, a constant distance d is d·(1 − 2(n−1)/(n−2) + n/(n−2)) = 0 but for rounding, which is no signal."""
    assert distance_correlation(alike, rows(8, 3, 0)) == 0
    assert distance_correlation(alike, alike) == 0


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(wrong):
    """Regression: they gave 0, as if the samples were independent."""
    x = rows(5, 2, 0)
    x[3, 1] = wrong

    with pytest.raises(ValueError, match="finite"):
        distance_correlation(x, rows(5, 2, 1))
    with pytest.raises(ValueError, match="finite"):
        distance_correlation(rows(5, 2, 1), x)


@pytest.mark.parametrize(("one", "other"), [(3, 3), (5, 4), (0, 0)])
def test_too_few_or_unpaired_records_are_refused(one, other):
    with pytest.raises(ValueError, match=rf"rows={one} and {other} are not accepted: give as many of both, at least 4"):
        distance_correlation(rows(one, 2, 0), rows(other, 2, 1))
