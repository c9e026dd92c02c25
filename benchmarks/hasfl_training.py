"""HASFL against its four baselines and the best choice that all share, in real training on simulated time.

    python benchmarks/hasfl_training.py --output runs/policies

On digits and on 5,000 images of CIFAR-10, with small networks of five cuts (``training_tasks.py``): 20 clients, IID,
rounds of 15 steps, a decision with every round from gradients as they were measured. The first round is nobody's
decision: everybody is in the middle with batches of 4. Batches are of at most 32.

Device ranges are the paper's (1 to 2 TFLOPS, 75 to 80 Mbit/s up) and a wider one (0.05 to 0.5 TFLOPS, 10 to 80 Mbit/s),
that also with mean rates as wide under block fading and under fast fading, in which a decision is stale when the bits
are sent; there every policy decides by means, too, which are rows of their own. A run ends when it has reached the
target; on digits in the paper's range it goes on. As the networks are far smaller than the paper's, speeds are divided
by what a forward pass has less to do than VGG-16's, and rates by what weights are fewer.

Where none of a baseline's random choices reaches its target, things stay as they are; how often is said. A run that is
in the folder already is not made again. Prints, by task, range and policy, medians and extremes over seeds of the
simulated seconds to the target accuracy, their ratio to HASFL's of the same seed (times slower), and, where runs go on,
the best accuracy. RBS+HAMS and RBS+RHAMS are the same where the cut that is best for the target is the fastest one.
"""

import argparse
import functools
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from quiet import quiet
from training_runs import CLIENTS, MEASURED_EVERY, STEPS_PER_ROUND, Curve, Training, made
from training_tasks import TASKS, Task

from lightning_sfl.policies import HASFL, BestUniform, HabsRms, Policy, RandomAllocation, RbsHams, RbsRhams
from lightning_sfl.random import uniforms
from lightning_sfl.world.arrays import FloatArray, between
from lightning_sfl.world.channel.channel import Channel
from lightning_sfl.world.channel.fading import BlockRayleigh, FastRayleigh
from lightning_sfl.world.channel.rates import RateChannel
from lightning_sfl.world.channel.wireless import OwnBandwidth, WirelessChannel
from lightning_sfl.world.devices.fleet import Fleet
from lightning_sfl.world.devices.server import Server
from lightning_sfl.world.environments import Environment

FIRST_BATCH, MOST_BATCH = 4, 32
COHERENCE_S = 0.05
_BAND_HZ, _NOISE_WATT_PER_HZ, _WATT = 20e6, 4e-21, 0.2

PAPER, WIDE = ((1e12, 2e12), (75e6, 80e6)), ((0.05e12, 0.5e12), (10e6, 80e6))
RANGES: Mapping[str, tuple[tuple[tuple[float, float], tuple[float, float]], str]] = {
    "paper": (PAPER, "none"),
    "wide": (WIDE, "none"),
    "wide-block": (WIDE, "block"),
    "wide-fast": (WIDE, "fast"),
}
"""FLOP/s of the clients and bit/s up, and how rates fade."""
POLICIES: Mapping[str, Callable[[int], Policy]] = {
    "HASFL": lambda seed: HASFL(most_batch=MOST_BATCH),
    "best uniform": lambda seed: BestUniform(most_batch=MOST_BATCH),
    "RBS+HAMS": lambda seed: RbsHams(most_batch=MOST_BATCH, seed=seed),
    "HABS+RMS": lambda seed: HabsRms(most_batch=MOST_BATCH, seed=seed),
    "RBS+RHAMS": lambda seed: RbsRhams(most_batch=MOST_BATCH, seed=seed),
    "RBS+RMS": lambda seed: RandomAllocation(most_batch=MOST_BATCH, seed=seed),
}
UNDER_FADING = ("HASFL", "best uniform")
"""Random choices lose by factors anyhow."""
BY_MEANS = ", by means"
"""Where rates change within a round, policies decide by the rates of the instant and, a row each, by their means."""


def main() -> None:
    """Make the runs that are missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS))
    parser.add_argument("--ranges", nargs="+", choices=tuple(RANGES), default=tuple(RANGES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    for task in options.tasks:
        for ranges in options.ranges:
            print_table(task, ranges, curves(options.output, task, ranges, options.seeds))


def curves(folder: Path, task: str, ranges: str, seeds: int) -> dict[str, list[Curve]]:
    """The curves of every policy, a seed each; made if they are not in the folder."""
    fading = RANGES[ranges][1]
    names = list(POLICIES if fading == "none" else UNDER_FADING)
    if fading == "fast":
        names += [name + BY_MEANS for name in UNDER_FADING]
    found: dict[str, list[Curve]] = {name: [] for name in names}
    for name, seed in itertools.product(names, range(seeds)):
        run = f"{task}-{ranges}-{name.replace(',', '').replace(' ', '_')}-seed{seed}"
        training = functools.partial(_training, TASKS[task], ranges, name, seed)
        found[name].append(made(folder / "hasfl", run, training))
    return found


def _training(task: Task, ranges: str, name: str, seed: int) -> Training:
    return Training(
        task=task,
        environment=environment(task, ranges, seed),
        seed=seed,
        steps=task.rounds * STEPS_PER_ROUND,
        measured_every=MEASURED_EVERY,
        batch_size=FIRST_BATCH,
        cut=task.middle_cut,
        policy=POLICIES[name.removesuffix(BY_MEANS)](seed),
        csi="statistical" if name.endswith(BY_MEANS) else "instantaneous",
        until=until(task, ranges),
    )


def until(task: Task, ranges: str) -> float | None:
    """Where a run ends."""
    return None if task is TASKS["digits"] and ranges == "paper" else task.target


def environment(task: Task, ranges: str, seed: int) -> Environment:
    """Devices and rates drawn from the ranges, brought to the network's size."""
    slower, narrower = task.size.flop, task.size.weights
    (speeds, rates), fading = RANGES[ranges]

    def drawn(purpose: str, ends: tuple[float, float]) -> FloatArray:
        return between(ends, uniforms(CLIENTS, seed, f"policies benchmark {purpose}"))

    uplink, downlink = narrower * drawn("uplink", rates), narrower * drawn("downlink", (360e6, 380e6))
    channel: Channel = RateChannel(mean_uplink_bit_per_s=uplink, mean_downlink_bit_per_s=downlink)
    if fading != "none":
        channel = _fading_channel(uplink, downlink, narrower * _BAND_HZ, fading, seed)
    return Environment(
        fleet=Fleet(
            clock_hz=np.full(CLIENTS, 1e9),
            flop_per_cycle=slower * drawn("speed", speeds) / 1e9,
            transmit_power_watt=np.full(CLIENTS, math.nan),
        ),
        channel=channel,
        server=Server(clock_hz=2e9, flop_per_cycle=slower * 20e12 / 2e9, inter_server_bit_per_s=narrower * 370e6),
    )


def _fading_channel(uplink: FloatArray, downlink: FloatArray, band_hz: float, fading: str, seed: int) -> Channel:
    """Shannon's rates, which are the given ones where the gain is its mean."""

    def gain(bit_per_s: FloatArray) -> FloatArray:
        return np.asarray(np.expm1(math.log(2) * bit_per_s / band_hz) * band_hz * _NOISE_WATT_PER_HZ / _WATT)

    return WirelessChannel(
        uplink_gain=gain(uplink),
        downlink_gain=gain(downlink),
        client_power_watt=np.full(CLIENTS, _WATT),
        server_power_watt=_WATT,
        uplink_bandwidth=OwnBandwidth(bandwidth_hz=np.full(CLIENTS, band_hz)),
        downlink_bandwidth=OwnBandwidth(bandwidth_hz=np.full(CLIENTS, band_hz)),
        noise_watt_per_hz=_NOISE_WATT_PER_HZ,
        fading=BlockRayleigh(seed=seed) if fading == "block" else FastRayleigh(coherence_s=COHERENCE_S, seed=seed),
    )


def print_table(task: str, ranges: str, found: Mapping[str, Sequence[Curve]]) -> None:
    """A row per policy."""
    target, seeds = TASKS[task].target, len(found["HASFL"])
    print(f"\n{task}, {ranges} range, {seeds} seeds, target {target:.0%}")
    heads = ("s to target", "times HASFL", "best accuracy, %")
    print(f"{'policy':>22} {heads[0]:>28} {heads[1]:>24} {heads[2]:>22} {'missed':>7} {'no decision':>12}")
    for policy, each in found.items():
        seconds = [curve.seconds_to(target) for curve in each]
        best = [100 * max(curve.accuracy) for curve in each if until(TASKS[task], ranges) is None]
        missed = sum(not math.isfinite(value) for value in seconds)
        print(
            f"{policy:>22} {span(seconds):>28} {span(ratios(found, policy, target)):>24} {span(best):>22} {missed:>7}"
            f" {sum(curve.out_of_reach for curve in each):>12}"
        )


def ratios(found: Mapping[str, Sequence[Curve]], policy: str, target: float) -> list[float]:
    """How many times as long as HASFL a policy takes with the same seed, where both reach the target.

    Policies that decide by means are compared with HASFL by means.
    """
    ours = "HASFL" + BY_MEANS if policy.endswith(BY_MEANS) else "HASFL"
    pairs = zip(found[policy], found[ours], strict=True)
    both = [(curve.seconds_to(target), own.seconds_to(target)) for curve, own in pairs]
    return [theirs / own for theirs, own in both if math.isfinite(theirs) and math.isfinite(own)]


def span(values: Sequence[float]) -> str:
    """The median, and the range."""
    if not values:
        return "-"
    return f"{statistics.median(values):.4g} ({min(values):.4g}-{max(values):.4g})"


if __name__ == "__main__":
    main()
