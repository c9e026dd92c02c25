"""Several things that images would send, as one."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attacks.smashed.distance import wide
from attacks.smashed.victim import Forward

Term = tuple[Forward, tuple[Tensor, ...], float]
"""What images would send, what was sent, and the weight of the distance between the two."""


def stacked(terms: Sequence[Term]) -> tuple[Forward, tuple[Tensor, ...]]:
    """One forward and one target whose relative distance is the weighted mean of the terms' relative distances.

    Each term is divided by the norm of what was sent, so that neither units nor sizes decide: with
    rₜ = ‖fₜ − zₜ‖²/‖zₜ‖², ‖f − z‖²/‖z‖² of what is returned is Σ wₜ·rₜ / Σ wₜ. Terms that sent nothing but zeros say
    nothing and are left out.

    Raises:
        ValueError: No term is left.
    """
    kept: list[tuple[Forward, tuple[Tensor, ...], float]] = []
    for forward, sent, weight in terms:
        norm = float(torch.stack([wide(tensor).square().sum() for tensor in sent]).sum().sqrt())
        if norm > 0 and weight > 0:
            kept.append((forward, sent, weight**0.5 / norm))
    if not kept:
        raise ValueError("Nothing can be fitted: every term is zero, or weighs nothing.")

    def together(images_BCHW: Tensor) -> tuple[Tensor, ...]:
        return tuple(wide(tensor) * scale for forward, _, scale in kept for tensor in forward(images_BCHW))

    return together, tuple(wide(tensor) * scale for _, sent, scale in kept for tensor in sent)


def of_rows(forward: Forward, rows: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The forward of some of the images: those at these places."""
    return lambda images_BCHW: forward(images_BCHW[rows.to(images_BCHW.device)])
