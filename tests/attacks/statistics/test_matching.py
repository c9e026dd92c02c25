from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attacks.statistics.matching import matched


def pixels(*values: float) -> Tensor:
    """One image of one pixel for every value."""
    return torch.tensor(values)[:, None, None, None]


def total_error(rebuilt: Tensor, originals: Tensor) -> float:
    return float((rebuilt.double() - originals.double()).square().sum())


@given(records=st.integers(1, 5), seed=st.integers(0, 999), channels=st.integers(1, 2))
def test_no_order_has_a_smaller_error(records, seed, channels):
    draw = torch.Generator().manual_seed(seed)
    originals, rebuilt = torch.rand(2, records, channels, 2, 3, generator=draw)

    found = matched(rebuilt, originals)

    least = min(total_error(rebuilt[list(order)], originals) for order in permutations(range(records)))
    assert total_error(found, originals) == pytest.approx(least)


@given(order=st.permutations(range(30)), seed=st.integers(0, 99))
def test_exact_records_are_put_back_in_order(order, seed):
    originals = torch.rand(30, 1, 3, 3, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(matched(originals[list(order)], originals), originals)


def test_a_single_good_record_cannot_serve_two_originals():
    """Regression, matching with replacement (DAGER scores so): both originals would take 0.5, and 9 would be hidden."""
    found = matched(pixels(9.0, 0.5), pixels(0.4, 0.6))

    assert sorted(found.flatten().tolist()) == [0.5, 9.0]


def test_a_duplicate_serves_as_often_as_it_was_rebuilt():
    found = matched(pixels(0.5, 9.0, 0.5), pixels(0.4, 0.6, 8.0))

    assert found.flatten().tolist() == [0.5, 0.5, 9.0]


def test_the_order_is_the_best_as_a_whole_not_pair_by_pair():
    """Regression, greedy order: 0.9 is nearest to 1, which leaves 2 for 0 and a sum of 0.01 + 4; the best is 0.81 + 1.

    Going through the originals in order and taking what is nearest fails as well, from the other end: 1, then 0.
    """
    assert matched(pixels(2.0, 0.9), pixels(0.0, 1.0)).flatten().tolist() == pytest.approx([0.9, 2.0])
    assert matched(pixels(2.0, 0.9), pixels(1.0, 0.0)).flatten().tolist() == pytest.approx([2.0, 0.9])


def test_errors_are_squared():
    """Originals (0, 0) and (4, 0), rebuilt a = (−0.1, 3) and b = (0, 0).

    In the order a, b: distances 3.00 + 4 = 7.00, squares 9.01 + 16 = 25.01. In the order b, a: distances
    0 + √(4.1² + 3²) = 5.08, squares 0 + 25.81. Distances would choose b, a; squares choose a, b.
    """
    originals = torch.tensor([[0.0, 0.0], [4.0, 0.0]])[:, :, None, None]
    a, b = [-0.1, 3.0], [0.0, 0.0]

    found = matched(torch.tensor([b, a])[:, :, None, None], originals)

    assert found.flatten(1).tolist() == pytest.approx([pytest.approx(a), pytest.approx(b)])


def test_far_images_that_differ_little_are_told_apart():
    """Regression, ‖x‖² − 2xy + ‖y‖²: of 30 images near 10⁶, steps of 10⁻³ drown in rounding even in doubles."""
    originals = 1e6 + 1e-3 * torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    assert torch.equal(matched(originals.flip(0), originals), originals)


def test_the_images_themselves_come_back():
    rebuilt = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float16)

    found = matched(rebuilt, rebuilt.flip(0).float())

    assert found.dtype == torch.float16
    assert torch.equal(found, rebuilt.flip(0))
