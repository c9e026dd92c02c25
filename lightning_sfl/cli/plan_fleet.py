"""The fleet's side of a plan: what rounds cost where everybody cuts at the same place."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from lightning_sfl.schedule import Schedule
from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray
from lightning_sfl.world.cost.load import StepLoad
from lightning_sfl.world.cost.pareto import pareto_optimal
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.cost.round_cost import RoundCost
from lightning_sfl.world.cost.rules import Rule
from lightning_sfl.world.cost.step_cost import StepCost
from lightning_sfl.world.world import Ends, World

ROUNDS = 20
"""Rounds that costs are averaged over, at least."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CutCosts:
    """What rounds cost at one cut. What is not modelled is NaN.

    Attributes:
        round_s: A round's seconds.
        client_joule: What all its participants together take in a round.
        uplink_byte: Bytes of a round, up.
        downlink_byte: Bytes of a round, down.
        step_s: What each client's own stages of a step take, (N,); NaN for those that no round was drawn with.
        step_joule: What a step takes of each, (N,).
        memory_byte: What training takes at most of each one's memory, (N,).
        fits: Whether each has that memory, (N,).
        is_pareto: Whether no cut that fits everybody is better in one cost and as good in the others.
    """

    round_s: float
    client_joule: float
    uplink_byte: float
    downlink_byte: float
    step_s: FloatArray
    step_joule: FloatArray
    memory_byte: FloatArray
    fits: BoolArray
    is_pareto: bool

    @property
    def median_step_s(self) -> float:
        """A step of the client in the middle, of those that were drawn."""
        return float(np.nanmedian(self.step_s))

    @property
    def slowest_step_s(self) -> float:
        """A step of the slowest client."""
        return float(np.nanmax(self.step_s))

    @property
    def slowest(self) -> int:
        """The slowest client."""
        return int(np.nanargmax(self.step_s))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FleetPlan:
    """Asks the world what rounds cost.

    Attributes:
        world: The world.
        schedule: Who takes part when.
        batch_size: Every registered client's samples per step, (N,).
        sends_state: Whether optimizer state goes with the weights.
        bits: Every registered client's bits per element that crosses at the cut, (N,); None: as computed.
    """

    world: World
    schedule: Schedule
    batch_size: IntArray
    sends_state: bool
    bits: FloatArray | None = None

    @property
    def rounds(self) -> int:
        """How many rounds are averaged over; whole turns of everybody drawn where a round is one client's turn."""
        turns = self.schedule.clients_per_round
        return -(-ROUNDS // turns) * turns if self.world.rule.hands_on else ROUNDS

    def costs(self) -> tuple[CutCosts, ...]:
        """The costs of every cut of the profile.

        Raises:
            ValueError: A client has the memory for no cut.
        """
        clients = np.arange(self.schedule.num_clients)
        fits = self.world.feasible(clients, self.batch_size)
        found = [self._at(cut, fits[:, cut]) for cut in range(len(self.world.profile.cuts))]
        compared = [
            [cost.round_s, cost.client_joule, cost.memory_byte.max(), cost.uplink_byte + cost.downlink_byte]
            for cost in found
        ]
        candidates = np.flatnonzero(fits.all(axis=0))
        optimal = set(candidates[pareto_optimal(np.array(compared)[candidates])].tolist())
        return tuple(dataclasses.replace(cost, is_pareto=place in optimal) for place, cost in enumerate(found))

    def round(
        self, cuts: IntArray, round: int, start_s: float = 0.0, missed_steps: IntArray | None = None
    ) -> RoundCost:
        """What a round costs.

        Args:
            cuts: Where every registered client cuts, (N,).
            round: The round, for who takes part and how the channel is.
            start_s: When it begins.
            missed_steps: The steps that every registered client has been away from, (N,); None: from none.
        """
        clients = np.array(participants(self.schedule, self.world.rule, round))
        who = Participation(
            clients=clients,
            cut=cuts[clients],
            batch_size=self.batch_size[clients],
            bits=None if self.bits is None else self.bits[clients],
        )
        missed = None if missed_steps is None else missed_steps[clients]
        ends = Ends(optimizer_state=self.sends_state, deepest=int(cuts.max()), missed_steps=missed)
        return self.world.round(who, ends, round=round, start_s=start_s)

    def _at(self, cut: int, fits: BoolArray) -> CutCosts:
        cuts = np.full(self.schedule.num_clients, cut)
        costs: list[RoundCost] = []
        now_s, last = 0.0, np.zeros_like(cuts)  # the steps there had been when each was there last
        for round in range(self.rounds):
            costs.append(self.round(cuts, round, now_s, round * self.world.aggregate_every - last))
            last[costs[-1].clients] = (round + 1) * self.world.aggregate_every
            now_s += costs[-1].total_s
        return CutCosts(
            round_s=now_s / len(costs),
            client_joule=_mean([float((cost.compute_joule + cost.radio_joule).sum()) for cost in costs]),
            uplink_byte=_mean([_uplink_bit(cost) / 8 for cost in costs]),
            downlink_byte=_mean([_downlink_bit(cost) / 8 for cost in costs]),
            step_s=self._by_client(costs, lambda step: step.client_s),
            step_joule=self._by_client(costs, lambda step: step.compute_joule + step.radio_joule),
            memory_byte=self.world.memory_at(cuts, self.batch_size),
            fits=fits,
            is_pareto=False,
        )

    def _by_client(self, costs: Sequence[RoundCost], of_step: Callable[[StepCost], FloatArray]) -> FloatArray:
        """Means over the steps of each client, in the rounds it took part in; NaN for those that took part in none."""
        total, times = np.zeros(self.schedule.num_clients), np.zeros(self.schedule.num_clients)
        for cost in costs:
            for step, often in Counter(cost.steps).items():
                total[cost.clients] += often * of_step(step)
                times[cost.clients] += often
        found: FloatArray = np.divide(total, times, out=np.full(len(total), np.nan), where=times > 0)
        return found


def participants(schedule: Schedule, rule: Rule, round: int) -> tuple[int, ...]:
    """Who takes part in a round; in the order in which they are served where that is one by one."""
    if rule.hands_on:
        return schedule.turn(round * schedule.steps_per_round).participants
    return schedule.order(round) if rule.one_by_one else schedule.participants(round)


def _uplink_bit(cost: RoundCost) -> float:
    ends = cost.opening.load.resplit_up_bit + cost.closing.load.update_bit
    return float(ends.sum()) + _of_steps(cost, lambda load: load.uplink_bit + load.turn_up_bit)


def _downlink_bit(cost: RoundCost) -> float:
    ends = cost.opening.load.broadcast_bit + cost.opening.load.resplit_down_bit
    return float(ends.sum()) + _of_steps(cost, lambda load: load.downlink_bit + load.turn_down_bit)


def _of_steps(cost: RoundCost, bit: Callable[[StepLoad], FloatArray]) -> float:
    return sum(often * float(bit(step.load).sum()) for step, often in Counter(cost.steps).items())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
