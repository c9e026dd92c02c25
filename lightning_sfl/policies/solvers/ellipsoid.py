"""Minimising a convex function of a few variables that has kinks, with a bound on what is left to gain.

The ellipsoid method with deep cuts (Yudin and Nemirovskii 1976, Shor 1977): every value and slope cuts off a part in
which the function is above the best value known, and the smallest ellipsoid around the rest is the next one. SciPy's
methods take the function to be smooth, and stop at kinks.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from lightning_sfl.world.arrays import FloatArray

_MOST_CUTS = 2_000
_SMALLEST = 1e-13


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What is known at a point.

    Attributes:
        slope: Of the function; where the point is not allowed, of the constraint that it breaks, (P,).
        value: Of the function; where the point is not allowed, by how much it breaks that constraint.
        allowed: Whether it is.
    """

    slope: FloatArray
    value: float
    allowed: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Least:
    """Where a function is least.

    Attributes:
        point: There, (P,); None: nowhere below the value to beat.
        value: Its value there; the value to beat where it is nowhere below it.
        bound: It is nowhere lower than this.
    """

    point: FloatArray | None
    value: float
    bound: float


def minimise(
    look: Callable[[FloatArray], Seen], low: FloatArray, high: FloatArray, *, to_beat: float, tolerance: float
) -> Least:
    """Where a convex function is least between ``low`` and ``high``.

    Args:
        look: The function, and its constraint.
        low: Lowest value of each variable, (P,).
        high: Highest.
        to_beat: A value that it is no use to be above.
        tolerance: How much lower than what is found it may be somewhere, as a share of ``to_beat``.
    """
    size = len(low)
    centre, shape = (low + high) / 2.0, np.diag(size * ((high - low) / 2.0) ** 2)
    point: FloatArray | None = None
    value, bound, slack = to_beat, -math.inf, tolerance * abs(to_beat)
    for _ in range(_MOST_CUTS):
        seen = _within(centre, low, high) or look(centre)
        reach = math.sqrt(max(float(seen.slope @ shape @ seen.slope), 0.0))
        if seen.allowed:
            if seen.value < value:
                point, value = centre, seen.value
            bound = max(bound, min(value, seen.value - reach))
        over = seen.value - value if seen.allowed else seen.value
        if over >= reach or math.sqrt(float(np.trace(shape))) < _SMALLEST:  # nothing is left that is better
            bound = value
        if bound >= value - slack:
            break
        centre, shape = _cut(centre, shape, seen.slope / reach, over / reach)
    return Least(point=point, value=value, bound=bound)


def _within(centre: FloatArray, low: FloatArray, high: FloatArray) -> Seen | None:
    """The bound that a point breaks most; None if it breaks none."""
    beyond = np.concatenate([low - centre, centre - high])
    worst = int(beyond.argmax())
    if beyond[worst] <= 0.0:
        return None
    slope = np.zeros(len(low))
    slope[worst % len(low)] = -1.0 if worst < len(low) else 1.0
    return Seen(slope=slope, value=float(beyond[worst]), allowed=False)


def _cut(centre: FloatArray, shape: FloatArray, slope: FloatArray, depth: float) -> tuple[FloatArray, FloatArray]:
    """The smallest ellipsoid around what is left; ``slope`` has the length 1 in the norm of ``shape``."""
    size = len(centre)
    step = shape @ slope
    if size == 1:
        return centre - (1.0 + depth) / 2.0 * step, shape * ((1.0 - depth) / 2.0) ** 2
    moved = centre - (1.0 + size * depth) / (size + 1.0) * step
    factor = 2.0 * (1.0 + size * depth) / ((size + 1.0) * (1.0 + depth))
    grown = size**2 / (size**2 - 1.0) * (1.0 - depth**2)
    return moved, grown * (shape - factor * np.outer(step, step))
