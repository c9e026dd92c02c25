"""The exact sweep over splits: every client one of its options, so that all costs and the longest stages are least.

    min over one option o_i per client of  Σ_i cost_i(o_i) + Σ_s weight_s · max_i t_s,i(o_i) + base(max_i depth(o_i))

With two stages (Wei & Chen 2026, Alg. 1) this is solved exactly: given thresholds T1 and T2, every client takes the
cheapest of its options that keeps both, and a threshold is the time of some option. All pairs of thresholds are
answered at once: an option's cost stands at its own two times, and a running minimum along both axes leaves at every
(T1, T2) the cheapest that fits. What depends on the deepest cut is constant within an outer loop over it.

A round has more stages that everybody waits for: weights and layers that are sent at its beginning, uploads at its end.
These are left free at first, and paid for as they come out at every deepest cut; then the best found is improved two
stages at a time, the others kept below what they are, until no pair improves it. That is exact for two
stages, and never worse than the start for more. Where there are more different times than a table has room for, its
thresholds are spread evenly over the logarithm, which costs a share of at most their distance.
"""

import dataclasses
import itertools

import numpy as np

from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray

_ENTRIES = 2_000_000  # of a table (T1, T2, K), 16 MB
_FEWEST = 16
_SMALL = 64  # options in all, up to which several starts are improved
_STARTS = 12
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """What K clients choose from: O options each, of which every client takes one.

    Attributes:
        cost: What an option costs by itself, (K, O); infinite where a client has no such option.
        time_s: What it takes in every stage, (S, K, O).
        weight: What a second of every stage costs, (S,), at least 0.
        depth: The cut of every option, (O,).
        base: What there is to pay besides, for every deepest cut, (C,).
        floor_s: What every stage takes at least, (S,).
    """

    cost: FloatArray
    time_s: FloatArray
    weight: FloatArray
    depth: IntArray
    base: FloatArray
    floor_s: FloatArray

    def longest_s(self, chosen: IntArray) -> FloatArray:
        """What every stage takes if client i takes option chosen[i], (S,)."""
        everybody = np.arange(len(chosen))
        longest: FloatArray = np.maximum(self.time_s[:, everybody, chosen].max(axis=1), self.floor_s)
        return longest

    def value(self, chosen: IntArray) -> float:
        """What there is to pay then."""
        own = self.cost[np.arange(len(chosen)), chosen].sum()
        return float(own + self.weight @ self.longest_s(chosen) + self.base[self.depth[chosen].max()])


def split_sweep(options: Options, start: IntArray | None = None, *, most_thresholds: int | None = None) -> IntArray:
    """The best options, (K,); never worse than those of ``start``.

    Args:
        options: What there is to choose from; every client needs an option of finite cost.
        start: What is to be improved.
        most_thresholds: How many times of a stage are tried; None: as many as there is room for.
    """
    room = max(_FEWEST, int(np.sqrt(_ENTRIES / len(options.cost))))
    if most_thresholds is not None:
        room = min(room, most_thresholds)
    stages = [int(stage) for stage in np.flatnonzero(options.weight > 0)]
    stages = sorted(stages, key=lambda stage: -_spread(options, stage))
    best = _cheapest(options, np.isfinite(options.cost)) if start is None else start
    value = options.value(best)
    pairs = list(itertools.combinations(stages, 2)) or [(0, 0)]
    starts = [best]
    if len(pairs) > 1:
        free = np.full(len(options.weight), np.inf)
        small = options.cost.size <= _SMALL
        for pair in pairs if small else pairs[:1]:
            starts += _swept(options, pair, free, value, room, every_depth=True)
        starts = sorted(starts, key=options.value)[: _STARTS if small else 1]
    return min((_improved(options, pairs, chosen, room) for chosen in starts), key=options.value)


def _improved(options: Options, pairs: list[tuple[int, int]], best: IntArray, room: int) -> IntArray:
    """What no pair of stages can improve."""
    value = options.value(best)
    untried = list(pairs)
    while untried:
        pair = untried.pop(0)
        caps = options.longest_s(best)
        for chosen in _swept(options, pair, caps, value, room):
            if (found := options.value(chosen)) < value * (1 - _ROUNDING):
                best, value = chosen, found
                untried = [other for other in pairs if other != pair]
    return best


def _spread(options: Options, stage: int) -> float:
    """How much of a stage's price is a matter of choice."""
    allowed = np.isfinite(options.cost)
    most = np.where(allowed, options.time_s[stage], -np.inf).max()
    least = np.where(allowed, options.time_s[stage], np.inf).min(axis=1).max()
    return float(options.weight[stage] * (most - least))


def _cheapest(options: Options, allowed: BoolArray) -> IntArray:
    """Everybody's cheapest option among those allowed, (K,)."""
    chosen: IntArray = np.where(allowed, options.cost, np.inf).argmin(axis=1)
    return chosen


def _swept(
    options: Options, pair: tuple[int, int], caps: FloatArray, value: float, room: int, *, every_depth: bool = False
) -> list[IntArray]:
    """The best options for a pair of stages, the other stages kept below their caps.

    Returns:
        The best of all, or the best at every deepest cut; none where nothing can be better than ``value``.
    """
    allowed = np.isfinite(options.cost)
    for stage in range(len(caps)):
        if stage not in pair:
            allowed &= options.time_s[stage] <= caps[stage]
    grids = [_thresholds(options, stage, allowed, value, room) for stage in pair]
    if not all(len(grid) for grid in grids):
        return []
    first, second = pair
    places = [np.searchsorted(grid, options.time_s[stage]) for grid, stage in zip(grids, pair, strict=True)]
    allowed &= (places[0] < len(grids[0])) & (places[1] < len(grids[1]))
    table = np.full((len(grids[0]), len(grids[1]), len(options.cost)), np.inf)
    price = options.weight[first] * grids[0][:, None]
    if first != second:
        price = price + options.weight[second] * grids[1][None]
    fixed = sum(options.weight[stage] * caps[stage] for stage in range(len(caps)) if stage not in pair)
    free = not np.isfinite(fixed)
    found: list[tuple[float, IntArray]] = []
    least_price = float(price.min()) + (0.0 if free else float(fixed))
    least_cost = float(np.where(allowed, options.cost, np.inf).min(axis=1).sum())
    for depth in np.unique(options.depth):
        there = np.flatnonzero(options.depth == depth)
        clients, columns = np.nonzero(allowed[:, there])
        columns = there[columns]
        if not len(clients):
            continue
        entries = (places[0][clients, columns], places[1][clients, columns], clients)
        np.minimum.at(table, entries, options.cost[clients, columns])
        if options.base[depth:].min() + least_price + least_cost >= value:
            break
        if options.base[depth] + least_price + least_cost >= value:
            continue  # what is allowed here is so at every depth from here on
        for row in range(1, table.shape[0]):  # faster than accumulate, whose inner loop is not along the clients
            np.minimum(table[row], table[row - 1], out=table[row])
        for row in range(1, table.shape[1]):
            np.minimum(table[:, row], table[:, row - 1], out=table[:, row])
        total = table.sum(axis=2) + price
        place = np.unravel_index(int(total.argmin()), total.shape)
        least = float(total[place]) + float(options.base[depth]) + (0.0 if free else float(fixed))
        if np.isfinite(least) and least < value:
            fits = allowed & (options.depth <= depth) & (places[0] <= place[0]) & (places[1] <= place[1])
            found.append((least, _cheapest(options, fits)))
    if every_depth:
        return [chosen for _, chosen in found]
    return [min(found, key=lambda entry: entry[0])[1]] if found else []


def _thresholds(options: Options, stage: int, allowed: BoolArray, value: float, room: int) -> FloatArray:
    """The times of a stage that can be the longest of a choice better than ``value``, ascending, as many as fit."""
    time_s = np.where(allowed, options.time_s[stage], np.inf)
    floor = max(float(time_s.min(axis=1).max()), float(options.floor_s[stage]))
    # Everything else costs at least this, so that a threshold above what is left is too dear.
    rest = float(np.where(allowed, options.cost, np.inf).min(axis=1).sum() + options.base.min())
    for other in range(len(options.weight)):
        if other != stage:
            shortest = np.where(allowed, options.time_s[other], np.inf).min(axis=1).max()
            rest += float(options.weight[other] * max(shortest, options.floor_s[other]))
    weight = options.weight[stage]
    most = (value - rest) / weight if weight > 0 else np.inf
    most = max(most, floor) * (1 + 1e-9)
    if not np.isfinite(floor):
        return np.empty(0)
    inside = time_s[(time_s >= floor) & (time_s <= most)]
    values: FloatArray
    if len(inside) <= 4 * room and len(values := np.unique(np.append(inside, floor))) <= room:
        return values
    highest = float(inside.max())
    if highest == 0:
        return np.zeros(1)
    values = np.geomspace(max(floor, highest * 1e-9), highest, room)
    values[-1] = highest  # geomspace rounds
    return values
