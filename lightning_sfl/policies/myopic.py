"""The policy that keeps budgets in every single round, and forgets the round when it is over: ASFL without queues."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lightning_sfl.policies.asfl import Penalty, drift, energy_budget
from lightning_sfl.policies.decision import Decision
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.priced_round import believed, controls_of, limits_of, priced, round_tables
from lightning_sfl.policies.solvers.split_and_controls import Solution, solve_within


@dataclasses.dataclass(frozen=True, kw_only=True)
class Myopic:
    """The least drift with which this round keeps its budgets; a baseline for ASFL, and our choice.

    Clocks and powers are taken from a grid of four each, the band is shared equally. Where budgets cannot be kept, a
    client takes what needs least energy, and the round is as short as it can be then.

    Args:
        delay_budget_s: What a round may take.
        energy_budget_joule: What a round may take of a client, one number or one per registered client.
        resplit: Whether layers that move are reckoned as a stage of their own (see
            :mod:`lightning_sfl.policies.priced_round`).
        penalty: What is to be least, (C,) for every deepest cut.
    """

    delay_budget_s: float
    energy_budget_joule: float | Sequence[float]
    resplit: bool = True
    penalty: Penalty = drift

    def __post_init__(self) -> None:
        budgets = self.energy_budget_joule
        if not self.delay_budget_s > 0:
            raise ValueError(f"Myopic(delay_budget_s={self.delay_budget_s!r}) is not accepted: give a number above 0.")
        if not all(budget > 0 for budget in (budgets if isinstance(budgets, Sequence) else [budgets])):
            raise ValueError(f"Myopic(energy_budget_joule={budgets!r}) is not accepted: give numbers above 0.")

    def decide(self, seen: Observation) -> Decision:
        """Decide for the rounds to come.

        Raises:
            InfeasibleError: A client has the memory for no cut.
            ValueError: The energy of a client is not modelled, or the algorithm is not one for this policy.
        """
        budget = energy_budget(seen, self.energy_budget_joule, "Myopic")
        assert budget is not None
        tables, limits = round_tables(seen, resplits=self.resplit), limits_of(seen)
        problem = priced(
            seen,
            tables,
            second_price=1.0,
            joule_price=np.ones(len(budget)),
            base=np.zeros(len(tables.aggregation_s)),
            resplits=self.resplit,
        )

        def down_to(depth: int) -> tuple[Solution, float]:
            capped = dataclasses.replace(problem, fits=problem.fits & (np.arange(problem.fits.shape[1]) <= depth))
            found = solve_within(capped, limits, budget)
            controls = controls_of(seen, limits, found.setting)
            return found, believed(seen, found.cut, controls, resplits=self.resplit)[0]

        # With more cuts to choose from a round is never longer: the shallowest deepest cut that is in time.
        low = int(problem.fits.argmax(axis=1).max())
        high = problem.fits.shape[1] - 1
        found, delay_s = down_to(high)
        while delay_s <= self.delay_budget_s and low < high:
            middle = (low + high) // 2
            tried, needed_s = down_to(middle)
            if needed_s <= self.delay_budget_s:
                found, delay_s, high = tried, needed_s, middle
            else:
                low = middle + 1
        controls = controls_of(seen, limits, found.setting)
        delay_s, joule = believed(seen, found.cut, controls, resplits=self.resplit)
        return Decision(
            allocation=seen.allocation(
                cut=found.cut,
                transmit_power_watt=controls.power_watt,
                clock_hz=controls.clock_hz,
                bandwidth_hz=controls.bandwidth_hz,
            ),
            reason="the least drift within this round's budgets",
            figures={
                "delay_s": delay_s,
                "energy_joule": float(joule.sum()),
                "overdrawn": float((joule > budget).mean()),
            },
        )
