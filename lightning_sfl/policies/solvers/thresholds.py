"""Cuts and batch sizes by searching for the thresholds that the slowest client may take.

Once it is settled what a step's slowest stages may take, clients no longer wait for each other's choices: with λ for
the worth of the bound's slack (Dinkelbach 1967: minimising time - λ · slack, λ the best ratio so far, reaches the
best ratio), each one's batch at a cut is a number in closed form and its cut the one that then costs least. So the
search goes over thresholds, and not client by client: no client alone can lower a maximum that others hold up.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from lightning_sfl.policies.solvers.time_to_target import Choice, TimeToTarget
from lightning_sfl.world.arrays import FloatArray, IntArray

_LEVELS = 3  # how often a pair's thresholds are tried, each time between the neighbours of the best
_THIRDS = 4  # thresholds that are tried of the other kinds before
_CANDIDATES = 12  # of a grid, which are looked at exactly
_HOPELESS = 1.1  # how much worse than the best a grid's best is, that narrowing down on it is of no use
_CHUNK = 32_768  # numbers at a time, which fit into a core's cache
_NO_VARIANCE = 1e-300  # where only time counts, no batch is still infinitely bad


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Lines:
    """fixed + per_sample · b at every cut, (C, K) each: cuts first, since they are gone through one by one."""

    fixed: FloatArray
    per_sample: FloatArray

    def at(self, batch_size: FloatArray | IntArray) -> FloatArray:
        return np.asarray(self.fixed + self.per_sample * batch_size)

    def largest(self, threshold: FloatArray) -> FloatArray:
        """The largest batches within thresholds (...), (..., C, K); below 0 where not even an empty one is."""
        room = threshold[..., None, None] - self.fixed
        with np.errstate(divide="ignore", invalid="ignore"):
            batch = np.floor(room / self.per_sample + 1e-9)  # a threshold is often the very time of some batch
        return np.where(self.per_sample > 0, batch, np.where(room >= 0, np.inf, -1.0))


def search(problem: TimeToTarget, start: Choice, *, points: int = 10, within: float = np.inf) -> Choice:
    """The best choice that is found, never worse than the one to start from.

    Thresholds are tried pair by pair of their kinds, those of the pairs before being held. The search narrows down on
    the best of the first pair, what a client takes up to the server and from there back, which a step takes most of.

    Args:
        problem: What may be chosen, and what it takes.
        start: A choice that reaches the target.
        points: Thresholds of a kind that are tried at a time.
        within: By which factor they may differ from what is the best when their kind's turn comes.
    """
    tables = _Tables(problem)
    everywhere = within == np.inf
    best, held = start, tables.third(start, points) if everywhere else {}
    for price in tables.prices if everywhere else (tables.price_at(start),):
        ranges = tables.ranges(best, within)
        for place, pair in enumerate(tables.pairs):
            if "ends" in pair and price == 2:
                continue  # at both ends the line between the servers is waited for, and no client
            between = {kind: ranges[kind] for kind in pair}
            for _ in range(_LEVELS if place == 0 else 1):
                grid = {kind: _spaced(*between[kind], points) for kind in pair}
                tried = tables.best_of(pair, grid, held, price, best)
                if tried is None:
                    break
                found, at = tried
                if found.seconds < best.seconds:
                    best = found
                elif found.seconds > _HOPELESS * best.seconds:
                    break
                between = {kind: _around(grid[kind], at[kind]) for kind in pair}
                held = {**held, **at}
    return best


def _spaced(low: float, high: float, points: int) -> FloatArray:
    """Thresholds from low to high, at equal ratios."""
    if high <= 0:
        return np.zeros(1)
    low = max(low, high * 1e-9)
    grid: FloatArray = high * (low / high) ** np.linspace(1, 0, points)
    grid[0] = low  # to the bit, since only just enough is enough
    return grid


def _around(grid: FloatArray, value: float) -> tuple[float, float]:
    """The neighbours of a threshold."""
    place = int(np.searchsorted(grid, value))
    return float(grid[max(place - 1, 0)]), float(grid[min(place + 1, len(grid) - 1)])


class _Tables:
    """A problem's tables as the search needs them."""

    def __init__(self, problem: TimeToTarget) -> None:
        self.problem = problem
        fixed, per_sample, ends = problem.lines.fixed, problem.lines.per_sample, problem.ends
        lines = {
            name: _Lines(fixed=getattr(fixed, name).T.copy(), per_sample=getattr(per_sample, name).T.copy())
            for name in ("up_s", "server_s", "back_s")
        }
        self.server = lines["server_s"]
        nearest = problem.nearest()
        self.most_slack = float(problem.slack(nearest.cut, nearest.batch_size))
        self.least, self.most = problem.least.T.astype(np.float64), problem.most.T.astype(np.float64)
        both_ends = ((ends.broadcast_s + ends.upload_s) / problem.interval).T
        self.kinds = {"up": lines["up_s"], "back": lines["back_s"]}
        if not problem.serial:
            self.kinds["server"] = self.server
        self.pairs = [("up", "back")] + ([] if problem.serial else [("up", "server"), ("back", "server")])
        self.longest_ends = np.maximum.accumulate(np.where(self.most >= self.least, both_ends, 0.0).max(axis=1))
        # The ends are of one kind: a client that takes long to be sent its layers takes long to upload them.
        if (both_ends > 0).any():
            self.kinds["ends"] = _Lines(fixed=both_ends, per_sample=np.zeros_like(both_ends))
            self.pairs += [("up", "ends"), ("back", "ends")]
        # The line between the servers is waited for at a round's beginning and end, at one of them, or at neither.
        self.prices = (0.0, 1.0, 2.0) if (ends.own_s != 0).any() else (0.0,)

    def worth(self, choice: Choice) -> float:
        """λ: the time that a slack of 1 is worth, where this is the best choice."""
        return choice.seconds / self.problem.steps_factor

    def ranges(self, best: Choice, within: float) -> dict[str, tuple[float, float]]:
        """Within which thresholds of each kind anything better than the best so far must lie."""
        # Who is better than the ratio λ has time < λ · slack, and no slack is larger than this one.
        longest = self.worth(best) * self.most_slack
        allowed = self.most >= self.least
        found = {}
        for name, lines in self.kinds.items():
            low = float(np.where(allowed, lines.at(self.least), np.inf).min(axis=0).max())
            high = min(longest, float(np.where(allowed, lines.at(self.most), 0.0).max()))
            now = float(lines.at(best.batch_size)[best.cut, np.arange(len(best.cut))].max())
            low, high = max(low, now / within), min(high, now * within)
            found[name] = (low, max(low, high))
        return found

    def price_at(self, choice: Choice) -> float:
        """At how many of a round's two ends the line between the servers is waited for."""
        problem, who = self.problem, np.arange(len(choice.cut))
        line_s = problem.line_s(problem.deepest(choice.cut), len(who)) - problem.ends.own_s[choice.cut].sum()
        waits = [line_s > sent_s[who, choice.cut].max() for sent_s in (problem.ends.broadcast_s, problem.ends.upload_s)]
        return float(sum(waits))

    def third(self, start: Choice, points: int) -> dict[str, float]:
        """Of the kinds that are not in the first pair, the thresholds with which that pair's come out best."""
        ranges = self.ranges(start, np.inf)
        grid = {kind: _spaced(*ranges[kind], points) for kind in self.pairs[0]}
        options = [
            {kind: value} for kind in self.kinds if kind not in grid for value in _spaced(*ranges[kind], _THIRDS)
        ]
        seconds = {0: np.inf}
        for place, held in enumerate(options):
            tried = self.best_of(self.pairs[0], grid, held, 0.0, start)
            seconds[place] = np.inf if tried is None else tried[0].seconds
        place = min(seconds, key=seconds.__getitem__)
        return options[place] if np.isfinite(seconds[place]) else {}

    def best_of(
        self,
        pair: tuple[str, str],
        grid: dict[str, FloatArray],
        held: dict[str, float],
        price: float,
        best: Choice,
    ) -> tuple[Choice, dict[str, float]] | None:
        """The best choice of a grid of thresholds, and its thresholds; None where no choice is within any."""
        problem, clients = self.problem, self.most.shape[1]
        worth = self.worth(best)
        weight = max(worth * problem.variance_factor, _NO_VARIANCE)
        cap = self._largest(weight, {kind: value for kind, value in held.items() if kind not in pair})
        caps = [self._within(cap, kind, grid[kind]) for kind in pair]
        line = price * problem.ends.own_s / problem.interval
        if problem.serial:
            cost = _Lines(fixed=self.server.fixed - line[:, None], per_sample=self.server.per_sample)
        else:
            cost = _Lines(fixed=np.zeros_like(cap) - line[:, None], per_sample=np.zeros_like(cap))
        values = _summed(caps[0], caps[1], cost, weight)
        values += grid[pair[0]][:, None] + grid[pair[1]]
        cuts = np.arange(len(values))
        last = np.maximum(cuts, problem.floor)
        whole_s = problem.line_s(last, clients)
        once = (problem.ends.aggregation_s[last] + price * whole_s) / problem.interval + worth * problem.drift[last]
        values += once[:, None, None]
        if "ends" in pair:
            # With a shallow deepest cut the ends take less than a wide threshold lets them.
            ends = grid["ends"] * np.ones((len(cuts), 1))
            values += (1 - price / 2) * np.minimum(ends, self.longest_ends[:, None])[:, None] - ends[:, None]
        else:
            values += (1 - price / 2) * np.minimum(held.get("ends", np.inf), self.longest_ends)[:, None, None]
        return self._exactly(values, caps, cost, weight, pair, grid)

    def _largest(self, weight: float, held: dict[str, float]) -> FloatArray:
        """The batches at every cut if nobody waited for anybody, within the thresholds that are held, (C, K); or 0.

        The whole number that minimises s·b + w/b is the last with b (b - 1) <= w / s, and b = sqrt(w / s) without
        rounding (of HASFL's first-order condition, with w = λβγ/N² · Σσ²; see papers on its batch sizes).
        """
        batch = self.most
        if self.problem.serial:
            with np.errstate(divide="ignore"):
                free = np.floor(0.5 + np.sqrt(0.25 + weight / self.server.per_sample))
            batch = np.minimum(batch, np.maximum(free, self.least))
        for kind, value in held.items():
            batch = np.minimum(batch, self.kinds[kind].largest(np.array(value)))
        return np.where(batch >= self.least, batch, 0.0)

    def _within(self, cap: FloatArray, kind: str, thresholds: FloatArray) -> FloatArray:
        """The same within each threshold of a kind, (G, C, K)."""
        batch = np.minimum(cap, self.kinds[kind].largest(thresholds))
        return np.where(batch >= self.least, batch, 0.0)

    def _exactly(
        self,
        values: FloatArray,
        caps: list[FloatArray],
        cost: _Lines,
        weight: float,
        pair: tuple[str, str],
        grid: dict[str, FloatArray],
    ) -> tuple[Choice, dict[str, float]] | None:
        """The candidates with the least values (C, G, G), of which what they really take is looked at."""
        flat = values[self.problem.floor :].ravel()
        count = min(_CANDIDATES, len(flat))
        places = np.argpartition(flat, count - 1)[:count]
        places = places[np.isfinite(flat[places])]
        if not len(places):
            return None
        last, first, second = np.unravel_index(places, values[self.problem.floor :].shape)
        batch = np.minimum(caps[0][first], caps[1][second])
        with np.errstate(divide="ignore"):
            each = cost.at(batch) + weight / batch
        beyond = np.arange(len(values)) > (last + self.problem.floor)[:, None]
        cut = np.where(beyond[:, :, None], np.inf, each).argmin(axis=1)
        size = np.take_along_axis(batch, cut[:, None], axis=1)[:, 0].astype(np.int64)
        seconds = self.problem.seconds(cut, size)
        chosen = int(seconds.argmin())
        at = {pair[0]: float(grid[pair[0]][first[chosen]]), pair[1]: float(grid[pair[1]][second[chosen]])}
        return Choice(cut=cut[chosen], batch_size=size[chosen], seconds=float(seconds[chosen])), at


def _summed(first: FloatArray, second: FloatArray, cost: _Lines, weight: float) -> FloatArray:
    """What the clients cost at the least with no cut beyond each one, (C, G, G), for batches (G, C, K) of two kinds."""
    cuts, clients = cost.fixed.shape
    found = np.empty((cuts, len(first), len(second)))
    for rows in _rows(len(first), len(second) * clients):
        least = np.full((rows.stop - rows.start, len(second), clients), np.inf)
        for cut in range(cuts):
            batch = np.minimum(first[rows, None, cut], second[None, :, cut])
            with np.errstate(divide="ignore"):
                each = weight / batch
            batch *= cost.per_sample[cut]
            each += batch
            each += cost.fixed[cut]
            np.minimum(least, each, out=least)
            found[cut, rows] = least.sum(axis=-1)
    return found


def _rows(count: int, width: int) -> Iterator[slice]:
    """All rows, so many at a time that a core's cache holds them."""
    step = max(1, _CHUNK // width)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
