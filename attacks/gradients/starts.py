"""Several starts of one attack, of which the worse are given up early."""

import itertools
import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

from attacks.reconstruction import Progress, unwatched


class Descent(Protocol):
    """A search from one start that can be stopped and taken up again.

    Attributes:
        fit: How far the best point so far is from explaining what was seen, as the attacker can tell.
    """

    fit: float

    def run(self, iterations: int) -> int:
        """Take so many more steps; returns how many were taken, fewer where the search is over."""
        ...


AnyDescent = TypeVar("AnyDescent", bound=Descent)


def rungs(iterations: int, starts: int) -> list[tuple[int, int]]:
    """How many starts live and to which step they are taken, rung by rung.

    Successive halving (Karnin, Koren and Somekh 2013): half of the starts, rounded up, are given up at every rung and
    the steps double, so that every rung costs about as much as the last and only one start takes all the steps.
    """
    alive = [starts]
    while alive[-1] > 1:
        alive.append(math.ceil(alive[-1] / 2))
    halvings = len(alive) - 1
    return [(count, math.ceil(iterations / 2 ** (halvings - rung))) for rung, count in enumerate(alive)]


def most_iterations(iterations: int, starts: int) -> int:
    """Steps over all starts if none of them ends early."""
    plan = [(0, 0), *rungs(iterations, starts)]
    return sum(count * (until - before) for (_, before), (count, until) in itertools.pairwise(plan))


def successive_halving(
    descents: Sequence[AnyDescent], iterations: int, enough_fit: float = 0.0, progress: Progress = unwatched
) -> tuple[AnyDescent, int]:
    """Run the starts rung by rung; returns the one with the best fit, and the steps over all of them.

    Ends as soon as one start fits well enough. A start whose fit is no number counts as worst.
    """
    alive, reached, spent, tried = list(descents), 0, 0, 0
    total = most_iterations(iterations, len(alive))
    for count, until in rungs(iterations, len(alive)):
        # Sorting is stable, so that of equal fits the earlier start is kept.
        alive = sorted(alive, key=_order)[:count]
        for descent in alive:
            spent += descent.run(until - reached)
            tried += until - reached
            progress(tried / total)
            if descent.fit <= enough_fit:
                progress(1.0)
                return descent, spent
        reached = until
    return min(alive, key=_order), spent


def _order(descent: Descent) -> float:
    return math.inf if math.isnan(descent.fit) else descent.fit
