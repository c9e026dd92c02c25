"""From a start down to images whose smashed data are those that were sent."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attacks.images import ImageSpace
from attacks.smashed.distance import relative_distance, relative_distance_B, wide
from attacks.smashed.victim import Forward, records_are_independent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Descent:
    """How one descent is steered.

    Args:
        prior_weight: Weight of the mean squared difference of neighbouring pixels when the descent begins.
        learning_rate: Of Adam, in units of the box, when it begins. Both fall to 0 by a cosine.
    """

    prior_weight: float
    learning_rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.prior_weight < math.inf:
            raise ValueError(f"prior_weight={self.prior_weight} is not accepted: give a number of at least 0.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate} is not accepted: give a number above 0.")


@dataclasses.dataclass(frozen=True)
class Problem:
    """Smashed data to explain by images, in groups G: every record for itself, or the batch as one.

    Attributes:
        target: What was sent, in at least 32 bits.
        forward: The attacker's copy of the client's half.
        space: Where the images lie.
        by_record: Whether records do not depend on one another, so that each is a group.
    """

    target: tuple[Tensor, ...]
    forward: Forward
    space: ImageSpace
    by_record: bool

    @classmethod
    def of(cls, target: Sequence[Tensor], forward: Forward, space: ImageSpace, noise_BCHW: Tensor) -> "Problem":
        """The problem of what was sent; ``noise_BCHW`` are unit images to find out with what depends on what."""
        sent = tuple(wide(tensor) for tensor in target)
        by_record = (
            all(tensor.ndim > 1 and len(tensor) == len(noise_BCHW) for tensor in sent)
            # A record that sent nothing but zeros has no scale of its own.
            and all(any(bool(tensor[record].any()) for tensor in sent) for record in range(len(noise_BCHW)))
            and records_are_independent(forward, space.to_input(noise_BCHW))
        )
        return cls(sent, forward, space, by_record)

    def fit(self, unit_BCHW: Tensor) -> Tensor:
        """‖f(x) − z‖² / ‖z‖² of every group, shape (G,)."""
        smashed = self.forward(self.space.to_input(unit_BCHW))
        if self.by_record:
            return relative_distance_B(smashed, self.target)
        return relative_distance(smashed, self.target)[None]

    def roughness(self, unit_BCHW: Tensor) -> Tensor:
        """The prior of every group, shape (G,)."""
        rough_B = total_variation_B(unit_BCHW)
        return rough_B if self.by_record else rough_B.mean()[None]

    def only(self, groups: Tensor) -> "Problem":
        """The problem of some of the groups."""
        return dataclasses.replace(self, target=tuple(self.members(sent, groups) for sent in self.target))

    def members(self, tensor: Tensor, groups: Tensor) -> Tensor:
        """What belongs to some of the groups, of a tensor that counts records."""
        return tensor[groups] if self.by_record else tensor

    def put(self, into_BCHW: Tensor, groups: Tensor, from_BCHW: Tensor) -> None:
        """Write the images of some of the groups into their places."""
        if self.by_record:
            into_BCHW[groups] = from_BCHW
        else:
            into_BCHW.copy_(from_BCHW)


@dataclasses.dataclass(frozen=True)
class Ended:
    """Where a descent ended: unit images, the fit of every group, steps taken."""

    unit_BCHW: Tensor
    fit_G: Tensor
    iterations: int


def descend(
    start_BCHW: Tensor,
    problem: Problem,
    descent: Descent,
    iterations: int,
    enough: float,
    told: Callable[[int], None],
) -> Ended:
    """Adam inside the unit box. A group whose fit is below ``enough`` takes no further part."""
    found_BCHW = start_BCHW.clone()
    fit_G = torch.full((len(start_BCHW) if problem.by_record else 1,), math.inf).to(start_BCHW)
    left = torch.arange(len(fit_G), device=start_BCHW.device)
    rest, guess = problem, start_BCHW.clone()
    first, second = torch.zeros_like(guess), torch.zeros_like(guess)
    step = 0
    while step < iterations and len(left):
        remaining = (1 + math.cos(math.pi * step / iterations)) / 2
        with torch.enable_grad():
            guess.requires_grad_()
            fit = rest.fit(guess)
            objective = fit + remaining * descent.prior_weight * rest.roughness(guess)
            (slope,) = torch.autograd.grad(objective.sum(), guess)
        guess, fit = guess.detach(), fit.detach()
        done = fit <= enough
        if done.any():
            problem.put(found_BCHW, left[done], problem.members(guess, done))
            fit_G[left[done]] = fit[done]
            left, keep = left[~done], ~done
            if not len(left):
                break
            rest = rest.only(keep)
            guess, slope, first, second = (problem.members(tensor, keep) for tensor in (guess, slope, first, second))
        step += 1
        first = first.lerp(slope, 0.1)
        second = second.lerp(slope.square(), 0.001)
        size = (second / (1 - 0.999**step)).sqrt() + 1e-8
        guess = (guess - descent.learning_rate * remaining / (1 - 0.9**step) * first / size).clamp(0, 1)
        told(step)
    if len(left):
        problem.put(found_BCHW, left, guess)
        with torch.no_grad():
            fit_G[left] = rest.fit(guess)
    return Ended(found_BCHW, fit_G, step)


def better_half(ended: Sequence[Ended], problem: Problem) -> list[Tensor]:
    """The better half of several starts, by the fit, for every group; the starts of the next round, best first."""
    order_SG = torch.stack([end.fit_G for end in ended]).nan_to_num(nan=math.inf).argsort(dim=0, stable=True)
    kept: list[Tensor] = []
    for place_G in order_SG[: -(-len(ended) // 2)]:
        mixed_BCHW = ended[0].unit_BCHW.clone()
        for start, end in enumerate(ended):
            groups = (place_G == start).nonzero().flatten()
            if len(groups):
                problem.put(mixed_BCHW, groups, problem.members(end.unit_BCHW, groups))
        kept.append(mixed_BCHW)
    return kept


def total_variation_B(images_BCHW: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, down and across, of every image; shape (B,)."""
    down = (images_BCHW[..., 1:, :] - images_BCHW[..., :-1, :]).square().flatten(1).mean(1)
    across = (images_BCHW[..., :, 1:] - images_BCHW[..., :, :-1]).square().flatten(1).mean(1)
    return down + across
