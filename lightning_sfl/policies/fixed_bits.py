"""Everybody has the same bits: what SFLAM gains by bits."""

import dataclasses

from lightning_sfl.allocation import UNENCODED_BIT
from lightning_sfl.policies.decision import Decision
from lightning_sfl.policies.latency_energy import plan
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.sflam import check_subchannels, check_weight, decided


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedBits:
    """Given bits, and the powers and subchannels that SFLAM would choose with them.

    Attributes:
        bits: Bits per element of what a client's quantiser is for, from 1 to 16, or 32 for what is sent as computed.
        weight: As in SFLAM.
        subchannels: As in SFLAM.
    """

    bits: int = UNENCODED_BIT
    weight: float = 0.5
    subchannels: int | None = None

    def __post_init__(self) -> None:
        if not (1 <= self.bits <= 16 or self.bits == UNENCODED_BIT):
            raise ValueError(f"FixedBits(bits={self.bits!r}) is not accepted: give an integer from 1 to 16, or 32.")
        check_weight(self, self.weight)
        check_subchannels(self, self.subchannels)

    def decide(self, seen: Observation) -> Decision:
        """See :meth:`Policy.decide`."""
        return decided(plan(self, seen, self.weight, (self.bits,), float("inf")), self.subchannels)
