"""Where ASFL is compared by cost alone: devices and channels, what is known of the gradients, and what a run comes to.

VGG-16 on images of 32x32 with a cut after each of its 16 layers (1 MAC = 2 FLOP, 32-bit numbers), 20 clients, batches
of 32, 15 steps a round, optimizer state not sent.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal

import numpy as np
from paper_profiles import vgg16_profile

from lightning_sfl.policies.bound import Bound
from lightning_sfl.policies.decision import Decision, Policy
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.simulation import Scene, Trace
from lightning_sfl.policies.statistics import GradientStatistics
from lightning_sfl.random import uniforms
from lightning_sfl.world.arrays import FloatArray, between
from lightning_sfl.world.channel.fading import BlockRayleigh, Fading, FastRayleigh, Static
from lightning_sfl.world.channel.wireless import OwnBandwidth, WirelessChannel
from lightning_sfl.world.environments import Environment, make_environment
from lightning_sfl.world.model.profile import Profile
from lightning_sfl.world.world import World

CLIENTS, STEPS, BATCH = 20, 15, 32
LEARNING_RATE, TARGET, SMOOTHNESS = 5e-4, 1.0, 10.0
DRIFT_SHARE, VARIANCE_SHARE = 0.5, 0.1  # of the target, by the drift of the whole model and by the variance
MIDDLE = 3  # after the fourth convolution and its pooling

FadingName = Literal["none", "block", "fast"]
Moments = Literal["per parameter", "per layer"]
PLACES: tuple[tuple[str, FadingName], ...] = (
    ("wei_chen", "block"),
    ("wei_chen", "fast"),
    ("wide", "block"),
    ("wide", "fast"),
    ("safsl", "none"),
)
"""Environments as they are, and with fading within a round."""
COHERENCE_S: Mapping[str, float] = {"wei_chen": 0.02, "wide": 0.7, "safsl": 12.0}
"""How long a channel stays under fast fading: about a twentieth of a round of latency-only without it."""
WIDE_TERA_FLOP, WIDE_UPLINK, WIDE_DOWNLINK = (0.05, 0.5), (10e6, 80e6), (360e6, 380e6)


def make_scene(
    environment: str,
    fading: FadingName,
    seed: int,
    algorithm: str,
    moments: Moments = "per parameter",
    clients: int = CLIENTS,
) -> Scene:
    """Everybody at the middle cut at first."""
    place = make_place(environment, fading, seed, clients)
    world = World(
        profile=profile(),
        fleet=place.fleet,
        channel=place.channel,
        server=place.server,
        algorithm=algorithm,
        aggregate_every=STEPS,
    )
    return Scene(
        world=world,
        cut=np.full(clients, MIDDLE),
        batch_size=np.full(clients, BATCH),
        statistics=make_statistics(world, moments),
        learning_rate=LEARNING_RATE,
    )


@functools.cache
def profile() -> Profile:
    """VGG-16's."""
    return vgg16_profile()


def make_place(environment: str, fading: FadingName, seed: int, clients: int) -> Environment:
    """An environment by name; ``wide`` is that of Wei & Chen with slow devices on narrow bands."""
    found = make_environment("wei_chen" if environment == "wide" else environment, clients, seed)
    assert isinstance(found.channel, WirelessChannel)
    fadings: Mapping[FadingName, Fading] = {
        "none": Static(),
        "block": BlockRayleigh(seed=seed),
        "fast": FastRayleigh(coherence_s=COHERENCE_S[environment], seed=seed),
    }
    channel, fleet = dataclasses.replace(found.channel, fading=fadings[fading]), found.fleet
    if environment == "wide":
        speed = 1e12 * between(WIDE_TERA_FLOP, uniforms(clients, seed, "asfl wide speed"))
        fleet = dataclasses.replace(fleet, flop_per_cycle=speed / fleet.clock_hz)
        channel = dataclasses.replace(
            channel,
            uplink_bandwidth=_band(channel, channel.client_power_watt * channel.uplink_gain, WIDE_UPLINK, seed),
            downlink_bandwidth=_band(channel, channel.server_power_watt * channel.downlink_gain, WIDE_DOWNLINK, seed),
        )
    return Environment(fleet=fleet, channel=channel, server=found.server)


def _band(channel: WirelessChannel, received_watt: FloatArray, rates: tuple[float, float], seed: int) -> OwnBandwidth:
    """Bands that have rates from a range at the mean gain and the highest power: B log2(1 + P|h|²/(B N0)) = r."""
    rate = between(rates, uniforms(len(received_watt), seed, f"asfl wide rate {rates}"))
    band = rate
    for _ in range(50):  # its logarithm hardly changes with the band
        band = rate / np.log2(1.0 + received_watt / (band * channel.noise_watt_per_hz))
    return OwnBandwidth(bandwidth_hz=band)


def make_statistics(world: World, moments: Moments) -> GradientStatistics:
    """Like second moments per parameter, or per layer; the whole model's drift takes half of the target."""
    assert world.profile.whole is not None
    cuts = len(world.profile.cuts)
    share = world.profile.update_parameters / world.profile.whole.update_parameters[0]
    if moments == "per layer":
        share = np.arange(1, cuts + 1) / cuts
    if world.rule.server_replicas or not world.rule.uses_cut:
        share = np.ones(cuts)
    if world.rule.hands_on:
        share = np.zeros(cuts)
    unit = DRIFT_SHARE * TARGET / (4 * (SMOOTHNESS * LEARNING_RATE * STEPS) ** 2)
    variance = VARIANCE_SHARE * TARGET * CLIENTS * BATCH / (SMOOTHNESS * LEARNING_RATE)
    return GradientStatistics(smoothness=SMOOTHNESS, variance=variance, second_moment=unit * share, loss_gap=1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtOneCut(Policy):
    """Lets a policy decide about everything but the cut, as if there were one alone.

    Attributes:
        policy: The policy.
        cut: Its name.
    """

    policy: Policy
    cut: str

    def decide(self, seen: Observation) -> Decision:
        """See :meth:`lightning_sfl.policies.decision.Policy.decide`."""
        profile = seen.world.profile
        place = profile.index([self.cut])
        tables = (
            field.name for field in dataclasses.fields(profile) if field.name not in ("cuts", "batch_byte", "whole")
        )
        there = dataclasses.replace(
            profile, cuts=(self.cut,), **{name: getattr(profile, name)[place] for name in tables}
        )
        moments = dataclasses.replace(seen.statistics, second_moment=seen.statistics.second_moment[place])
        return self.policy.decide(
            dataclasses.replace(
                seen,
                world=dataclasses.replace(seen.world, profile=there),
                cut=np.zeros_like(seen.cut),
                statistics=moments,
            )
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Totals:
    """What a run comes to.

    Attributes:
        round_s: What a round takes on average; of split learning, a turn of everybody.
        round_joule: The same of all clients' energy.
        rounds: Rounds until the bound reaches the target, with the mean drift of the run's cuts.
    """

    round_s: float
    round_joule: float
    rounds: float

    @property
    def total_s(self) -> float:
        """Seconds until then."""
        return self.rounds * self.round_s

    @property
    def total_joule(self) -> float:
        """Joules until then."""
        return self.rounds * self.round_joule


def totals(scene: Scene, trace: Trace) -> Totals:
    """Of a run."""
    assert scene.statistics is not None
    turns = CLIENTS if scene.world.rule.hands_on else 1
    mean = float(scene.statistics.second_moment[trace.cut.max(axis=1)].mean())
    statistics = dataclasses.replace(scene.statistics, second_moment=np.array([mean]))
    bound = Bound(statistics=statistics, learning_rate=LEARNING_RATE, interval=STEPS, clients=CLIENTS, target=TARGET)
    return Totals(
        round_s=turns * float(trace.delay_s.mean()),
        round_joule=turns * float(trace.joule.sum(axis=1).mean()),
        rounds=bound.steps(np.full(CLIENTS, BATCH), 0) / STEPS,
    )


def drift_share(scene: Scene, trace: Trace) -> float:
    """Mean Φ of a run: the drift at its deepest cuts, as a share of the largest."""
    assert scene.statistics is not None
    moment = scene.statistics.second_moment
    return float(moment[trace.cut.max(axis=1)].mean() / moment.max())
