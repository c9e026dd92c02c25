"""Block coordinate descent on the time to the target (HASFL, arXiv 2506.08426, Algorithm 2; a reconstruction)."""

import dataclasses
from collections.abc import Callable, Sequence

from lightning_sfl.policies.solvers.thresholds import search
from lightning_sfl.policies.solvers.time_to_target import Choice, TimeToTarget

_LEAST_CHANGE = 1e-3  # of the objective in a sweep; with less, it ends
_MOST_SWEEPS = 20


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Descent:
    """Where a descent ended.

    Attributes:
        choice: The choice.
        seconds: The objective at the start and after every block.
        sweeps: How often all blocks were gone through.
    """

    choice: Choice
    seconds: tuple[float, ...]
    sweeps: int


def together(problem: TimeToTarget, start: Choice) -> Choice:
    """Cuts and batches at once: a block that the paper does not have, for what neither improves alone."""
    return search(problem, start)


def nearby(problem: TimeToTarget, start: Choice) -> Choice:
    """The same among thresholds near those that there are."""
    return search(problem, start, within=1.25)


def batches(problem: TimeToTarget, start: Choice) -> Choice:
    """Batch sizes at the cuts that there are."""
    alone = problem.with_cuts(start.cut)
    found = search(alone, dataclasses.replace(start, cut=0 * start.cut), points=24)
    return _better(problem, start, dataclasses.replace(found, cut=start.cut))


def splits(problem: TimeToTarget, start: Choice) -> Choice:
    """Cuts at the batch sizes that there are."""
    found = search(problem.with_batches(start.batch_size), start)
    return _better(problem, start, found)


Block = Callable[[TimeToTarget, Choice], Choice]

PAPERS_BLOCKS: Sequence[Block] = (batches, splits)
"""Those that the paper alternates between."""


def descend(
    problem: TimeToTarget, start: Choice, *, first: Block | None = together, blocks: Sequence[Block] = (batches, nearby)
) -> Descent:
    """Go through the blocks until a sweep changes little. No block makes it worse.

    Args:
        problem: What may be chosen, and what it takes.
        start: A choice that reaches the target.
        first: A block before all sweeps.
        blocks: Those of a sweep.
    """
    choice = start if first is None else first(problem, start)
    seconds = [start.seconds, choice.seconds]
    sweeps = 0
    while sweeps < _MOST_SWEEPS:
        sweeps += 1
        before = choice.seconds
        for block in blocks:
            choice = block(problem, choice)
            seconds.append(choice.seconds)
        if before - choice.seconds < _LEAST_CHANGE * before:
            break
    return Descent(choice=choice, seconds=tuple(seconds), sweeps=sweeps)


def _better(problem: TimeToTarget, start: Choice, found: Choice) -> Choice:
    """What was found in a smaller problem, if it is better here too, where rounding may differ."""
    here = problem.choice(found.cut, found.batch_size)
    return here if here.seconds < start.seconds else start
