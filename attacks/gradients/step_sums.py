"""What of a round's gradients crosses: sums of them, as optimizers make them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from attacks.local_optimizer import LocalOptimizer, Rule

Number = TypeVar("Number", float, Tensor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSum:
    """of_start · (momentum at the start of a round) + Σ of_steps[k] · (gradient of step k).

    Attributes:
        of_start: Share of the momentum.
        of_steps: Share of every step's gradient.
    """

    of_start: float
    of_steps: tuple[float, ...]

    @property
    def says_something(self) -> bool:
        """Whether gradients are in it at all."""
        return sum(self.of_steps) != 0

    def mean_seen(self, total: Tensor, start: Tensor | None) -> Tensor:
        """The weighted mean of the gradients, in float64, of a sum that crossed."""
        rest = total.double() if start is None else total.double() - self.of_start * start.double()
        return rest / sum(self.of_steps)

    def mean_of(self, slopes: Sequence[Tensor]) -> Tensor:
        """The same of gradients."""
        whole = sum(self.of_steps)
        return torch.stack([slope * (part / whole) for part, slope in zip(self.of_steps, slopes, strict=True)]).sum(0)


def moved(rule: LocalOptimizer, steps: int, *, fresh: bool) -> StepSum:
    """What SGD's steps move the weights by, over the learning rate: (θ − θ′)/η."""
    return _sum_of(rule, steps, fresh, lambda directions, momentum: sum(directions))


def momentum_after(rule: LocalOptimizer, steps: int, *, fresh: bool) -> StepSum:
    """The momentum that a round ends with."""
    return _sum_of(rule, steps, fresh, lambda directions, momentum: momentum)


def next_momentum(rule: LocalOptimizer, momentum: Number | None, slope: Number) -> Number:
    """The momentum after a step; None before the first of a fresh state.

    SGD: m′ = μm + (1 - d)g, and m′ = g in its first step. Adam: m′ = β1·m + (1 - β1)g from m = 0.
    """
    if rule.rule is not Rule.SGD:
        new = (1 - rule.momentum) * slope
        return new if momentum is None else rule.momentum * momentum + new
    if momentum is None or rule.momentum == 0:
        return slope
    return rule.momentum * momentum + (1 - rule.dampening) * slope


def direction(rule: LocalOptimizer, momentum: Number, slope: Number) -> Number:
    """What a step of SGD takes off the weights, over the learning rate."""
    return slope + rule.momentum * momentum if rule.nesterov else momentum


def _sum_of(rule: LocalOptimizer, steps: int, fresh: bool, what: Callable[[list[float], float], float]) -> StepSum:
    """A linear function of a round, by what it answers to 1 in each place alone."""

    def answer(start: float, slopes: Sequence[float]) -> float:
        momentum: float | None = None if fresh else start
        directions: list[float] = []
        for slope in slopes:
            momentum = next_momentum(rule, momentum, slope)
            directions.append(direction(rule, momentum, slope))
        return what(directions, 0.0 if momentum is None else momentum)

    units = [[float(step == other) for other in range(steps)] for step in range(steps)]
    return StepSum(
        of_start=0.0 if fresh else answer(1.0, [0.0] * steps), of_steps=tuple(answer(0.0, unit) for unit in units)
    )
