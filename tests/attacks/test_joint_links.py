import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.joint.links import View, explained, links, most_telling
from attacks.joint.stacked import of_rows, stacked
from attacks.smashed.distance import relative_distance

NOBODY = torch.full((3,), math.inf, dtype=torch.float64)


# Which rows belong together


def test_a_row_is_explained_by_the_squared_distance_over_its_own_size():
    """Rows (3, 4) and (0, 0); records (3, 4), (0, 0): 0/25 and 25/25; a row of zeros is nobody's."""
    rows = (torch.tensor([[3.0], [0.0]]), torch.tensor([[4.0], [0.0]]))
    records = (torch.tensor([[3.0], [0.0]]), torch.tensor([[4.0], [0.0]]))

    assert explained(records, rows).tolist() == [[0.0, math.inf], [1.0, math.inf]]


def test_pairs_are_nearest_to_one_another_by_far():
    """Record 0 is row 2's, record 1 is row 0's; row 1 is nobody's: both records have a nearer one."""
    distance = torch.tensor([[0.9, 0.8, 0.01], [0.02, 0.7, 0.9]], dtype=torch.float64)

    assert links(distance, NOBODY, 0.5) == [(0, 2), (1, 0)]


@pytest.mark.parametrize(
    "distance",
    [
        pytest.param([[0.1, 0.15, 1.0], [1.0, 1.0, 1.0]], id="another row is nearly as near"),
        pytest.param([[0.1, 1.0, 1.0], [0.15, 1.0, 1.0]], id="another record is nearly as near"),
        pytest.param([[math.inf, math.inf, math.inf]], id="labels differ everywhere"),
    ],
)
def test_a_doubtful_pair_is_left_out(distance):
    """0.1 is above half of 0.15."""
    assert links(torch.tensor(distance, dtype=torch.float64), NOBODY, 0.5) == []


def test_a_single_row_without_anything_to_compare_it_to_is_left_out():
    """A batch of one record meets a batch of one record: nearest it is, but nearer than what?"""
    alone = torch.tensor([[0.1]], dtype=torch.float64)

    assert links(alone, torch.tensor([math.inf], dtype=torch.float64), 0.5) == []
    assert links(alone, torch.tensor([0.19], dtype=torch.float64), 0.5) == []
    assert links(alone, torch.tensor([0.2], dtype=torch.float64), 0.5) == [(0, 0)]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_no_record_and_no_row_is_in_two_pairs(records, rows, seed):
    draw = torch.Generator().manual_seed(seed)
    found = links(torch.rand(records, rows, generator=draw), torch.full((rows,), math.inf), 0.9)

    assert len({record for record, _ in found}) == len({row for _, row in found}) == len(found)


def test_wide_cuts_are_taken_first_then_views_of_records_of_which_nothing_is_known():
    """View 0 adds 10 to record 0, view 1 adds 10 to each of two; then view 0 adds nothing but .1, view 2 adds 5."""
    first = View(place=0, pairs=((0, 0),), elements=10)
    wide = View(place=1, pairs=((0, 3), (1, 2)), elements=10)
    other = View(place=2, pairs=((2, 0),), elements=5)

    assert most_telling([first, wide, other], 3, 2) == [wide, other]
    assert most_telling([first, wide, other], 3, 9) == [wide, other, first]


def test_views_without_pairs_are_left_out():
    assert most_telling([View(place=0, pairs=(), elements=10)], 3, 2) == []


# Several things as one


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.1, 2)), min_size=1, max_size=4), st.integers(0, 10**6))
def test_the_distance_of_a_stack_is_the_weighted_mean_of_its_terms(terms, seed):
    """‖f−z‖²/‖z‖² = Σ wₜ·rₜ/Σ wₜ, whatever the terms' own scales: each is divided by ‖zₜ‖."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 1, 3, 3, generator=draw)
    parts = []
    for scale, weight in terms:
        matrix = torch.randn(9, 4, generator=draw) * scale
        sent = (torch.randn(2, 4, generator=draw) * scale,)
        parts.append((lambda given, matrix=matrix: (given.flatten(1) @ matrix,), sent, weight))

    forward, target = stacked(parts)

    expected = sum(w * relative_distance(f(images), z) for f, z, w in parts) / sum(w for _, _, w in parts)
    assert relative_distance(forward(images), target) == pytest.approx(float(expected), rel=1e-4)


def test_a_term_of_zeros_is_left_out_and_a_stack_of_nothing_is_refused():
    zeros = (lambda images: (images,), (torch.zeros(1, 1, 2, 2),), 1.0)
    ones = (lambda images: (images,), (torch.ones(1, 1, 2, 2),), 1.0)

    assert len(stacked([zeros, ones])[1]) == 1
    with pytest.raises(ValueError, match="Nothing can be fitted: every term is zero"):
        stacked([zeros])


def test_a_forward_of_rows_sees_those_images_in_that_order():
    images = torch.arange(4.0).reshape(4, 1, 1, 1)

    (seen,) = of_rows(lambda given: (given,), torch.tensor([2, 0]))(images)

    assert seen.flatten().tolist() == [2, 0]
