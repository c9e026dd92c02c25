"""The exact sweep over splits: every client one of its options, so that all costs and the longest stages are least.

    min over one option o_i per client of  Σ_i cost_i(o_i) + Σ_s weight_s · max_i t_s,i(o_i) + base(max_i depth(o_i))

With two stages (Wei & Chen 2026, Alg. 1) this is solved exactly: given thresholds T1 and T2, every client takes the
cheapest of its options that keeps both, and a threshold is the time of some option. All pairs of thresholds are
answered at once: an option's cost stands at its own two times, and a running minimum along both axes leaves at every
(T1, T2) the cheapest that fits. What depends on the deepest cut is constant within an outer loop over it.

A round has more stages that everybody waits for: weights and layers that are sent at its beginning, uploads at its end.
These are left free at first, and paid for as they come out at every deepest cut; then the best found is improved two
stages at a time, the others kept below what they are, until no pair improves it. That is exact for two
stages, and never worse than the start for more; where options are few, a search goes on from there
(:mod:`lightning_sfl.policies.solvers.split_search`). Where there are more different times than a table has room for,
its thresholds are spread evenly over the logarithm, which costs a share of at most their distance.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from lightning_sfl.policies.solvers.split_options import Options
from lightning_sfl.policies.solvers.split_search import split_search
from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray

_ENTRIES = 2_000_000  # of a table (T1, T2, K), 16 MB
_FEWEST = 16
_AT_ONCE = 200_000  # entries, of the tables of some deepest cuts
_SMALL = 512  # options in all, up to which they are searched
_ROUNDING = 1e-12


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
    pairs = list(itertools.combinations(stages, 2)) or [(0, 0)]
    best = _cheapest(options, np.isfinite(options.cost)) if start is None else start
    few = min(room, _FEWEST)
    if len(pairs) > 1:
        free = np.full(len(options.weight), np.inf)
        started = _swept(options, pairs[0], free, options.value(best), few, every_depth=True)
        best = min([best, *started], key=options.value)
    for thresholds in dict.fromkeys((few, room)):  # what a few find is good enough to leave out most of the others
        best = _improved(options, pairs, best, thresholds)
    return split_search(options, best) if len(pairs) > 1 and options.cost.size <= _SMALL else best


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
    first, second = pair
    kept = np.array([stage for stage in range(len(caps)) if stage not in pair], dtype=np.int64)
    allowed = np.isfinite(options.cost)
    if len(kept) and np.isfinite(caps[kept]).any():
        allowed &= (options.time_s[kept] <= caps[kept, None, None]).all(axis=0)
    least_cost = float(np.where(allowed, options.cost, np.inf).min(axis=1).sum())
    if not np.isfinite(least_cost):
        return []
    shortest = np.maximum(np.where(allowed, options.time_s, np.inf).min(axis=2).max(axis=1), options.floor_s)
    least = options.weight * shortest
    fixed = float((options.weight * np.where(np.isfinite(caps), caps, shortest))[kept].sum())
    # Everything else costs at least this, so that a threshold above what is left is too dear.
    rest = least_cost + float(options.base.min()) + fixed
    left = {stage: value - rest - float(sum(least[other] for other in pair if other != stage)) for stage in pair}
    grids = [_thresholds(options, stage, allowed, left[stage], room) for stage in pair]
    places = [np.searchsorted(grid, options.time_s[stage]) for grid, stage in zip(grids, pair, strict=True)]
    allowed &= (places[0] < len(grids[0])) & (places[1] < len(grids[1]))
    other_weight = options.weight[second] if first != second else 0.0
    price = options.weight[first] * grids[0][:, None] + other_weight * grids[1]
    found: list[tuple[float, IntArray]] = []
    promising = options.base + (float(price.min()) + fixed + least_cost) < value
    for depths, table in _tables(options, allowed, places, price.shape, promising):
        total = table.sum(axis=3) + price
        flat = total.reshape(len(depths), -1)
        place = flat.argmin(axis=1)
        values = flat[np.arange(len(depths)), place] + options.base[depths] + fixed
        for row in np.flatnonzero(promising[depths] & (values < value)).tolist():
            at = np.unravel_index(int(place[row]), price.shape)
            fits = allowed & (options.depth <= depths[row]) & (places[0] <= at[0]) & (places[1] <= at[1])
            found.append((float(values[row]), _cheapest(options, fits)))
    if every_depth:
        return [chosen for _, chosen in found]
    return [min(found, key=lambda entry: entry[0])[1]] if found else []


def _tables(
    options: Options, allowed: BoolArray, places: list[IntArray], shape: tuple[int, ...], promising: BoolArray
) -> Iterator[tuple[IntArray, FloatArray]]:
    """Everybody's cheapest option within every pair of thresholds, some deepest cuts (D,) at a time, (D, T1, T2, K)."""
    clients = len(options.cost)
    depths = np.unique(options.depth[allowed.any(axis=0)])
    if not promising[depths].any():
        return
    depths = depths[: int(np.flatnonzero(promising[depths])[-1]) + 1]
    who, column = np.nonzero(allowed)
    row = np.searchsorted(depths, options.depth[column])
    there = row < len(depths)
    who, column, row = who[there], column[there], row[there]
    entry = ((row * shape[0] + places[0][who, column]) * shape[1] + places[1][who, column]) * clients + who
    cost = options.cost[who, column]
    size = shape[0] * shape[1] * clients
    step = max(1, _AT_ONCE // size)
    before = np.full((*shape, clients), np.inf)
    for low in range(0, len(depths), step):
        part = depths[low : low + step]
        table = np.full((len(part), *shape, clients), np.inf)
        here = (row >= low) & (row < low + step)
        np.minimum.at(table.reshape(-1), entry[here] - low * size, cost[here])
        np.minimum(table[0], before, out=table[0])
        # Row by row is faster than accumulate, whose inner loop is not along the clients.
        for place in range(1, len(part)):
            np.minimum(table[place], table[place - 1], out=table[place])
        for place in range(1, shape[0]):
            np.minimum(table[:, place], table[:, place - 1], out=table[:, place])
        for place in range(1, shape[1]):
            np.minimum(table[:, :, place], table[:, :, place - 1], out=table[:, :, place])
        before = table[-1]
        yield part, table


def _thresholds(options: Options, stage: int, allowed: BoolArray, left: float, room: int) -> FloatArray:
    """The times of a stage that can be the longest of a choice that has so much left for it, ascending, as many as fit.

    Everybody has an option that is allowed.
    """
    time_s = np.where(allowed, options.time_s[stage], np.inf)
    floor = max(float(time_s.min(axis=1).max()), float(options.floor_s[stage]))
    weight = options.weight[stage]
    most = max(left / weight if weight > 0 else np.inf, floor) * (1 + 1e-9)
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
