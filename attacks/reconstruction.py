"""What an attack made of what it saw."""

import dataclasses
from collections.abc import Callable

from torch import Tensor

Progress = Callable[[float], None]
"""Told the share of the work done, from 0 to 1."""


def unwatched(share: float) -> None:
    """Progress that nobody watches."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A batch of records that was rebuilt.

    Attributes:
        unit_BCHW: The rebuilt images as unit images (:class:`attacks.images.ImageSpace`).
        fit: How far what was seen is from what these images would give, 0 being perfectly explained and 1 not at all:
            all that an attacker knows of its success.
        iterations: Steps that were taken, over all starts.
    """

    unit_BCHW: Tensor
    fit: float
    iterations: int
