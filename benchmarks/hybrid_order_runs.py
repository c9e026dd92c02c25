"""One run of ``hybrid_order.py``: which task, method and partition, and what comes of training it."""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as pl
import torch
from hybrid_order_data import Samples, data_folder, photographs, sentiment, trimmed
from hybrid_order_models import Photographs, Rates, Sentiment, Tuned
from torch.utils.data import DataLoader, TensorDataset

from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.algorithms import HOSFL, ZOSFL

CALIBRATION = 512  # training photographs from which a random start takes its normalisation
TESTED = 4000  # test photographs of the 8,000; all of the 872 sentences
START = "before training"
"""In the place of a method: the model as every method starts with it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained and for how long; the same for every method."""

    clients: int
    batch_size: int  # of each client
    probes: int
    steps: int
    every: int  # steps between two measurements of accuracy
    partitions: tuple[str, ...]
    methods: Mapping[str, Rates]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    task: str
    partition: str
    method: str
    seed: int
    steps: int
    every: int
    short: bool = False
    tried: Rates | None = None  # rates that are tried out, on the samples for tuning

    @property
    def name(self) -> str:
        """Of its file."""
        parts = [self.task, self.partition.replace(":", ""), self.method.replace(" ", "_"), f"seed{self.seed}"]
        parts += [f"{self.steps}steps"] + ["short"] * self.short
        parts += [] if self.tried is None else [f"{self.tried.client:g}_{self.tried.server:g}"]
        return "-".join(parts)


class _Curve(pl.Callback):
    """Accuracy and bytes, whenever the model is measured."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Take down what crossed until now, and how good the global model is."""
        meter = trainer.strategy.link.meter
        self.rows.append(
            {
                "step": trainer.global_step,
                "uplink_byte": meter.total(uplink=True).payload_byte,
                "downlink_byte": meter.total(uplink=False).payload_byte,
                "accuracy": float(trainer.callback_metrics["accuracy"]),
                "loss": float(trainer.callback_metrics["loss"]),
            }
        )


def samples_of(task: str, *, short: bool) -> Samples:
    """The data of a task."""
    read = sentiment if task == "sst2" else photographs
    return read(training=2000, test=300, tuning=200) if short else read(test=TESTED)


def model_of(task: str, seed: int, rates: Rates, samples: Samples) -> Tuned:
    """The model before training."""
    pl.seed_everything(seed, verbose=False)
    if task == "sst2":
        return Sentiment(rates)
    if task == "cifar10":
        return Photographs(data_folder() / "weights" / "cifar10_resnet" / "resnet20-12fca82f.th", rates)
    model = Photographs(None, rates)
    model.calibrate(samples.training.tensors[0][:CALIBRATION])
    return model


def perform(run: Run, task: Task, samples: Samples) -> dict[str, object]:
    """Do a run, and return what its file holds."""
    start = time.process_time()
    rates = _rates(run, task)
    module = model_of(run.task, run.seed, rates, samples)
    client_parameters = module.client_count()
    if run.method == START:
        rows = [{"step": 0, "uplink_byte": 0, "downlink_byte": 0, "accuracy": _accuracy(module, samples.test)}]
    else:
        rows = _train(run, task, module, samples)
    return {
        "run": dataclasses.asdict(run),
        "rates": dataclasses.asdict(rates),
        "client_parameters": client_parameters,
        "cpu_s": round(time.process_time() - start, 1),
        "rows": rows,
    }


def _train(run: Run, task: Task, module: Tuned, samples: Samples) -> list[dict[str, float]]:
    if run.method == "frozen_client":
        for name, parameter in module.trained().items():
            parameter.requires_grad_(not module.is_client_parameter(name))
    curve = _Curve()
    strategy = SplitFederatedStrategy(
        cut=module.cut,
        num_clients=task.clients,
        algorithm=_algorithm(run.method, task.probes),
        partition=run.partition,
        seed=run.seed,
    )
    trainer = pl.Trainer(
        strategy=strategy,
        accelerator="cpu",
        max_steps=run.steps,
        val_check_interval=run.every,
        check_val_every_n_epoch=None,
        callbacks=[curve],
        logger=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    measured = samples.test if run.tried is None else samples.tuning
    trainer.fit(module, DataLoader(samples.training, batch_size=task.batch_size, shuffle=True), _measuring(measured))
    return curve.rows


def _algorithm(method: str, probes: int) -> str | HOSFL | ZOSFL:
    if method in ("ho_sfl", "ho_client_alone"):
        return HOSFL(probes=probes)
    if method == "zo_sfl":
        return ZOSFL(probes=probes)
    return "splitfed_shared"


def _accuracy(module: Tuned, measured: TensorDataset) -> float:
    right = 0
    with torch.no_grad():
        for batch in _measuring(measured):
            right += int((module.logits(batch).argmax(dim=1) == batch[-1]).sum())
    return right / len(measured)


def _measuring(measured: TensorDataset) -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(measured, batch_size=100, collate_fn=trimmed)


def _rates(run: Run, task: Task) -> Rates:
    return run.tried or task.methods.get(run.method, Rates(client=0.0, server=0.0))


def done(run: Run, task: Task, folder: Path) -> dict[str, object] | None:
    """What an earlier call found for this run with the rates of today, if there was one."""
    path = folder / f"{run.name}.json"
    if not path.exists():
        return None
    found: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return found if found["rates"] == dataclasses.asdict(_rates(run, task)) else None


def keep(run: Run, folder: Path, found: dict[str, object]) -> None:
    """Write a run's file in one go: a killed run leaves none."""
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / f"{run.name}.part"
    half.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    half.rename(folder / f"{run.name}.json")
