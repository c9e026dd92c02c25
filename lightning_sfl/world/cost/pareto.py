"""Which of several choices is not beaten by another in everything that counts."""

import numpy as np

from lightning_sfl.world.arrays import BoolArray, FloatArray


def pareto_optimal(costs: FloatArray) -> BoolArray:
    """Say which rows are Pareto-optimal: no other row is as low in every column and lower in one.

    Args:
        costs: One row per choice, one column per cost, all of them better when lower. A column with a NaN, a cost that
            is not modelled, does not count.

    Returns:
        One entry per row. Equal rows are optimal together.
    """
    counted = costs[:, ~np.isnan(costs).any(axis=0)]
    optimal = np.ones(len(counted), dtype=np.bool_)
    for row, cost in enumerate(counted):
        optimal[row] = not ((counted <= cost).all(axis=1) & (counted < cost).any(axis=1)).any()
    return optimal
