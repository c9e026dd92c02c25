"""Training speed through the Trainer, beside a plain PyTorch loop over the same data and plain Lightning.

    python benchmarks/throughput.py

The workload: scikit-learn's digits at 32x32 in 3 channels, 160 samples per client, batches of 32, a small convolutional
network of 545,098 parameters cut behind its first pooling (1 MiB of smashed data per batch, and as much back), SGD. A
client-step is one client's batch, forward and backward; every system processes the same number of them per pass, and
clients are averaged after every pass (5 steps of each). Systems run one after the other in one process on one thread,
in many interleaved rounds; the ratio to the plain loop is taken round by round, so that drifts of the machine cancel.
Time is CPU time of the process. The link counts every message. Beside it stands the most that tensors held at one time
in a short run of each system, counted by torch's profiler, the data set left out.
"""

import argparse
import functools
import gc
import statistics
import time
from collections.abc import Callable

import lightning.pytorch as pl
import numpy as np
import torch
from allocations import peak_tensor_byte
from quiet import quiet
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_sfl import SplitFederatedStrategy

BATCH, PER_CLIENT = 32, 160
MERGED = "splitfed_shared, merged"
ALGORITHMS = ("splitfed_shared", MERGED, "splitfed_v1", "splitfed_v2", "split_learning", "fedavg")


def network() -> nn.Sequential:
    """The workload's network."""
    client = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    server = nn.Sequential(
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4096, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    return nn.Sequential(client, server)


class Net(pl.LightningModule):
    """The network as an ordinary LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.model = network()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy."""
        return cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD, learning rate 0.05."""
        return torch.optim.SGD(self.parameters(), lr=0.05)


def samples(clients: int) -> TensorDataset:
    """160 samples per client; beyond 1,600 they are used again."""
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))[:1600]
    images = torch.tensor(digits.images[order] / 16, dtype=torch.float32)
    images = images.repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1).repeat(1, 3, 1, 1)
    labels = torch.tensor(digits.target[order])
    places = torch.arange(clients * PER_CLIENT) % 1600
    return TensorDataset(images[places].contiguous(), labels[places])


def plain_loop(data: TensorDataset, passes: int) -> float:
    """The practical limit: the whole model, batch by batch. Returns CPU seconds after the first pass."""
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loader = DataLoader(data, batch_size=BATCH)
    start = 0.0
    for number in range(passes + 1):
        if number == 1:
            start = time.process_time()
        for images, labels in loader:
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
    return time.process_time() - start


class Stopwatch(pl.Callback):
    """CPU time from the end of the first pass to the end of the last."""

    def __init__(self, steps_per_pass: int, passes: int) -> None:
        self.first, self.last = steps_per_pass, steps_per_pass * (passes + 1)
        self.seconds = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Read the clock."""
        if trainer.global_step == self.first:
            self.seconds = -time.process_time()
        if trainer.global_step == self.last:
            self.seconds += time.process_time()


def through_trainer(data: TensorDataset, passes: int, clients: int, algorithm: str | None) -> float:
    """Train under Lightning, plain or split. Returns CPU seconds after the first pass."""
    torch.manual_seed(0)
    steps = len(data) // BATCH
    strategy: str | SplitFederatedStrategy = "auto"
    if algorithm is not None:
        blocks = [list(range(client * PER_CLIENT, (client + 1) * PER_CLIENT)) for client in range(clients)]
        strategy = SplitFederatedStrategy(
            cut=None if algorithm == "fedavg" else "model.0",
            num_clients=clients,
            algorithm="splitfed_shared" if algorithm == MERGED else algorithm,
            server_batching="merged" if algorithm == MERGED else "per_client",
            partition=blocks,
            aggregate_every=PER_CLIENT // BATCH,
        )
        steps = steps if algorithm in ("splitfed_v2", "split_learning") else PER_CLIENT // BATCH
    watch = Stopwatch(steps, passes)
    trainer = pl.Trainer(
        strategy=strategy,
        accelerator="cpu",
        max_epochs=passes + 1,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(), DataLoader(data, batch_size=BATCH))
    return watch.seconds


def systems_under_test(
    data: TensorDataset, clients: int, algorithms: list[str], passes: int
) -> dict[str, Callable[[], float]]:
    """What is compared, by name."""
    systems: dict[str, Callable[[], float]] = {
        "plain PyTorch": lambda: plain_loop(data, passes),
        "plain Lightning": lambda: through_trainer(data, passes, clients, None),
    }
    for algorithm in algorithms:
        systems[algorithm] = functools.partial(through_trainer, data, passes, clients, algorithm)
    return systems


def peak_memory(data: TensorDataset, clients: int, algorithms: list[str]) -> dict[str, int]:
    """The peak of every system over one pass."""
    return {name: peak_tensor_byte(system) for name, system in systems_under_test(data, clients, algorithms, 0).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20, help="interleaved rounds of all systems")
    parser.add_argument("--passes", type=int, default=2, help="timed passes over the data per run")
    parser.add_argument("--clients", type=int, nargs="*", default=[10, 20])
    parser.add_argument("--algorithms", nargs="*", default=list(ALGORITHMS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    draw = np.random.default_rng(0)
    for clients in options.clients:
        data = samples(clients)
        done = options.passes * len(data) // BATCH
        systems = systems_under_test(data, clients, options.algorithms, options.passes)
        seconds: dict[str, list[float]] = {name: [] for name in systems}
        for _ in range(options.pairs):
            for name in draw.permutation(list(systems)):
                gc.collect()
                seconds[name].append(systems[name]())
        print(f"\n{clients} clients, {options.pairs} rounds, client-steps per CPU second")
        print(f"{'system':<24} {'median':>8} {'best':>8} {'of plain PyTorch, median [95 % interval]':>44} {'peak':>12}")
        peaks = peak_memory(data, clients, options.algorithms)
        for name, times in seconds.items():
            ratios = np.array(seconds["plain PyTorch"]) / np.array(times)
            medians = np.median(draw.choice(ratios, size=(5000, len(ratios))), axis=1)
            low, high = np.quantile(medians, [0.025, 0.975])
            print(
                f"{name:<24} {done / statistics.median(times):>8.1f} {done / min(times):>8.1f}"
                f" {np.median(ratios):>26.3f} [{low:.3f}, {high:.3f}] {peaks[name] / 2**20:>8.1f} MiB"
            )


if __name__ == "__main__":
    main()
