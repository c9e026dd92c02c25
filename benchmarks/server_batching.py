"""What the server gains by merging small batches: clients one by one, merged, and the same samples as one big batch.

    python benchmarks/server_batching.py [--device cuda]

A residual network of recipes/cnn on random images, 20 clients, SGD. Per batch size: samples per second of training
steps, as the median of interleaved runs in one process, and the ratio to one big batch under plain Lightning. On a GPU
it is wall time, read when the GPU has finished; on a CPU it is CPU seconds on one thread.
"""

import argparse
import statistics
import time

import lightning.pytorch as pl
import torch
from quiet import quiet
from torch.utils.data import DataLoader, TensorDataset

from lightning_sfl import SplitFederatedStrategy
from recipes.cnn.small_resnet import SmallResNet

WARM_UP = 3


class Stopwatch(pl.Callback):
    """Time from the end of the warm-up to the end of the last step."""

    def __init__(self, steps: int, device: str) -> None:
        self.first, self.last, self.device = WARM_UP, WARM_UP + steps, device
        self.seconds = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Read the clock."""
        if trainer.global_step in (self.first, self.last):
            if self.device == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter() if self.device == "cuda" else time.process_time()
            self.seconds = now - self.seconds


def samples_per_second(way: str, batch_size: int, clients: int, steps: int, device: str) -> float:
    """Train a few steps in one of the three ways."""
    torch.manual_seed(0)
    size = clients * batch_size
    images = torch.rand(size * (WARM_UP + steps), 1, 32, 32)
    data = TensorDataset(images, torch.arange(len(images)) % 10)
    strategy: str | SplitFederatedStrategy = "auto"
    if way != "one big batch":
        strategy = SplitFederatedStrategy(
            cut="block1", num_clients=clients, server_batching="merged" if way == "merged" else "per_client"
        )
    watch = Stopwatch(steps, device)
    trainer = pl.Trainer(
        strategy=strategy,
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        max_steps=WARM_UP + steps,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SmallResNet(), DataLoader(data, batch_size=size if way == "one big batch" else batch_size))
    return steps * size / watch.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--batch_sizes", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    ways = ("one big batch", "one by one", "merged")
    print(f"{options.clients} clients on {options.device}: samples per second, and of one big batch")
    print(f"{'batch size':>10} " + " ".join(f"{way:>22}" for way in ways))
    for batch_size in options.batch_sizes:
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.runs):
            for way in ways:
                speed = samples_per_second(way, batch_size, options.clients, options.steps, options.device)
                found[way].append(speed)
        medians = {way: statistics.median(speeds) for way, speeds in found.items()}
        cells = [f"{medians[way]:>14.0f} ({medians[way] / medians[ways[0]]:.2f})" for way in ways]
        print(f"{batch_size:>10} " + " ".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
