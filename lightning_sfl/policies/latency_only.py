"""The policy that makes a round as short as it can be, by the cuts alone: a baseline like AdaptSFL's split."""

import dataclasses

import numpy as np

from lightning_sfl.policies.decision import Decision
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.priced_round import believed, controls_of, limits_of, priced, round_tables
from lightning_sfl.policies.solvers.split_and_controls import even_setting, solve_split


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyOnly:
    """The cuts at which a round is shortest, at the highest clock and power and in a like part of the band.

    Our reading of AdaptSFL (arXiv 2403.13101) without its bound: neither convergence nor energy matters.

    Args:
        resplit: Whether layers that move are reckoned as a stage of their own (see
            :mod:`lightning_sfl.policies.priced_round`).
    """

    resplit: bool = True

    def decide(self, seen: Observation) -> Decision:
        """Decide for the rounds to come.

        Raises:
            InfeasibleError: A client has the memory for no cut.
            ValueError: The algorithm serves clients one by one or has no cut.
        """
        tables, limits = round_tables(seen, resplits=self.resplit), limits_of(seen)
        free = np.zeros(len(seen.clients))
        nothing = np.zeros(len(seen.world.profile.cuts))
        problem = priced(seen, tables, second_price=1.0, joule_price=free, base=nothing, resplits=self.resplit)
        setting = even_setting(limits)
        cut = solve_split(problem, limits, setting)
        controls = controls_of(seen, limits, setting)
        delay_s, joule = believed(seen, cut, controls, resplits=self.resplit)
        return Decision(
            allocation=seen.allocation(
                cut=cut,
                transmit_power_watt=controls.power_watt,
                clock_hz=controls.clock_hz,
                bandwidth_hz=controls.bandwidth_hz,
            ),
            reason="the shortest round",
            figures={"delay_s": delay_s, "energy_joule": float(joule.sum())},
        )
