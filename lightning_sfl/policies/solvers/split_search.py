"""The best splits of few clients, whatever the stages: client by client, without what can no longer be the best.

A part of the clients having chosen, the rest matters to them only by how long every stage takes so far and by the
deepest cut so far. Whoever is still to choose costs at least its cheapest option, and one of them at least what that
adds to the stages. What cannot be below the best that is known is dropped (branch and bound). That is exact, unless
more than a hundred partial choices are left at once, of which the most hopeful are gone on with.
"""

import numpy as np

from lightning_sfl.policies.solvers.split_options import Options
from lightning_sfl.world.arrays import FloatArray, IntArray

_MOST = 100  # choices of a part of the clients that are looked at
_ROUNDING = 1e-12


def split_search(options: Options, start: IntArray) -> IntArray:
    """The best options, (K,); never worse than those of ``start``."""
    clients = len(options.cost)
    allowed = np.isfinite(options.cost)
    times = np.moveaxis(options.time_s, 0, -1)  # (K, O, S)
    cheapest = options.cost.min(axis=1)
    # No choice that is still to come makes it cheaper than at the cheapest depth from here on.
    later = np.minimum.accumulate(options.base[::-1])[::-1]
    best = options.value(start) * (1 - _ROUNDING)
    # Those who add most come first: what they take is soon known.
    least = np.where(allowed[:, :, None], times, np.inf).min(axis=1)  # (K, S)
    order = np.argsort(-(cheapest + least @ options.weight), kind="stable")
    longest = np.maximum(least.max(axis=0), options.floor_s)[None]  # (M, S)
    own = np.zeros(1)
    depth = np.array([np.where(allowed, options.depth, options.depth.max()).min(axis=1).max()])
    chosen = np.zeros((1, clients), dtype=np.int64)
    for place, client in enumerate(order.tolist()):
        choices = np.flatnonzero(allowed[client])
        parents = np.repeat(np.arange(len(own)), len(choices))
        column = np.tile(choices, len(own))
        longest = np.maximum(longest[parents], times[client, column])
        own = own[parents] + options.cost[client, column]
        depth = np.maximum(depth[parents], options.depth[column])
        rest = order[place + 1 :]
        bound = own + cheapest[rest].sum() + longest @ options.weight + later[depth]
        kept = np.flatnonzero(bound < best)
        if len(rest) and len(kept):
            bound = bound[kept] + _most_added(options, times, cheapest, longest[kept], rest)
            kept, bound = kept[bound < best], bound[bound < best]
            if len(kept) > _MOST:
                kept = kept[np.argpartition(bound, _MOST)[:_MOST]]
        chosen = chosen[parents[kept]]
        chosen[:, client] = column[kept]
        longest, own, depth = longest[kept], own[kept], depth[kept]
        if not len(kept):
            return start
    totals = own + longest @ options.weight + options.base[depth]
    found = chosen[int(totals.argmin())]
    return found if options.value(found) < best else start


def _most_added(
    options: Options, times: FloatArray, cheapest: FloatArray, longest: FloatArray, rest: IntArray
) -> FloatArray:
    """What one of those who are still to choose adds at least beyond its cheapest option, (M,)."""
    added = np.zeros(len(longest))
    for client in rest.tolist():
        more = np.maximum(times[client] - longest[:, None], 0.0) @ options.weight  # (M, O)
        added = np.maximum(added, (more + (options.cost[client] - cheapest[client])).min(axis=1))
    return added
