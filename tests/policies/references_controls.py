"""The exact reference for clock, power and bandwidth of given splits: SciPy on the problem as it is written."""

import numpy as np
from scipy.optimize import minimize

from lightning_sfl.policies.solvers.controls import Limits, Setting, Work

LN2 = np.log(2.0)


def best_cost(work: Work, limits: Limits, tries: Setting) -> float:
    """The least cost that sequential quadratic programming finds, in logarithms, started from a setting; M = 1.

    Infinite where it does not end.

    Unknowns: log share, log seconds per bit, log bandwidth of every client, and the thresholds, as shares of those at
    the start.
    """
    clients, stages = work.clock_price.shape[1], len(work.weight)
    a, b, c = work.clock_s[:, 0], work.bit[:, 0], work.given_s[:, 0]
    g, most = limits.gain_to_noise_hz_per_watt, limits.most_watt

    def parts(z):
        logs = z[: 3 * clients].reshape(3, clients)
        return np.exp(logs), z[3 * clients :] * unit_s

    def watt(x, w):
        return w / g * np.expm1(np.minimum(LN2 / (w * x), 500.0))

    def cost(z):
        (share, x, w), most_s = parts(z)
        own = work.clock_price[0] * share**2 + work.bit_price[0] * watt(x, w) * x
        return (own.sum() + work.weight @ most_s) / unit

    def room(z):
        (share, x, w), most_s = parts(z)
        times = a / share + b * x + c
        found = [((most_s[:, None] - times) / unit_s[:, None]).ravel(), np.log(most) - np.log(watt(x, w))]
        if limits.total_hz is not None:
            found.append([1.0 - w.sum() / limits.total_hz])
        return np.concatenate(found)

    share, x, w = (values[0] for values in (tries.share, tries.second_per_bit, tries.band_hz))
    times = (a / share + b * x + c).max(axis=1)
    unit_s = np.where(times > 0, times, 1.0)
    unit = 1.0
    start = np.concatenate([np.log(share), np.log(x), np.log(w), np.where(times > 0, 1.0, 0.0)])
    unit = cost(start)
    ends = [(np.log(low), 0.0) for low in limits.lowest_share]
    ends += [(None, None)] * clients
    ends += [(None, None) if limits.total_hz is not None else (value, value) for value in np.log(limits.band_hz)]
    ends += [(0.0, None)] * stages
    found = minimize(
        cost,
        start,
        method="SLSQP",
        bounds=ends,
        constraints={"type": "ineq", "fun": room},
        options={"maxiter": 500, "ftol": 1e-9},
    )
    return float(found.fun * unit) if found.success and (room(found.x) > -1e-6).all() else np.inf
