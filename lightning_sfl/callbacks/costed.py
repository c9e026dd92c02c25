"""What one step of training cost in a simulated world, with the beginning and end of a round that fell into it."""

import dataclasses
import math

import numpy as np

from lightning_sfl.callbacks.crossed import Crossed
from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray
from lightning_sfl.world.cost.clock import Clock
from lightning_sfl.world.cost.load import RoundLoad, StepLoad
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.cost.round_cost import ClosingCost, OpeningCost, closing_cost, opening_cost
from lightning_sfl.world.cost.rules import Rule
from lightning_sfl.world.cost.step_cost import Controls, StepCost, step_cost
from lightning_sfl.world.world import Ends, World

Part = OpeningCost | StepCost | ClosingCost


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Happened:
    """What a step of training was; entry i of every array is the i-th of the round's participants.

    Attributes:
        round: The round.
        clients: The round's participants.
        cut: Where each cuts, an index into the profile's cuts; 0 without a cut.
        deepest: The deepest cut of all registered clients; None without a cut.
        batch_size: Records in its batch; 0 for those that have none in this step.
        present: Whether it is not lost.
        closes_round: Whether this is the round's last step.
        crossed: What crossed.
        controls: Power, clock and bandwidth of their devices.
    """

    round: int
    clients: IntArray
    cut: IntArray
    deepest: int | None
    batch_size: IntArray
    present: BoolArray
    closes_round: bool
    crossed: Crossed
    controls: Controls


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CostedStep:
    """What it cost.

    Attributes:
        happened: What it was.
        parts: What followed each other, in order of time.
        memory_byte: What each participant needed at most for its batch; 0 for those without.
    """

    happened: Happened
    parts: tuple[Part, ...]
    memory_byte: FloatArray

    @property
    def step(self) -> StepCost | None:
        """The step itself; None where nobody took part in it."""
        return next((part for part in self.parts if isinstance(part, StepCost)), None)

    @property
    def seconds(self) -> FloatArray:
        """What each participant's own stages took."""
        return self._by_client("client_s")

    @property
    def joule(self) -> FloatArray:
        """What each participant took."""
        return self._by_client("radio_joule") + self._by_client("compute_joule")

    @property
    def server_joule(self) -> float:
        """What the server took."""
        named = ("server_compute_joule", "server_radio_joule")
        return math.fsum(getattr(part, name, 0.0) for part in self.parts for name in named)

    def _by_client(self, name: str) -> FloatArray:
        places = {client: place for place, client in enumerate(self.happened.clients.tolist())}
        total = np.zeros(len(places))
        for part in self.parts:
            if (values := getattr(part, name, None)) is not None:
                total[[places[client] for client in part.clients.tolist()]] += values
        return total

    def metrics(self) -> dict[str, float]:
        """What is logged of the step itself."""
        crossed, found = self.happened.crossed, {}
        if self.step is not None:
            found = {
                "delay/step_s": self.step.total_s,
                "delay/straggler": float(self.step.straggler),
                "energy/step_client_joule": float((self.step.compute_joule + self.step.radio_joule).sum()),
                "energy/step_server_joule": self.step.server_compute_joule + self.step.server_radio_joule,
            }
        return {
            **found,
            "comm/step_uplink_bytes": float((crossed.step_up + crossed.turn_up).sum()) / 8,
            "comm/step_downlink_bytes": float((crossed.step_down + crossed.turn_down).sum()) / 8,
            "memory/client_bytes": float(self.memory_byte.max()),
        }


def cost_step(world: World, happened: Happened, clock: Clock) -> CostedStep:
    """Cost what has happened, and let its time pass."""
    parts: list[Part] = []

    def follows(part: Part | None) -> None:
        if part is not None:
            clock.advance(part)
            parts.append(part)

    if not happened.closes_round:
        # The last step of the round before was skipped by everybody, and its end came only now.
        follows(_closing(world, happened, clock))
    follows(_opening(world, happened, clock))
    follows(_step(world, happened, clock))
    if happened.closes_round:
        follows(_closing(world, happened, clock))
    return CostedStep(happened=happened, parts=tuple(parts), memory_byte=_memory_byte(world, happened))


def _step(world: World, happened: Happened, clock: Clock) -> StepCost | None:
    crossed, uses_cut = happened.crossed, world.rule.uses_cut
    took_part = (crossed.step_up > 0) if uses_cut else happened.present
    some = np.flatnonzero(took_part & (happened.batch_size > 0))
    if not len(some):
        return None
    who = _some(happened, some)
    load = world.step_load(who)
    if uses_cut:
        load = _as_metered(load, crossed, some, world.rule)
    start_s = clock.start_s(who.clients)
    return step_cost(load, world.machines, world.rule, who.controls, round=happened.round, start_s=start_s)


def _as_metered(load: StepLoad, crossed: Crossed, some: IntArray, rule: Rule) -> StepLoad:
    """What really crossed. Whoever got no gradient, where there is one, went no way back; nor does who got no turn.

    Whoever probes after the downlink has uploaded scalars of it.
    """
    came = crossed.step_down if rule.probing is None else crossed.scalars_up
    went_back = (came[some] > 0) | (load.downlink_bit == 0)
    turned = (crossed.turn_down[some] > 0) | (load.turn_down_bit == 0)
    returned = (crossed.turn_up[some] > 0) | (load.turn_up_bit == 0)
    return dataclasses.replace(
        load,
        client_backward_flop=np.where(went_back, load.client_backward_flop, 0.0),
        uplink_bit=crossed.step_up[some],
        downlink_bit=crossed.step_down[some],
        turn_down_bit=crossed.turn_down[some],
        turn_flop=np.where(turned, load.turn_flop, 0.0),
        turn_up_bit=crossed.turn_up[some],
        return_flop=np.where(returned, load.return_flop, 0.0),
    )


def _opening(world: World, happened: Happened, clock: Clock) -> OpeningCost | None:
    sent = happened.crossed.round_down
    some = np.flatnonzero(sent > 0)
    if not len(some):
        return None
    load = dataclasses.replace(
        _round_load(world, happened, some),
        broadcast_bit=sent[some],
        handover_bit=happened.crossed.handed_over,
    )
    controls = happened.controls.of(some)
    return opening_cost(load, world.machines, world.rule, controls, round=happened.round, start_s=clock.seconds)


def _closing(world: World, happened: Happened, clock: Clock) -> ClosingCost | None:
    sent = happened.crossed.round_up
    some = np.flatnonzero(sent > 0)
    if not len(some):
        return None
    load = dataclasses.replace(_round_load(world, happened, some), update_bit=sent[some])
    start_s = clock.start_s(load.clients)
    controls = happened.controls.of(some)
    return closing_cost(load, world.machines, world.rule, controls, round=happened.round, start_s=start_s)


def _round_load(world: World, happened: Happened, some: IntArray) -> RoundLoad:
    return world.round_load(_some(happened, some), Ends(deepest=happened.deepest))


def _some(happened: Happened, some: IntArray) -> Participation:
    return Participation(
        clients=happened.clients[some],
        cut=happened.cut[some],
        batch_size=np.maximum(happened.batch_size[some], 1),
        controls=happened.controls.of(some),
    )


def _memory_byte(world: World, happened: Happened) -> FloatArray:
    needed = world.memory_at(happened.cut, np.maximum(happened.batch_size, 1))
    found: FloatArray = np.where(happened.batch_size > 0, needed, 0.0)
    return found
