"""What a decision takes: every policy for 20 devices and for 1,000, with the 16 cuts of VGG-16.

    python benchmarks/decisions.py

CPU seconds of all threads, as medians; nothing here uses more than one. A decision is all of it: asking the world for
its tables, solving, and asking the world what it comes to. HASFL and its baselines decide for devices of 0.05 to 0.5
TFLOPS and 10 to 80 Mbit/s, each time for others; the servers have a line between them. ASFL and its baselines decide
round by round in the world of ``wei_chen``, after a first round that is not counted, so that queues and cuts are those
of a run; layers that move are a stage of their own. SFLAM and its baselines divide 100 MHz there, with the latency's
weight at 1, .5 and .1, and leave cuts alone.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

import latency_energy
import numpy as np
from asfl_scenes import make_scene
from hasfl_by_cost import RANGES, make_statistics, make_world, observation
from paper_profiles import vgg16_profile

from lightning_sfl.policies.asfl import ASFL
from lightning_sfl.policies.best_uniform import BestUniform
from lightning_sfl.policies.decision import Decision, Policy
from lightning_sfl.policies.equal_bandwidth import EqualBandwidth
from lightning_sfl.policies.habs_rms import HabsRms
from lightning_sfl.policies.hasfl import HASFL
from lightning_sfl.policies.latency_only import LatencyOnly
from lightning_sfl.policies.maximum_power import MaximumPower
from lightning_sfl.policies.myopic import Myopic
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.random_allocation import RandomAllocation
from lightning_sfl.policies.rbs_hams import RbsHams
from lightning_sfl.policies.rbs_rhams import RbsRhams
from lightning_sfl.policies.sflam import SFLAM
from lightning_sfl.policies.simulation import Scene, simulate
from lightning_sfl.world.model.profile import Profile

BARS_S = {20: 0.050, 1_000: 2.0}
DRAWN: Mapping[str, Policy] = {
    "hasfl": HASFL(),
    "best_uniform": BestUniform(),
    "random": RandomAllocation(),
    "rbs_hams": RbsHams(),
    "habs_rms": HabsRms(),
    "rbs_rhams": RbsRhams(),
}
IN_A_RUN: Mapping[str, Callable[[float, list[float]], Policy]] = {
    "asfl": lambda delay_s, joule: ASFL(delay_budget_s=delay_s, energy_budget_joule=joule),
    "latency_only": lambda delay_s, joule: LatencyOnly(),
    "myopic": lambda delay_s, joule: Myopic(delay_budget_s=delay_s, energy_budget_joule=joule),
}
SHARING: Mapping[str, Callable[[float], Policy]] = {
    "sflam": lambda weight: SFLAM(weight=weight),
    "equal_bandwidth": lambda weight: EqualBandwidth(weight=weight),
    "maximum_power": lambda weight: MaximumPower(weight=weight),
}


class Timed(Policy):
    """A policy whose decisions are timed."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.cpu_s: list[float] = []

    def decide(self, seen: Observation) -> Decision:
        """The policy's decision."""
        start = time.process_time()
        decision = self.policy.decide(seen)
        self.cpu_s.append(time.process_time() - start)
        return decision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=21)
    options = parser.parse_args()
    profile = vgg16_profile()
    print(f"{'policy':>15} {'devices':>8} {'median':>11} {'most':>11} {'bar':>9}")
    for clients, bar_s in BARS_S.items():
        runs = options.runs if clients <= 100 else max(3, options.runs // 7)
        for part in (drawn(profile, clients, runs), in_a_run(clients, runs), sharing(profile, clients, runs)):
            for name, cpu_s in part.items():
                ms = [1e3 * statistics.median(cpu_s), 1e3 * max(cpu_s)]
                print(f"{name:>15} {clients:>8,} {ms[0]:>8.1f} ms {ms[1]:>8.1f} ms {1e3 * bar_s:>6.0f} ms", flush=True)


def drawn(profile: Profile, clients: int, runs: int) -> dict[str, list[float]]:
    """CPU seconds of HASFL and its baselines."""
    tera_flop, mega_bit = RANGES["0.05-0.5 TFLOPS, 10-80 Mbit/s"]
    seen = []
    for run in range(runs):
        world = make_world(profile, clients, run, tera_flop, mega_bit)
        seen.append(observation(world, make_statistics(world, clients, 0.3, 0.1)))
    return {name: decided(policy, seen) for name, policy in DRAWN.items()}


def in_a_run(clients: int, runs: int) -> dict[str, list[float]]:
    """CPU seconds of ASFL and its baselines, with 1.5 times the delay and .3 times the energy of latency-only."""
    scene = make_scene("wei_chen", "block", 0, "splitfed_shared", clients=clients)
    scene = dataclasses.replace(scene, resplits=True)
    fast = simulate(LatencyOnly(), scene, 3)
    delay_s, joule = 1.5 * float(np.median(fast.delay_s)), (0.3 * np.median(fast.joule, axis=0)).tolist()
    return {name: rounds(made(delay_s, joule), scene, runs) for name, made in IN_A_RUN.items()}


def rounds(policy: Policy, scene: Scene, runs: int) -> list[float]:
    """CPU seconds of a policy's decisions after the first."""
    timed = Timed(policy)
    simulate(timed, scene, runs + 1)
    return timed.cpu_s[1:]


def sharing(profile: Profile, clients: int, runs: int) -> dict[str, list[float]]:
    """CPU seconds of SFLAM and its baselines."""
    seen = [latency_energy.observation("wei_chen", profile, clients, seed) for seed in range(max(1, runs // 3))]
    return {
        name: [cpu_s for weight in (1.0, 0.5, 0.1) for cpu_s in decided(made(weight), seen)]
        for name, made in SHARING.items()
    }


def decided(policy: Policy, seen: list[Observation]) -> list[float]:
    """CPU seconds of a policy's decisions."""
    timed = Timed(policy)
    for each in seen:
        timed.decide(each)
    return timed.cpu_s


if __name__ == "__main__":
    main()
