"""A policy in a world without training: what it decides on the channel as seen, and what that costs on the true one."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lightning_sfl.allocation import Allocation
from lightning_sfl.policies.decision import Policy, check
from lightning_sfl.policies.observation import Observation, Passed
from lightning_sfl.policies.statistics import GradientStatistics, assumed
from lightning_sfl.world.arrays import FloatArray, IntArray
from lightning_sfl.world.channel.seen import CSI, as_seen, check_csi
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.cost.step_cost import Controls
from lightning_sfl.world.world import Ends, World

_PLENTY = 2**40


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """What a policy is simulated in; all registered clients take part in every round, in their order.

    A round of ``split_learning`` is one client's turn, and clients take turns in their order.

    Attributes:
        world: What things cost, with the true channel.
        cut: Where each of the N clients cuts at first, an index into the profile's cuts, (N,).
        batch_size: Its samples per step at first, (N,).
        samples: What each holds, (N,); None: as many as any batch asks for.
        statistics: What is known of the gradients; None: what is assumed of them, every layer before the deepest cut
            drifting.
        learning_rate: γ.
        resplits: Whether layers that move because a cut did are a stage of their own (see ``world.cost.load``). Else
            they are in the broadcast, as a trainer sends them.
    """

    world: World
    cut: IntArray
    batch_size: IntArray
    samples: IntArray | None = None
    statistics: GradientStatistics | None = None
    learning_rate: float = 5e-4
    resplits: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """What happened, round by round.

    Attributes:
        delay_s: What each round took, (R,).
        joule: What computing and sending took of each client, (R, N); NaN where energy is not modelled.
        cut: Where each client cut, (R, N).
        batch_size: Its samples per step, (R, N).
        figures: The figures of every decision, in order.
    """

    delay_s: FloatArray
    joule: FloatArray
    cut: IntArray
    batch_size: IntArray
    figures: Sequence[Mapping[str, float]]


def simulate(policy: Policy, scene: Scene, rounds: int, *, every: int = 1, csi: CSI = "instantaneous") -> Trace:
    """Let a policy decide for some rounds, every so many of them.

    A decision is made on the channel of its first round as it is seen then, or, by statistical channel state
    information (``csi``), on its means; every round is charged on the true one.

    Raises:
        ValueError: What is decided is not accepted.
    """
    check_csi(csi)
    world, everybody = scene.world, np.arange(len(scene.cut))
    samples = np.full(len(everybody), _PLENTY) if scene.samples is None else scene.samples
    statistics = scene.statistics or assumed(world.profile, world.profile.update_parameters.astype(np.float64))
    names = world.profile.cuts
    now = Allocation(cut=[names[cut] for cut in scene.cut.tolist()], batch_size=scene.batch_size.tolist())
    memory: Mapping[str, object] = {}
    passed: list[Passed] = []
    rows: list[tuple[float, FloatArray, IntArray, IntArray]] = []
    figures: list[Mapping[str, float]] = []
    before, start_s = scene.cut, 0.0
    for round in range(rounds):
        who = _participation(scene, now, np.array([round % len(everybody)]) if world.rule.hands_on else everybody)
        if round % every == 0:
            seen = Observation(
                round=round,
                rounds=min(every, rounds - round),
                world=dataclasses.replace(
                    world, channel=as_seen(world.channel, len(everybody), round=round, start_s=start_s, csi=csi)
                ),
                clients=who.clients,
                samples=samples[who.clients],
                cut=who.cut,
                batch_size=who.batch_size,
                bits=who.bits,
                controls=who.controls,
                now=now,
                statistics=statistics,
                learning_rate=scene.learning_rate,
                passed=tuple(passed),
                memory=memory,
            )
            decision = policy.decide(seen)
            check(policy, seen, decision)
            memory, passed = decision.memory, []
            figures.append(decision.figures)
            now = _changed(now, decision.allocation)
            who = _participation(scene, now, who.clients)
        cut = world.profile.index(list(now.cut or ()))
        ends = Ends(deepest=int(cut.max()))
        if scene.resplits:
            ends = Ends(previous_cut=before[who.clients], deepest=int(cut.max()), previous_deepest=int(before.max()))
        cost = world.round(who, ends, round=round, start_s=start_s)
        before = cut
        joule = np.zeros(len(everybody))
        joule[who.clients] = cost.compute_joule + cost.radio_joule
        passed.append(Passed(round=round, delay_s=cost.total_s, clients=who.clients, joule=joule[who.clients]))
        start_s += cost.total_s
        rows.append((cost.total_s, joule, cut, np.array(now.batch_size)))
    delay_s, joules, cuts, batches = zip(*rows, strict=True)
    return Trace(
        delay_s=np.array(delay_s),
        joule=np.stack(joules),
        cut=np.stack(cuts),
        batch_size=np.stack(batches),
        figures=tuple(figures),
    )


def best_fixed_cut(
    policy_at: Callable[[str], Policy], scene: Scene, rounds: int, score: Callable[[Trace], float]
) -> tuple[str, Trace]:
    """The common cut that would have been best in hindsight, and what happened at it.

    Args:
        policy_at: The policy that cuts there all the time.
        scene: The world. The policy's cut is in force from the start: the run's first round moves nothing.
        rounds: How many rounds.
        score: What is wanted least of.
    """
    found: dict[str, Trace] = {}
    for place, name in enumerate(scene.world.profile.cuts):
        there = dataclasses.replace(scene, cut=np.full(len(scene.cut), place))
        found[name] = simulate(policy_at(name), there, rounds)
    best = min(found, key=lambda name: score(found[name]))
    return best, found[best]


def _changed(now: Allocation, decided: Allocation) -> Allocation:
    given = {field.name: getattr(decided, field.name) for field in dataclasses.fields(decided)}
    return dataclasses.replace(now, **{name: values for name, values in given.items() if values is not None})


def _participation(scene: Scene, now: Allocation, clients: IntArray) -> Participation:
    """These clients with what they have."""

    def of(values: Sequence[float] | None) -> FloatArray | None:
        return None if values is None else np.array(values, dtype=np.float64)[clients]

    assert now.batch_size is not None
    size = np.array(now.batch_size, dtype=np.int64)[clients]
    return Participation(
        clients=clients,
        cut=scene.world.profile.index(list(now.cut or ()))[clients],
        batch_size=size if scene.samples is None else np.minimum(size, scene.samples[clients]),
        bits=of(now.bits),
        controls=Controls(
            power_watt=of(now.transmit_power_watt), clock_hz=of(now.clock_hz), bandwidth_hz=of(now.bandwidth_hz)
        ),
    )
