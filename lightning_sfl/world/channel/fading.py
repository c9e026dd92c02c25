"""Fading: the factor by which a path's power gain differs from its mean, and how long it stays.

Time falls into blocks in which the factor stays. A client's factor in a block depends on the seed, the direction, the
block and its index alone.
"""

import dataclasses
import math
from typing import Literal, Protocol

import numpy as np

from lightning_sfl.random import exponentials
from lightning_sfl.world.arrays import FloatArray, IntArray
from lightning_sfl.world.checks import check_number

Direction = Literal["uplink", "downlink"]


class Fading(Protocol):
    """How the gain changes."""

    @property
    def varies_within_round(self) -> bool:
        """Whether the gain may change between two instants of a round."""

    def block(self, round: int, start_s: FloatArray) -> IntArray:
        """The block of each instant, shape (K,)."""

    def end_s(self, block: int) -> float:
        """When a block ends; infinite where it does not end within a transmission."""

    def factor(self, direction: Direction, clients: IntArray, block: int) -> FloatArray:
        """The factor of each client's gain in a block, shape (K,). Its mean over time is 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Static:
    """The gain is always its mean."""

    @property
    def varies_within_round(self) -> bool:
        """See :meth:`Fading.varies_within_round`."""
        return False

    def block(self, round: int, start_s: FloatArray) -> IntArray:
        """See :meth:`Fading.block`."""
        return np.zeros(len(start_s), dtype=np.int64)

    def end_s(self, block: int) -> float:
        """See :meth:`Fading.end_s`."""
        return math.inf

    def factor(self, direction: Direction, clients: IntArray, block: int) -> FloatArray:
        """See :meth:`Fading.factor`."""
        return np.ones(len(clients))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockRayleigh:
    """Rayleigh block fading: the power gain's factor is drawn from Exp(1), once per round, client and direction.

    Args:
        seed: The seed.
    """

    seed: int = 0

    @property
    def varies_within_round(self) -> bool:
        """See :meth:`Fading.varies_within_round`."""
        return False

    def block(self, round: int, start_s: FloatArray) -> IntArray:
        """See :meth:`Fading.block`."""
        return np.full(len(start_s), round, dtype=np.int64)

    def end_s(self, block: int) -> float:
        """See :meth:`Fading.end_s`: what is begun in a round sees the round's gain to its end."""
        return math.inf

    def factor(self, direction: Direction, clients: IntArray, block: int) -> FloatArray:
        """See :meth:`Fading.factor`."""
        return _rayleigh(self.seed, f"block fading {direction}", clients, block)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastRayleigh:
    """Rayleigh fading within a round: the factor is drawn anew every ``coherence_s`` of simulated time.

    A decision made on the gain at one instant is stale when the bits are sent.

    Args:
        coherence_s: How long a factor stays, above 0. A transmission costs a draw for each such time that it lasts.
        seed: The seed.
    """

    coherence_s: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("FastRayleigh", "coherence_s", self.coherence_s)

    @property
    def varies_within_round(self) -> bool:
        """See :meth:`Fading.varies_within_round`."""
        return True

    def block(self, round: int, start_s: FloatArray) -> IntArray:
        """See :meth:`Fading.block`."""
        return np.floor(start_s / self.coherence_s).astype(np.int64)

    def end_s(self, block: int) -> float:
        """See :meth:`Fading.end_s`."""
        return (block + 1) * self.coherence_s

    def factor(self, direction: Direction, clients: IntArray, block: int) -> FloatArray:
        """See :meth:`Fading.factor`."""
        return _rayleigh(self.seed, f"fast fading {direction}", clients, block)


def _rayleigh(seed: int, purpose: str, clients: IntArray, block: int) -> FloatArray:
    """|h|² of a Rayleigh channel of mean 1 is exponential; of one stream, client i has the i-th draw."""
    if len(clients) == 0:
        return np.ones(0)
    return exponentials(int(clients.max()) + 1, seed, purpose, block)[clients]
