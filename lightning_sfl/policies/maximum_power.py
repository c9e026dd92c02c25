"""Everybody sends with the highest power: what SFLAM gains by powers."""

import dataclasses

import numpy as np

from lightning_sfl.policies.decision import Decision
from lightning_sfl.policies.latency_energy import plan
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.sflam import SFLAM, whole_subchannels
from lightning_sfl.policies.solvers.power import at_most_power
from lightning_sfl.policies.solvers.subchannels import even, share


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaximumPower(SFLAM):
    """SFLAM's bits, the highest powers, and subchannels for these powers.

    Its fields are SFLAM's. At full power a client's energy is its power times the time for which it sends, so the
    subchannels that make the round shortest are taken, or equal numbers where these cost less.
    """

    def decide(self, seen: Observation) -> Decision:
        """See :meth:`Policy.decide`."""
        found = plan(self, seen, self.weight, self.bits, self.most_error)
        if found.sending is None:
            return found.unchanged()
        total = whole_subchannels(found, self.subchannels)
        width_hz = found.total_hz / total
        sending = found.sending
        shortest = share(dataclasses.replace(sending, price_per_joule=0.0), width_hz, total).band_hz
        bands = [shortest, np.asarray(width_hz * even(len(seen.clients), total))]
        costs = [at_most_power(sending, band_hz).cost for band_hz in bands]
        band_hz = bands[costs.index(min(costs))]
        return found.decision(at_most_power(sending, band_hz).airtime, band_hz, (max(costs), min(costs)))
