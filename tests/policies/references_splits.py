"""The exact references for splits: all choices, and a mixed-integer program by HiGHS."""

import itertools

import numpy as np
from scipy.optimize import LinearConstraint, milp

from lightning_sfl.policies.solvers.controls import solve_controls


def best_of_all(options):
    """The least and the largest value of all choices."""
    columns = [np.flatnonzero(np.isfinite(row)) for row in options.cost]
    values = [options.value(np.array(chosen)) for chosen in itertools.product(*columns)]
    return min(values), max(values)


def best_by_program(options):
    """The least value: binaries x_io, thresholds T_s above all times chosen, and y_d that marks the deepest cut.

    Depths are counted from 0, and y_d is 1 from the deepest on: Σ_o with depth > d of x_io ≤ 1 - y_d, so that base is
    paid as Σ_d (base_d - base_(d+1)) y_d + base_(C-1), with y_(C-1) = 1; right where base grows with depth.
    """
    clients, count = options.cost.shape
    stages, depths = len(options.weight), len(options.base)
    size = clients * count + stages + depths
    cost = np.concatenate(
        [
            np.where(np.isfinite(options.cost), options.cost, 0.0).ravel(),
            options.weight,
            np.append(options.base[:-1] - options.base[1:], 0.0),
        ]
    )
    rows, low, high = [], [], []
    for client in range(clients):
        row = np.zeros(size)
        row[client * count : (client + 1) * count] = 1
        rows.append(row)
        low.append(1)
        high.append(1)
        for stage in range(stages):
            row = np.zeros(size)
            row[client * count : (client + 1) * count] = -options.time_s[stage, client]
            row[clients * count + stage] = 1
            rows.append(row)
            low.append(0)
            high.append(np.inf)
        for depth in range(depths):
            row = np.zeros(size)
            row[client * count : (client + 1) * count] = options.depth > depth
            row[clients * count + stages + depth] = 1
            rows.append(row)
            low.append(-np.inf)
            high.append(1)
    upper = np.concatenate([np.isfinite(options.cost).ravel(), np.full(stages, np.inf), np.ones(depths)])
    lower = np.concatenate([np.zeros(clients * count), options.floor_s, np.zeros(depths)])
    binary = np.concatenate([np.ones(clients * count), np.zeros(stages), np.ones(depths)])
    found = milp(
        cost, constraints=LinearConstraint(np.array(rows), low, high), bounds=(lower, upper), integrality=binary
    )
    assert found.success
    return float(found.fun + options.base[-1])


def all_values(problem, limits):
    """What every choice of cuts costs with its best clocks, powers and bandwidths."""
    columns = [np.flatnonzero(row) for row in problem.fits]
    choices = np.array(list(itertools.product(*columns)))
    return problem.values(choices, limits, solve_controls(problem.work(choices), limits))
