"""What clients cost that only exist: 10,000 registered clients with 10 participants against 10 registered clients.

    python benchmarks/registered_clients.py

Both runs have one batch of 8 samples per client on a synthetic set. Per step: the time to fetch the batches and to
train on them, interleaved pair by pair in one process, one thread; and the memory that Python and NumPy allocate at
most within a step, and that all live tensors hold after it.
"""

import argparse
import gc
import statistics
import tracemalloc

import lightning.pytorch as pl
import torch
from lightning.pytorch.profilers import SimpleProfiler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from lightning_sfl import SplitFederatedStrategy

BATCH = 8
PARTICIPANTS = 10


class Synthetic(Dataset[tuple[Tensor, Tensor]]):
    """Images that are made when they are asked for."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.full((3, 16, 16), index / self.size), torch.tensor(index % 10)


class Net(pl.LightningModule):
    """A small convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.client = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        self.server = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy."""
        return cross_entropy(self.server(self.client(batch[0])), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class Memory(pl.Callback):
    """Notes the memory of every step."""

    def __init__(self) -> None:
        self.peaks_byte: list[int] = []
        self.tensors_byte: list[int] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Begin to count."""
        tracemalloc.reset_peak()
        self.start = tracemalloc.get_traced_memory()[0]

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Note the step's peak, and now and then what all tensors hold."""
        self.peaks_byte.append(tracemalloc.get_traced_memory()[1] - self.start)
        if trainer.global_step % 10 == 0:
            gc.collect()
            storages = {
                tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
                for tensor in gc.get_objects()
                if issubclass(type(tensor), Tensor)
            }
            self.tensors_byte.append(sum(storages.values()))


def run(registered: int, steps: int, *, memory: Memory | None) -> list[float]:
    """Train; returns seconds per step."""
    torch.manual_seed(0)
    profiler = SimpleProfiler()
    strategy = SplitFederatedStrategy(cut="client", num_clients=registered, clients_per_round=PARTICIPANTS)
    trainer = pl.Trainer(
        strategy=strategy,
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        profiler=profiler,
        callbacks=[memory] if memory else [],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    profiler.summary = lambda: ""  # type: ignore[method-assign]
    trainer.fit(Net(), DataLoader(Synthetic(registered * BATCH), batch_size=BATCH, shuffle=True))
    fetch = profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]
    train = profiler.recorded_durations["run_training_batch"]
    return [one + other for one, other in zip(fetch[:steps], train, strict=True)][5:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--registered", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ratios: list[float] = []
    few: list[float] = []
    many: list[float] = []
    for _ in range(options.pairs):
        one, other = run(PARTICIPANTS, options.steps, memory=None), run(options.registered, options.steps, memory=None)
        few += one
        many += other
        ratios.append(statistics.median(other) / statistics.median(one))
    memories = []
    for registered in (PARTICIPANTS, options.registered):
        memory = Memory()
        tracemalloc.start()
        run(registered, options.steps, memory=memory)
        tracemalloc.stop()
        memories.append((statistics.median(memory.peaks_byte[5:]), statistics.median(memory.tensors_byte)))
    print(
        f"{'registered clients':>22} {'step, median':>14} {'step, mean':>12} {'peak in step':>14} {'live tensors':>14}"
    )
    for name, times, (peak, tensors) in ((PARTICIPANTS, few, memories[0]), (options.registered, many, memories[1])):
        print(
            f"{name:>22,} {1e3 * statistics.median(times):>11.2f} ms {1e3 * statistics.mean(times):>9.2f} ms"
            f" {peak / 2**10:>10.1f} KiB {tensors / 2**20:>10.2f} MiB"
        )
    print(
        f"ratio of medians, median of {options.pairs} pairs: {statistics.median(ratios):.3f}"
        f" ({min(ratios):.3f} to {max(ratios):.3f}); peak {memories[1][0] / memories[0][0]:.3f},"
        f" live tensors {memories[1][1] / memories[0][1]:.3f}"
    )


if __name__ == "__main__":
    main()
