"""What SFLAM's solvers are measured by: slow, and written without them."""

import itertools

import numpy as np
from scipy.optimize import linear_sum_assignment, minimize, minimize_scalar
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

GOLDEN = (5**0.5 - 1) / 2


def shares(clients, total):
    """All ways of giving ``total`` subchannels to clients, one at least to each, (M, K)."""
    found = [c for c in itertools.product(range(1, total - clients + 2), repeat=clients) if sum(c) == total]
    return np.array(found)


def golden(cost, low, high, rounds):
    """The least of many functions of one kind at once, each unimodal between its ``low`` and ``high``, (M,)."""
    a, b = low.copy(), high.copy()
    c, d = b - GOLDEN * (b - a), a + GOLDEN * (b - a)
    at_c, at_d = cost(c), cost(d)
    for _ in range(rounds):
        left = at_c < at_d
        a, b = np.where(left, a, c), np.where(left, d, b)
        new = np.where(left, b - GOLDEN * (b - a), a + GOLDEN * (b - a))
        at_new = cost(new)
        c, d = np.where(left, new, d), np.where(left, c, new)
        at_c, at_d = np.where(left, at_new, at_d), np.where(left, at_c, at_new)
    return np.minimum(np.minimum(at_c, at_d), np.minimum(cost(low), cost(high)))


def least_costs(sending, band_hz, rounds=24):
    """The least cost in every row of bands, (M, K), by golden sections over the deadlines of at most two stages."""
    gain, most = sending.gain_to_noise_hz_per_watt, sending.most_watt
    fastest = 1.0 / (band_hz * np.log2(1.0 + most * gain / band_hz))
    low = [
        np.maximum(floor, (offset + bit * fastest).max(axis=1))
        for floor, offset, bit in zip(sending.floor_s, sending.offset_s, sending.bit, strict=True)
    ]

    def cost(*deadlines):
        airtime = np.min(
            [
                (deadline[:, None] - offset) / bit
                for deadline, offset, bit in zip(deadlines, sending.offset_s, sending.bit, strict=True)
            ],
            axis=0,
        )
        watt = (2.0 ** (1.0 / (band_hz * np.maximum(airtime, fastest))) - 1.0) * band_hz / gain
        joule = (sending.sent_bit * airtime * watt).sum(axis=1)
        seconds = sum(price * deadline for price, deadline in zip(sending.price_per_s, deadlines, strict=True))
        return seconds + sending.price_per_joule * joule

    first = cost(*low)
    logs = [
        (np.log(least), np.log(least + first / price)) for least, price in zip(low, sending.price_per_s, strict=True)
    ]
    if len(low) == 1:
        return golden(lambda t: cost(np.exp(t)), *logs[0], 2 * rounds)

    def outer(t):
        return golden(lambda u: cost(np.exp(t), np.exp(u)), *logs[1], rounds)

    return golden(outer, *logs[0], rounds)


def most_costs(sending, band_hz):
    """What full power costs in every row of bands, (M, K)."""
    airtime = 1.0 / (band_hz * np.log2(1.0 + sending.most_watt * sending.gain_to_noise_hz_per_watt / band_hz))
    stage_s = np.maximum(sending.floor_s, (sending.offset_s + sending.bit * airtime[:, None, :]).max(axis=2))
    joule = (sending.sent_bit * airtime * sending.most_watt).sum(axis=1)
    return stage_s @ sending.price_per_s + sending.price_per_joule * joule


def successive_convex(sending, band_hz):
    """Powers of one stage by SCA: the costs at the start and after every step.

    A client's energy p·D/r(p) is concave in p, so its first-order expansion around the last powers is above it. With
    it, the cost as a function of the deadline is convex: p grows with the rate, and the rate that a deadline needs is
    convex in it. Stops when a step saves less than 1e-4.
    """
    gain, most = sending.gain_to_noise_hz_per_watt, sending.most_watt
    offset, bit = sending.offset_s[0], sending.bit[0]

    def rate(watt):
        return band_hz * np.log2(1.0 + watt * gain / band_hz)

    def cost(watt):
        joule = (sending.sent_bit * watt / rate(watt)).sum()
        return sending.price_per_s[0] * (offset + bit / rate(watt)).max() + sending.price_per_joule * joule

    def watt_at(deadline_s):
        return np.minimum((2.0 ** (bit / ((deadline_s - offset) * band_hz)) - 1.0) * band_hz / gain, most)

    watt, costs = most, [cost(most)]
    low = (offset + bit / rate(most)).max()
    while len(costs) < 2 or costs[-1] < costs[-2] * (1.0 - 1e-4):
        steeper = gain / (np.log(2) * (1 + watt * gain / band_hz))
        slope = sending.sent_bit * (rate(watt) - watt * steeper) / rate(watt) ** 2

        def expanded(log_deadline, slope=slope):
            deadline = np.exp(log_deadline)
            joule = (slope * watt_at(deadline)).sum()
            return sending.price_per_s[0] * deadline + sending.price_per_joule * joule

        ends = np.log([low, low + costs[0] / sending.price_per_s[0]])
        best = minimize_scalar(expanded, bounds=ends, method="bounded", options={"xatol": 1e-9}).x
        watt = watt_at(np.exp(min(best, np.log(low), key=expanded)))
        costs.append(cost(watt))
    return costs


def least_of_divided_band(sending, total_hz):
    """The least cost if the band can be divided at will: one joint problem in logarithms, by SciPy's SLSQP."""
    clients, stages = len(sending.most_watt), len(sending.price_per_s)
    gain = sending.gain_to_noise_hz_per_watt
    band = np.full(clients, total_hz / clients)
    airtime = 1.0 / (band * np.log2(1.0 + sending.most_watt * gain / band))
    deadline = (sending.offset_s + sending.bit * airtime).max(axis=1)
    start = np.log(np.concatenate([deadline * 1.01, airtime * 1.0001, band]))

    def parts(x):
        found = np.exp(np.clip(x, -60, 60))
        return found[:stages], found[stages : stages + clients], found[stages + clients :]

    def watt(s, b):
        return (2.0 ** np.minimum(1.0 / (b * s), 200.0) - 1.0) * b / gain

    def cost(x):
        t, s, b = parts(x)
        return float(sending.price_per_s @ t + sending.price_per_joule * (sending.sent_bit * s * watt(s, b)).sum())

    def room(x):
        t, s, b = parts(x)
        late = np.log(t)[:, None] - np.log(sending.offset_s + sending.bit * s)
        return np.concatenate([late.ravel(), np.log(sending.most_watt / watt(s, b)), [np.log(total_hz / b.sum())]])

    constraint = {"type": "ineq", "fun": room}
    found = minimize(cost, start, method="SLSQP", constraints=constraint, options={"maxiter": 500, "ftol": 1e-12})
    assert room(found.x).min() > -1e-6
    return float(found.fun)


def min_sum(table):
    """The least sum of one subchannel for each client, (K, S): the Hungarian method."""
    return table[linear_sum_assignment(table)].sum()


def min_max(table):
    """The least of the greatest of one subchannel for each client, (K, S): bottleneck assignment by thresholds."""
    for threshold in np.unique(table):
        matched = maximum_bipartite_matching(csr_array(table <= threshold), perm_type="column")
        if (matched >= 0).all():
            return float(threshold)
    raise AssertionError
