"""Everybody has an equal part of the band: what SFLAM gains by subchannels."""

import dataclasses

from lightning_sfl.policies.decision import Decision
from lightning_sfl.policies.latency_energy import plan
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.sflam import SFLAM
from lightning_sfl.policies.solvers.power import at_most_power, least_power


@dataclasses.dataclass(frozen=True, kw_only=True)
class EqualBandwidth(SFLAM):
    """SFLAM's bits, equal parts of the band, and the powers that cost least in them.

    Its fields are SFLAM's; there are as many subchannels as clients, whatever ``subchannels`` says.
    """

    def decide(self, seen: Observation) -> Decision:
        """See :meth:`Policy.decide`."""
        found = plan(self, seen, self.weight, self.bits, self.most_error)
        if found.sending is None:
            return found.unchanged()
        first = at_most_power(found.sending, found.equal_hz)
        sent = least_power(found.sending, found.equal_hz) or first
        return found.decision(sent.airtime, found.equal_hz, (first.cost, sent.cost))
