"""A client that probes its weights, as an attacker runs it: from images to scalars."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attacks.images import ImageSpace
from attacks.smashed.distance import wide

ForwardAt = Callable[[int | None, Tensor], tuple[Tensor, ...]]
"""(probe, images as the model is given them) → smashed data with weights moved along that direction; None: as they
are."""

_AT_ONCE = 256


class Probed:
    """What a client computes: sₚ = ⟨λ, f_c(x; θ + μuₚ) − f_c(x; θ)⟩, for images x of the attacker's choice.

    HO-SFL (arXiv 2603.14773), step 4 of a round, as `lightning_sfl.strategy.surrogates` has it. To first order in μ
    that is μ·⟨uₚ, ∇L⟩, a linear measurement of the gradient. The attacker moves the weights as the client did, so that
    no curvature is left out, and rounding alone stands between x and s.

    Args:
        forward: The client's half.
        cut_gradients: λ of every crossing tensor, by record; None for those that have none.
        probes: P.
        space: Where images lie.
    """

    def __init__(
        self, forward: ForwardAt, cut_gradients: Sequence[Tensor | None], probes: int, space: ImageSpace
    ) -> None:
        self._forward = forward
        self._cut_gradients = tuple(cut_gradients)
        self._probes = probes
        self._space = space

    @property
    def records(self) -> int:
        """How many records λ is of."""
        return len(next(gradient for gradient in self._cut_gradients if gradient is not None))

    def scalars(self, unit_BCHW: Tensor) -> Tensor:
        """The scalars of a batch of unit images, (P,) in float64."""
        with torch.no_grad():
            here = self._smashed(None, unit_BCHW)
            found = [self._scalar(self._smashed(probe, unit_BCHW), here) for probe in range(self._probes)]
        return torch.stack(found)

    def with_slopes(self, unit_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The scalars of a batch of unit images, (P,), and how they follow its pixels, (P, B, C·H·W); in float64."""
        here, slope_here = self._with_slope(None, unit_BCHW)
        scalars, slopes = [], []
        for probe in range(self._probes):
            there, slope_there = self._with_slope(probe, unit_BCHW)
            scalars.append(self._scalar(there, here))
            slopes.append(slope_there - slope_here)
        return torch.stack(scalars), torch.stack(slopes)

    def contributions(self, unit_NCHW: Tensor) -> Tensor:
        """What each image would add to the scalars in the place of each record of the batch, (N, B, P) in float64."""
        with torch.no_grad():
            return torch.cat([self._contributed(part) for part in unit_NCHW.split(_AT_ONCE)])

    def rounding(self, unit_BCHW: Tensor) -> float:
        """The scalars' standard error from rounding smashed data, whose differences they are made of."""
        with torch.no_grad():
            parts = [
                torch.finfo(sent.dtype).eps * (wide(sent) * gradient).norm()
                for sent, gradient in zip(self._smashed(None, unit_BCHW), self._seen, strict=True)
            ]
        return float(torch.stack(parts).norm())

    @property
    def _seen(self) -> tuple[Tensor, ...]:
        return tuple(gradient for gradient in self._cut_gradients if gradient is not None)

    def _smashed(self, probe: int | None, unit_BCHW: Tensor) -> tuple[Tensor, ...]:
        """The crossing tensors that have a gradient."""
        sent = self._forward(probe, self._space.to_input(unit_BCHW))
        return tuple(tensor for tensor, back in zip(sent, self._padded(len(sent)), strict=True) if back is not None)

    def _padded(self, count: int) -> tuple[Tensor | None, ...]:
        """λ for so many crossing tensors; the last ones may have none."""
        return (*self._cut_gradients, *(None for _ in range(count - len(self._cut_gradients))))

    def _scalar(self, there: Sequence[Tensor], here: Sequence[Tensor]) -> Tensor:
        parts = [
            ((wide(moved) - wide(anchor)).double() * gradient.double()).sum()
            for moved, anchor, gradient in zip(there, here, self._seen, strict=True)
        ]
        return torch.stack(parts).sum()

    def _with_slope(self, probe: int | None, unit_BCHW: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        with torch.enable_grad():
            guess = unit_BCHW.detach().clone().requires_grad_()
            sent = self._smashed(probe, guess)
            parts = [(wide(there) * gradient).sum() for there, gradient in zip(sent, self._seen, strict=True)]
            (slope,) = torch.autograd.grad(torch.stack(parts).sum(), guess)
        return tuple(tensor.detach() for tensor in sent), slope.double().flatten(1)

    def _contributed(self, unit_NCHW: Tensor) -> Tensor:
        here = self._smashed(None, unit_NCHW)
        found = []
        for probe in range(self._probes):
            parts = [
                (wide(there) - wide(anchor)).double().flatten(1) @ gradient.double().flatten(1).T
                for there, anchor, gradient in zip(self._smashed(probe, unit_NCHW), here, self._seen, strict=True)
            ]
            found.append(torch.stack(parts).sum(0))
        return torch.stack(found, dim=-1)
