"""What a decision takes: every policy for 20 devices and for 1,000, with the 16 cuts of VGG-16.

    python benchmarks/decisions.py

CPU seconds of all threads, as medians; nothing here uses more than one. A decision is all of it: asking the world for
its tables, solving, and asking the world what it comes to. Devices are as far apart as 0.05 and 0.5 TFLOPS, and 10 and
80 Mbit/s; the servers have a line between them.
"""

import argparse
import statistics
import time
from collections.abc import Mapping

from hasfl_by_cost import RANGES, make_statistics, make_world, observation
from paper_profiles import vgg16_profile

from lightning_sfl.policies.best_uniform import BestUniform
from lightning_sfl.policies.decision import Policy
from lightning_sfl.policies.habs_rms import HabsRms
from lightning_sfl.policies.hasfl import HASFL
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.random_allocation import RandomAllocation
from lightning_sfl.policies.rbs_hams import RbsHams
from lightning_sfl.policies.rbs_rhams import RbsRhams

BARS_S = {20: 0.050, 1_000: 2.0}
POLICIES: Mapping[str, Policy] = {
    "hasfl": HASFL(),
    "best_uniform": BestUniform(),
    "random": RandomAllocation(),
    "rbs_hams": RbsHams(),
    "habs_rms": HabsRms(),
    "rbs_rhams": RbsRhams(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=21)
    options = parser.parse_args()
    profile = vgg16_profile()
    tera_flop, mega_bit = RANGES["0.05-0.5 TFLOPS, 10-80 Mbit/s"]
    print(f"{'policy':>14} {'devices':>8} {'median':>11} {'bar':>9}")
    for clients, bar_s in BARS_S.items():
        runs = options.runs if clients <= 100 else max(3, options.runs // 7)
        seen = []
        for run in range(runs):
            world = make_world(profile, clients, run, tera_flop, mega_bit)
            seen.append(observation(world, make_statistics(world, clients, 0.3, 0.1)))
        for name, policy in POLICIES.items():
            median_s = statistics.median(decision_s(policy, each) for each in seen)
            print(f"{name:>14} {clients:>8,} {1e3 * median_s:>8.1f} ms {1e3 * bar_s:>6.0f} ms", flush=True)


def decision_s(policy: Policy, seen: Observation) -> float:
    """CPU seconds of one decision."""
    start = time.process_time()
    decision = policy.decide(seen)
    assert decision.allocation.cut is not None
    return time.process_time() - start


if __name__ == "__main__":
    main()
