"""What costing takes: one round of many clients with different cuts, and a long trace under block fading.

    python benchmarks/world.py

CPU seconds of all threads, as medians; nothing here uses more than one. A round is its beginning, its steps and its
end. The trace draws a channel gain per client and round, costs the round and advances the clock.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from lightning_sfl import find_cuts
from lightning_sfl.random import generator
from lightning_sfl.world.cost.clock import Clock
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.environments import make_environment
from lightning_sfl.world.model.measure import profile_cuts
from lightning_sfl.world.model.profile import Profile
from lightning_sfl.world.world import World

ROUND_BAR_S = 0.020
TRACE_BAR_S = 10.0
STEPS = 15
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--trace_clients", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--trace_runs", type=int, default=3)
    options = parser.parse_args()
    profile = make_profile()
    print(f"{'what':>52} {'median':>12} {'bar':>10}")
    for algorithm in ("splitfed_shared", "splitfed_v1", "fedavg"):
        seconds = statistics.median(round_seconds(make_world(profile, algorithm, options.clients), options.runs))
        what = f"one round of {options.clients:,} clients, {algorithm}"
        print(f"{what:>52} {1e3 * seconds:>9.2f} ms {1e3 * ROUND_BAR_S:>7.0f} ms")
    world = make_world(profile, "splitfed_shared", options.trace_clients)
    seconds = statistics.median(trace_seconds(world, options.rounds) for _ in range(options.trace_runs))
    what = f"{options.rounds:,} rounds of {options.trace_clients:,} clients, block fading"
    print(f"{what:>52} {seconds:>10.2f} s {TRACE_BAR_S:>8.0f} s")


def round_seconds(world: World, runs: int) -> list[float]:
    """Seconds of costing one round, run by run, each with other cuts."""
    found = []
    for run in range(runs):
        who = participation(world, run)
        start = time.process_time()
        cost = world.round(who, round=run)
        assert cost.total_s > 0
        assert cost.compute_joule.sum() > 0
        found.append(time.process_time() - start)
    return found


def trace_seconds(world: World, rounds: int) -> float:
    """Seconds of a trace."""
    clock = Clock()
    choices = [participation(world, run) for run in range(10)]
    start = time.process_time()
    for round in range(rounds):
        clock.advance(world.round(choices[round % 10], round=round, start_s=clock.seconds))
    return time.process_time() - start


def participation(world: World, run: int) -> Participation:
    """All clients, with cuts and batch sizes drawn for a run."""
    draw, clients = generator(SEED, "benchmark participation", run), len(world.fleet.clock_hz)
    return Participation(
        clients=np.arange(clients),
        cut=draw.integers(0, len(world.profile.cuts), clients),
        batch_size=draw.integers(1, 65, clients),
    )


def make_world(profile: Profile, algorithm: str, clients: int) -> World:
    """Devices, gains and fading that differ, after Wei & Chen 2026."""
    found = make_environment("wei_chen", clients, SEED)
    return World(
        profile=profile,
        fleet=found.fleet,
        channel=found.channel,
        server=found.server,
        algorithm=algorithm,
        aggregate_every=STEPS,
    )


class Net(nn.Module):
    """ResNet-18, built without weights."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.model = resnet18(num_classes=10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        return cross_entropy(self.model(batch[0]), batch[1])


def make_profile() -> Profile:
    """All cuts of ResNet-18 on small images, as measured."""
    net, batch = Net(), (torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))
    return profile_cuts(net, batch, {cut.name: cut.split for cut in find_cuts(net, batch)})


if __name__ == "__main__":
    main()
