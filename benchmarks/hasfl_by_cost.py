"""What HASFL gains over the best choice that all share, and over its baselines, by cost and bound alone.

    python benchmarks/hasfl_by_cost.py

VGG-16 and ResNet-18 for images of 32x32. No training: what is compared is the time until the convergence bound reaches
ε = 1, where batches of 16 leave a variance v and a cut in the middle a drift d, every layer's gradient being as large
as any other's. 20 devices, a round of 15 steps, γ = 5e-4; a server of 20 TFLOPS that serves one client after the other,
360 to 380 Mbit/s down and between servers, no optimizer state. 1 multiply-accumulate is 2 FLOP. Each figure is over
several draws of devices; the random baselines are drawn anew for each of several rounds, and draws that cannot reach ε
count as infinitely slow.
"""

import argparse
import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from paper_profiles import PROFILES

from lightning_sfl.allocation import Allocation
from lightning_sfl.policies.best_uniform import BestUniform
from lightning_sfl.policies.decision import InfeasibleError, Policy
from lightning_sfl.policies.habs_rms import HabsRms
from lightning_sfl.policies.hasfl import HASFL
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.random_allocation import RandomAllocation
from lightning_sfl.policies.rbs_hams import RbsHams
from lightning_sfl.policies.rbs_rhams import RbsRhams
from lightning_sfl.policies.reach import time_to_target
from lightning_sfl.policies.statistics import GradientStatistics
from lightning_sfl.random import uniforms
from lightning_sfl.world.arrays import between
from lightning_sfl.world.channel.rates import RateChannel
from lightning_sfl.world.devices.fleet import Fleet, FleetRanges
from lightning_sfl.world.environments import make_environment
from lightning_sfl.world.model.profile import Profile
from lightning_sfl.world.world import World

TERA, MEGA = 1e12, 1e6
LEARNING_RATE, SMOOTHNESS, INTERVAL, NOMINAL_BATCH = 5e-4, 10.0, 15, 16
RANGES = {
    "1-2 TFLOPS, 75-80 Mbit/s": ((1, 2), (75, 80)),
    "0.05-0.5 TFLOPS, 75-80 Mbit/s": ((0.05, 0.5), (75, 80)),
    "0.05-0.5 TFLOPS, 10-80 Mbit/s": ((0.05, 0.5), (10, 80)),
}
WEIGHTS = ((0.1, 0.1), (0.3, 0.1), (0.3, 0.3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    for network in PROFILES:
        print_table(network, compared(network, options.clients, options.draws, options.rounds))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A device range, and the shares of ε that variance and drift have.

    Attributes:
        devices: The range.
        variance: v.
        drift: d.
        ratios: By policy, how many times as slow as HASFL it is: of every draw, and of every round where it is random.
    """

    devices: str
    variance: float
    drift: float
    ratios: Mapping[str, list[float]]


def compared(network: str, clients: int, draws: int, rounds: int) -> Iterator[Row]:
    """The rows of a network, one after the other."""
    profile = PROFILES[network]()
    for name, (tera_flop, mega_bit) in RANGES.items():
        for variance, drift in WEIGHTS:
            ratios: dict[str, list[float]] = {}
            for draw in range(draws):
                world = make_world(profile, clients, draw, tera_flop, mega_bit)
                seen = observation(world, make_statistics(world, clients, variance, drift))
                best = HASFL(target=1.0).decide(seen).figures["expected_s"]
                ratios.setdefault("best uniform", []).append(expected_s(BestUniform(target=1.0), seen) / best)
                for round in range(rounds):
                    later = dataclasses.replace(seen, round=round)
                    for baseline, policy in _random_policies(draw).items():
                        ratios.setdefault(baseline, []).append(expected_s(policy, later) / best)
            yield Row(devices=name, variance=variance, drift=drift, ratios=ratios)


def _random_policies(seed: int) -> Mapping[str, Policy]:
    return {
        "RBS+HAMS": RbsHams(target=1.0, seed=seed),
        "HABS+RMS": HabsRms(target=1.0, seed=seed),
        "RBS+RHAMS": RbsRhams(seed=seed),
        "RBS+RMS": RandomAllocation(seed=seed),
    }


def print_table(network: str, rows: Iterable[Row]) -> None:
    """A line per row."""
    print(f"\n{network}, times as slow as HASFL: median (lowest-highest), and how many draws never reach the target")
    for place, row in enumerate(rows):
        if place == 0:
            print(f"{'devices':>30} {'v, d':>8} " + " ".join(f"{policy:>26}" for policy in row.ratios))
        cells = []
        for found in row.ratios.values():
            finite = [ratio for ratio in found if np.isfinite(ratio)]
            never = f", {len(found) - len(finite)}/{len(found)}" if len(finite) < len(found) else ""
            middle = f"{np.median(found):.4g} ({min(finite):.3g}-{max(finite):.3g}{never})" if finite else "never"
            cells.append(f"{middle:>26}")
        print(f"{row.devices:>30} {row.variance:>4}, {row.drift} {' '.join(cells)}", flush=True)


def expected_s(policy: Policy, seen: Observation) -> float:
    """The time to ε = 1 with what a policy decides; infinite where the decision, or every draw, does not reach it."""
    try:
        allocation = policy.decide(seen).allocation
    except InfeasibleError:
        return np.inf
    assert allocation.cut is not None
    assert allocation.batch_size is not None
    cut = seen.world.profile.index(allocation.cut)
    return float(time_to_target(seen, 1.0, 64).seconds(cut, np.array(allocation.batch_size)))


def make_world(
    profile: Profile, clients: int, seed: int, tera_flop: tuple[float, float], mega_bit: tuple[float, float]
) -> World:
    """The environment of HASFL with other ranges."""
    usual = make_environment("hasfl", clients, seed)
    speeds = (tera_flop[0] * 1e3, tera_flop[1] * 1e3)
    rates = between(mega_bit, uniforms(clients, seed, "benchmark uplink")) * MEGA
    down = between((360, 380), uniforms(clients, seed, "benchmark downlink")) * MEGA
    return World(
        profile=profile,
        fleet=Fleet.drawn(clients, seed, FleetRanges(clock_hz=(1e9, 1e9), flop_per_cycle=speeds)),
        channel=RateChannel(mean_uplink_bit_per_s=rates, mean_downlink_bit_per_s=down),
        server=usual.server,
        aggregate_every=INTERVAL,
    )


def make_statistics(world: World, clients: int, variance: float, drift: float) -> GradientStatistics:
    """Of gradients with this variance at batches of 16, and this drift at the cut in the middle."""
    cuts = len(world.profile.cuts)
    layers = np.arange(1, cuts + 1) / (cuts // 2 + 1)
    return GradientStatistics(
        smoothness=SMOOTHNESS,
        variance=variance * clients * NOMINAL_BATCH / (SMOOTHNESS * LEARNING_RATE),
        second_moment=drift * layers / (4 * (SMOOTHNESS * LEARNING_RATE * INTERVAL) ** 2),
        loss_gap=1.0,
    )


def observation(world: World, statistics: GradientStatistics) -> Observation:
    """All devices take part, at the first cut with batches of 16, without optimizer state."""
    clients = len(world.fleet.clock_hz)
    return Observation(
        round=0,
        rounds=1,
        world=world,
        clients=np.arange(clients),
        samples=np.full(clients, 50_000 // clients),
        cut=np.zeros(clients, dtype=np.int64),
        batch_size=np.full(clients, NOMINAL_BATCH),
        now=Allocation(cut=[world.profile.cuts[0]] * clients, batch_size=[NOMINAL_BATCH] * clients),
        statistics=statistics,
        learning_rate=LEARNING_RATE,
        sends_state=False,
    )


if __name__ == "__main__":
    main()
