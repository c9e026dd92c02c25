"""ASFL: splits, clocks, powers and bandwidths for budgets of delay and energy that hold on average over the rounds.

Meng, Tang and Wong, arXiv 2603.04437. Of the paper, its abstract and figures were available: what is below is a
reconstruction, Lyapunov's drift plus penalty as usual in the field, and not the paper's formulas.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lightning_sfl.policies.decision import Decision
from lightning_sfl.policies.observation import Observation, Passed
from lightning_sfl.policies.priced_round import believed, controls_of, limits_of, priced, round_tables
from lightning_sfl.policies.solvers.split_and_controls import Solution, solve_split_and_controls
from lightning_sfl.world.arrays import FloatArray

_LEAST_PRICE = 1e-3  # of a budget: of two decisions that cost the same, the one that takes less
_FIRST_QUEUE = 1.0

Penalty = Callable[[Observation], FloatArray]
"""What a deepest cut costs in convergence, for every cut of the profile, (C,)."""


def drift(seen: Observation) -> FloatArray:
    """Φ: Σ_l G_l² over the layers that drift apart between averages, (C,), as a share of its largest value.

    A reconstruction: summed over rounds it is the last term of the bound with a cut per round (see
    :mod:`lightning_sfl.policies.bound`). Nothing drifts where every step is averaged.
    """
    moment = seen.statistics.second_moment
    if seen.world.aggregate_every == 1 or moment.max() == 0:
        return np.zeros_like(moment)
    share: FloatArray = moment / moment.max()
    return share


@dataclasses.dataclass(frozen=True, kw_only=True)
class ASFL:
    """Least drift on average, with average delay and energy within budgets (arXiv 2603.04437, a reconstruction).

    In every round, V·Φ(s) + Z·τ/τ̄ + Σ_n Q_n·E_n/Ē_n is made least over cuts s, clocks, powers and bandwidths, τ and E_n
    being the round's delay and energy. The queues remember by how much budgets were overdrawn,
    Z ← max(Z + τ/τ̄ - 1, 0) and Q_n ← max(Q_n + E_n/Ē_n - 1, 0) after every round that has passed. They start at 1, and
    no price is less than 1/1000, so that nothing is taken for which there is no use. With a larger V, Φ comes within
    O(1/V) of the least that the budgets allow, and queues, which take O(V), longer to settle. A client that takes no
    part in a round takes nothing of its budget in it.

    Args:
        delay_budget_s: τ̄, what a round may take on average; None: as long as it likes.
        energy_budget_joule: Ē, what a round may take of a client on average, one number or one per registered client;
            None: as much as it likes. Clocks and powers are then the highest that are of any use.
        trade_off: V.
        resplit: Whether layers that move are reckoned as a stage of their own (see
            :mod:`lightning_sfl.policies.priced_round`).
        penalty: Φ.
    """

    delay_budget_s: float | None = None
    energy_budget_joule: float | Sequence[float] | None = None
    trade_off: float = 1.0
    resplit: bool = True
    penalty: Penalty = drift

    def __post_init__(self) -> None:
        budgets = self.energy_budget_joule
        numbers = [self.delay_budget_s, *(budgets if isinstance(budgets, Sequence) else [budgets])]
        for name, values in (("delay_budget_s", numbers[:1]), ("energy_budget_joule", numbers[1:])):
            if not all(value is None or 0 < value < math.inf for value in values):
                raise ValueError(f"ASFL({name}={getattr(self, name)!r}) is not accepted: give numbers above 0.")
        if not 0 <= self.trade_off < math.inf:
            raise ValueError(f"ASFL(trade_off={self.trade_off!r}) is not accepted: give a number of at least 0.")

    def decide(self, seen: Observation) -> Decision:
        """Decide for the rounds to come.

        Raises:
            InfeasibleError: A client has the memory for no cut.
            ValueError: There is a budget for energy that is not modelled, or the algorithm is not one for this policy.
        """
        budget = energy_budget(seen, self.energy_budget_joule, "ASFL")
        late, drawn = self._queues(seen, budget)
        tables, limits = round_tables(seen, resplits=self.resplit), limits_of(seen)
        joule_price = np.zeros(len(seen.clients))
        if budget is not None:
            queues = np.array([drawn.get(client, _FIRST_QUEUE) for client in seen.clients.tolist()])
            joule_price = np.maximum(queues, _LEAST_PRICE) / budget
        problem = priced(
            seen,
            tables,
            second_price=max(late, _LEAST_PRICE) / (self.delay_budget_s or 1.0),
            joule_price=joule_price,
            base=self.trade_off * self.penalty(seen),
            resplits=self.resplit,
        )
        found = solve_split_and_controls(problem, limits)
        controls = controls_of(seen, limits, found.setting)
        delay_s, joule = believed(seen, found.cut, controls, resplits=self.resplit)
        return Decision(
            allocation=seen.allocation(
                cut=found.cut,
                transmit_power_watt=controls.power_watt,
                clock_hz=controls.clock_hz,
                bandwidth_hz=controls.bandwidth_hz,
            ),
            reason=self._reason(seen, found, late),
            figures={
                "delay_s": delay_s,
                "energy_joule": float(joule.sum()),
                "delay_queue": late,
                "energy_queue": float(np.mean([drawn.get(c, _FIRST_QUEUE) for c in seen.clients.tolist()])),
            },
            memory={"delay_queue": late, "energy_queue": {str(client): queue for client, queue in drawn.items()}},
        )

    def _queues(self, seen: Observation, budget: FloatArray | None) -> tuple[float, dict[int, float]]:
        """Z, and Q of every client that ever took part, after the rounds that have passed."""
        late: float = seen.memory.get("delay_queue", _FIRST_QUEUE)
        held: Mapping[str, float] = seen.memory.get("energy_queue", {})
        drawn = {int(client): queue for client, queue in held.items()}
        for passed in seen.passed:
            if self.delay_budget_s is not None:
                late = max(late + passed.delay_s / self.delay_budget_s - 1.0, 0.0)
            if budget is not None:
                self._draw(drawn, passed)
        return late, drawn

    def _draw(self, drawn: dict[int, float], passed: Passed) -> None:
        budgets = self.energy_budget_joule
        assert budgets is not None
        for client, joule in zip(passed.clients.tolist(), passed.joule.tolist(), strict=True):
            own = budgets[client] if isinstance(budgets, Sequence) else budgets
            drawn[client] = max(drawn.get(client, _FIRST_QUEUE) + joule / own - 1.0, 0.0)

    def _reason(self, seen: Observation, found: Solution, late: float) -> str:
        names = seen.world.profile.cuts
        low, high = names[int(found.cut.min())], names[int(found.cut.max())]
        where = low if low == high else f"{low} to {high}"
        return f"cuts {where}; delay queue {late:.2f}; cost {found.values[-1]:.4g} after {len(found.values)} blocks"


def energy_budget(seen: Observation, budget: float | Sequence[float] | None, policy: str) -> FloatArray | None:
    """Every client's budget, (K,).

    Raises:
        ValueError: The world does not model energy, or there is no budget for every registered client.
    """
    if budget is None:
        return None
    registered, fleet = len(seen.now.cut or ()), seen.world.fleet
    if isinstance(budget, Sequence) and len(budget) != registered:
        raise ValueError(
            f"{policy}(energy_budget_joule=...) has {len(budget)} entries for {registered} registered clients; give one"
            " for each, or one number."
        )
    known = ~np.isnan(fleet.transmit_power_watt[seen.clients]) & ~np.isnan(fleet.compute_watt(seen.clients))
    if not known.all():
        raise ValueError(
            f"{policy}(energy_budget_joule=...) is not accepted: the energy of client"
            f" {seen.clients[int(known.argmin())]} is not modelled; give its device watt_per_cubic_hz and"
            " transmit_power_watt, or leave the budget out."
        )
    everybody = np.array(budget if isinstance(budget, Sequence) else [budget] * registered, dtype=np.float64)
    return everybody[seen.clients]
