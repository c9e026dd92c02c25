"""Real training under policies, on simulated time: time to a target accuracy, and the accuracy that is reached.

    python benchmarks/policies_training.py --output runs/policies_training

HASFL against its four baselines and the best choice that all share, on handwritten digits (8x8) with a small network of
five cuts: 20 clients, IID, rounds of 15 steps, a decision with every round from gradients as they were measured. Device
ranges: the paper's (1 to 2 TFLOPS, 75 to 80 Mbit/s) and a wider one (0.05 to 0.5 TFLOPS, 10 to 80 Mbit/s). As the
network is far smaller than the paper's, speeds are divided by what its forward pass has less to do than VGG-16's, and
rates by what its weights are fewer, so that computing and sending weigh as they do there.

Where none of a baseline's random choices reaches its target, things stay as they are, as often as is said beside the
run. A run that is in the folder already is not made again. Prints, by range and policy, medians and extremes over seeds
of the simulated seconds to the target, their ratio to HASFL's of the same seed (times slower), and the best accuracy.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from quiet import quiet
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_sfl import Allocation, SplitFederatedStrategy
from lightning_sfl.callbacks import AdaptiveSplit, EfficiencyMonitor
from lightning_sfl.policies import (
    HASFL,
    BestUniform,
    Decision,
    HabsRms,
    InfeasibleError,
    Observation,
    Policy,
    RandomAllocation,
    RbsHams,
    RbsRhams,
)
from lightning_sfl.random import uniforms
from lightning_sfl.world.arrays import between
from lightning_sfl.world.channel.rates import RateChannel
from lightning_sfl.world.devices.fleet import Fleet
from lightning_sfl.world.devices.server import Server
from lightning_sfl.world.environments import Environment

CLIENTS, STEPS_PER_ROUND, TRAINING = 20, 15, 1500
TARGET = 0.93
CUTS = ["0.1", "0.2", "0.4", "0.6", "0.8"]
VGG16_FLOP, VGG16_PARAMETERS = 2 * 313.7e6, 15.245e6
RANGES: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "paper": ((1e12, 2e12), (75e6, 80e6)),
    "wide": ((0.05e12, 0.5e12), (10e6, 80e6)),
}
"""FLOP/s of the clients, bit/s up."""
POLICIES: Mapping[str, Callable[[int], Policy]] = {
    "HASFL": lambda seed: HASFL(),
    "best uniform": lambda seed: BestUniform(),
    "RBS+HAMS": lambda seed: RbsHams(seed=seed),
    "HABS+RMS": lambda seed: HabsRms(seed=seed),
    "RBS+RHAMS": lambda seed: RbsRhams(seed=seed),
    "RBS+RMS": lambda seed: RandomAllocation(seed=seed),
}


class Persistent(Policy):
    """A policy that leaves things as they are where none of its random choices reaches its target."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.given_up = 0

    def decide(self, seen: Observation) -> Decision:
        """The policy's decision, or none."""
        try:
            return self.policy.decide(seen)
        except InfeasibleError:
            self.given_up += 1
            return Decision(allocation=Allocation(), reason="out of reach", memory=seen.memory)


class Network(pl.LightningModule):
    """Four convolutions and a linear layer on digits of 8x8; no normalisation, as the bound has none."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(64 * 16, 10)),
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        return cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The accuracy."""
        self.log("accuracy", (self.model(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain descent, as the bound has it."""
        return torch.optim.SGD(self.parameters(), lr=0.2)


class Curve(pl.Callback):
    """Simulated seconds and accuracy, whenever the model is measured."""

    def __init__(self, monitor: EfficiencyMonitor) -> None:
        self.monitor = monitor
        self.rows: list[tuple[int, float, float]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take a row down."""
        if trainer.sanity_checking:
            return
        self.rows.append((trainer.global_step, self.monitor.clock.seconds, float(trainer.callback_metrics["accuracy"])))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    ranges: str
    policy: str
    seed: int
    rounds: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.ranges}-{self.policy.replace(' ', '_')}-seed{self.seed}-{self.rounds}rounds"


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--ranges", nargs="+", choices=tuple(RANGES), default=tuple(RANGES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    options.output.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for ranges in options.ranges:
            for policy in POLICIES:
                made(Run(ranges=ranges, policy=policy, seed=seed, rounds=options.rounds), options.output)
    for ranges in options.ranges:
        print_table(ranges, options.seeds, options.rounds, options.output)


def made(run: Run, folder: Path) -> list[tuple[int, float, float]]:
    """The curve of a run, made now if it is not there."""
    path = folder / f"{run.name}.json"
    if not path.exists():
        start = time.perf_counter()
        rows = trained(run)
        path.with_suffix(".unfinished").write_text(json.dumps(rows))
        path.with_suffix(".unfinished").replace(path)
        print(f"{run.name}: {max(row[2] for row in rows):.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    found: list[tuple[int, float, float]] = json.loads(path.read_text())
    return found


def trained(run: Run) -> list[tuple[int, float, float]]:
    """Train."""
    pl.seed_everything(run.seed, verbose=False)
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = torch.tensor(digits.images[order] / 16, dtype=torch.float32)[:, None]  # (B, 1, 8, 8)
    labels = torch.tensor(digits.target[order])
    training = TensorDataset(images[:TRAINING], labels[:TRAINING])
    held_out = TensorDataset(images[TRAINING:], labels[TRAINING:])
    module = Network()
    monitor = EfficiencyMonitor(environment=environment(run.ranges, run.seed))
    curve = Curve(monitor)
    policy = Persistent(POLICIES[run.policy](run.seed))
    strategy = SplitFederatedStrategy(
        cut="model.4",
        num_clients=CLIENTS,
        partition="iid",
        aggregate_every=STEPS_PER_ROUND,
        weighting="uniform",
        seed=run.seed,
    )
    loader = DataLoader(training, batch_size=16, shuffle=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        strategy=strategy,
        max_steps=run.rounds * STEPS_PER_ROUND,
        callbacks=[monitor, AdaptiveSplit(policy, cuts=[f"model.{cut.split('.')[1]}" for cut in CUTS]), curve],
        check_val_every_n_epoch=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, DataLoader(held_out, batch_size=512))
    if policy.given_up:
        print(f"{run.name}: {policy.given_up} decisions were out of reach", flush=True)
    return curve.rows


def environment(ranges: str, seed: int) -> Environment:
    """Devices and rates drawn from the ranges, brought to the network's size."""
    flop, parameters = network_size()
    slower, narrower = flop / VGG16_FLOP, parameters / VGG16_PARAMETERS
    speeds, rates = RANGES[ranges]

    def drawn(purpose: str, ends: tuple[float, float]) -> np.ndarray:
        return between(ends, uniforms(CLIENTS, seed, f"policies benchmark {purpose}"))

    return Environment(
        fleet=Fleet(clock_hz=np.full(CLIENTS, 1e9), flop_per_cycle=slower * drawn("speed", speeds) / 1e9),
        channel=RateChannel(
            mean_uplink_bit_per_s=narrower * drawn("uplink", rates),
            mean_downlink_bit_per_s=narrower * drawn("downlink", (360e6, 380e6)),
        ),
        server=Server(clock_hz=2e9, flop_per_cycle=slower * 20e12 / 2e9, inter_server_bit_per_s=narrower * 370e6),
    )


def network_size() -> tuple[float, float]:
    """FLOP of a forward pass per sample, and parameters."""
    from torch.utils.flop_counter import FlopCounterMode

    module = Network()
    with FlopCounterMode(display=False) as counter:
        module.model(torch.zeros(1, 1, 8, 8))
    return float(counter.get_total_flops()), float(sum(p.numel() for p in module.parameters()))


def print_table(ranges: str, seeds: int, rounds: int, folder: Path) -> None:
    """A row per policy."""
    print(f"\n{ranges} range, {seeds} seeds, {rounds} rounds, target {TARGET:.0%}")
    print(f"{'policy':>14} {'s to target':>28} {'times HASFL':>24} {'best accuracy, %':>22} {'missed':>7}")
    curves = {
        policy: [made(Run(ranges=ranges, policy=policy, seed=seed, rounds=rounds), folder) for seed in range(seeds)]
        for policy in POLICIES
    }
    reached = {policy: [to_target(rows) for rows in found] for policy, found in curves.items()}
    for policy, found in curves.items():
        times = reached[policy]
        ratios = [t / h for t, h in zip(times, reached["HASFL"], strict=True) if np.isfinite(t) and np.isfinite(h)]
        best = [100 * max(row[2] for row in rows) for rows in found]
        missed = sum(not np.isfinite(t) for t in times)
        print(f"{policy:>14} {span(times):>28} {span(ratios):>24} {span(best):>22} {missed:>7}")


def to_target(rows: list[tuple[int, float, float]]) -> float:
    """Simulated seconds until the target; infinite where it is not reached."""
    return next((seconds for _, seconds, accuracy in rows if accuracy >= TARGET), float("inf"))


def span(values: list[float]) -> str:
    """The median, and the range."""
    if not values:
        return "-"
    return f"{statistics.median(values):.4g} ({min(values):.4g}-{max(values):.4g})"


if __name__ == "__main__":
    main()
