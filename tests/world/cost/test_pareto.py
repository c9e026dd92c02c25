import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightning_sfl.world.cost.pareto import pareto_optimal

matrices = st.tuples(st.integers(1, 12), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(0, 4).map(float))
)


def beaten(row, others):
    return any(
        all(b <= a for a, b in zip(row, other, strict=True)) and any(b < a for a, b in zip(row, other, strict=True))
        for other in others
    )


@given(matrices)
def test_as_by_comparing_every_row_with_every_other(costs):
    rows = costs.tolist()
    assert pareto_optimal(costs).tolist() == [not beaten(row, rows) for row in rows]


@given(matrices)
def test_a_column_with_an_unknown_does_not_count(costs):
    unknown = np.full((len(costs), 1), 1.0)
    unknown[0] = np.nan
    assert pareto_optimal(np.hstack([unknown, costs])).tolist() == pareto_optimal(costs).tolist()


@pytest.mark.parametrize(
    ("costs", "optimal"),
    [
        ([[1, 3], [2, 2], [3, 1], [3, 3]], [True, True, True, False]),
        ([[1, 1], [1, 1], [1, 2]], [True, True, False]),
        ([[np.inf, 1], [2, 2]], [True, True]),
        ([[np.nan], [2]], [True, True]),
    ],
)
def test_examples(costs, optimal):
    assert pareto_optimal(np.array(costs, dtype=np.float64)).tolist() == optimal
