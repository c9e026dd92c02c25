"""What the commands share: one run at one cut, its costs and its leakage as a row, and writing the report."""

import dataclasses
import datetime
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from jsonargparse import Namespace
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lightning_sfl.callbacks.efficiency import EfficiencyMonitor
from lightning_sfl.cut.find import Cut, Search, search
from lightning_sfl.cut.weightless import Weightless
from lightning_sfl.report.html_file import to_html
from lightning_sfl.report.json_file import to_json
from lightning_sfl.report.leakage import CutLeakage
from lightning_sfl.report.report import CutRow, Report
from lightning_sfl.report.wandb_run import log_to_wandb
from lightning_sfl.strategy.split_federated import SplitFederatedStrategy
from lightning_sfl.world.arrays import FloatArray
from lightning_sfl.world.model.measure import profile_cuts
from lightning_sfl.world.model.profile import Profile, at

if TYPE_CHECKING:
    from lightning_sfl.cli.app import SplitCLI

_REPORT_FILES = ("report.html", "report.json")

SEARCHED_RECORDS = 4
"""How many records a model is searched for cuts on, at most."""


def refuse_existing_report(output: Path) -> None:
    """Raise a ValueError if the folder holds a report."""
    if existing := [name for name in _REPORT_FILES if (output / name).exists()]:
        raise ValueError(f"output={str(output)!r} holds a report already ({', '.join(existing)}); give another folder.")


def configured_optimizer(model: pl.LightningModule) -> Optimizer | None:
    """The model's optimizer, for the size of its state; None where it can only be made by a trainer."""
    try:
        made = model.configure_optimizers()
    except (RuntimeError, MisconfigurationException):
        return None
    if isinstance(made, dict):
        made = made["optimizer"]
    while isinstance(made, list | tuple):
        made = made[0]
    return made if isinstance(made, Optimizer) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run's parts, fresh from the configuration."""

    model: pl.LightningModule
    data: pl.LightningDataModule
    trainer: pl.Trainer

    @property
    def strategy(self) -> SplitFederatedStrategy:
        """The strategy."""
        assert isinstance(self.trainer.strategy, SplitFederatedStrategy)
        return self.trainer.strategy

    def training_loader(self) -> DataLoader[Any]:
        """The user's own training loader."""
        self.data.prepare_data()
        self.data.setup("fit")
        loader = self.data.train_dataloader()
        assert isinstance(loader, DataLoader)
        return loader

    def collate(self, indices: list[int]) -> Any:
        """The batch that these records of the training set make."""
        loader = self.training_loader()
        return loader.collate_fn([loader.dataset[index] for index in indices])

    def first_batch(self, most: int) -> Any:
        """A batch of the first records of the training set, of the clients' batch size but at most ``most``."""
        records = len(cast(Any, self.training_loader().dataset))
        batch = self.collate(list(range(min(self.batch_size, most, records))))
        return self._precision.convert_input(batch)

    @property
    def batch_size(self) -> int:
        """The clients' batch size."""
        return self.strategy.batch_size or self.training_loader().batch_size or 1

    @property
    def _precision(self) -> Precision:
        return self.strategy.precision_plugin

    def step(self, module: nn.Module, batch: Any) -> Any:
        """Run one training step in the trainer's precision, as its clients do."""
        return self.strategy.run_step(module, batch)

    def search(self, *, weightless: bool = False) -> Search:
        """The model, searched for cuts on a few records of the training set; for first cuts where there is a second.

        Args:
            weightless: Whether a copy without values is searched, so that halves are not run apart.
        """
        module: nn.Module = self._precision.convert_module(self.model)
        batch = self.first_batch(most=SEARCHED_RECORDS)
        if weightless:
            module = Weightless(module).module
        inputs, last = self.strategy.server_inputs, self.second_cut
        return search(module, batch, server_inputs=inputs, step=self.step, last=last)

    @property
    def second_cut(self) -> str | None:
        """The second cut of a U-shape."""
        return self.strategy.cut[1] if isinstance(self.strategy.cut, tuple) else None

    def profile(self, cuts: Sequence[Cut], optimizer: Optimizer | None) -> Profile:
        """The costs of cuts for the clients of this run."""
        module = self._precision.convert_module(self.model)
        splits = {cut.name: cut.split for cut in cuts}
        return profile_cuts(module, self.first_batch(most=SEARCHED_RECORDS), splits, optimizer, step=self.step)

    def simulated_per_round(self) -> tuple[float | None, float | None]:
        """Simulated seconds, and joules of all clients; None where they are not modelled."""
        monitor = monitor_among(self.trainer)
        if monitor is None or monitor.clock.rounds == 0:
            return None, None
        clock = monitor.clock
        joule = math.fsum([*clock.client_compute_joule.values(), *clock.client_radio_joule.values()])
        return clock.seconds / clock.rounds, None if math.isnan(joule) else joule / clock.rounds

    def converted_model(self) -> nn.Module:
        """The model in the precision that clients compute in."""
        return self._precision.convert_module(self.model)


def monitor_among(trainer: pl.Trainer) -> EfficiencyMonitor | None:
    """The trainer's callback that simulates a world, if there is one."""
    callbacks = getattr(trainer, "callbacks", [])
    return next((callback for callback in callbacks if isinstance(callback, EfficiencyMonitor)), None)


def instantiate(cli: "SplitCLI", settings: Mapping[str, object]) -> Run:
    """Make model, data and trainer from the configuration, changed by ``settings`` (dotted keys), under its seed.

    The configuration itself stays as it is: what one run is made with is not the next one's.
    """
    config = cli.config[cli.subcommand]
    _name_strategy(config)
    changed = config.clone()
    for key, value in settings.items():
        changed[key] = value
    pl.seed_everything(config.seed_everything, workers=True, verbose=False)
    cli.config[cli.subcommand] = changed
    try:
        cli.instantiate_classes()
    finally:
        cli.config[cli.subcommand] = config
    return _run_of(cli)


def instantiated(cli: "SplitCLI") -> Run:
    """The model, data and trainer that the command line has made already: a large model is not made twice."""
    _name_strategy(cli.config[cli.subcommand])
    return _run_of(cli)


def _name_strategy(config: Namespace) -> None:
    """Write a strategy that goes by its registered name out in full, and refuse other ones."""
    if not isinstance(config.trainer.strategy, Namespace):
        if config.trainer.strategy != SplitFederatedStrategy.strategy_name:
            raise ValueError(
                f"trainer.strategy={config.trainer.strategy!r}: this command needs lightning_sfl.SplitFederatedStrategy"
                " (or 'split_federated')."
            )
        config.trainer.strategy = Namespace(class_path="lightning_sfl.SplitFederatedStrategy", init_args=Namespace())


def _run_of(cli: "SplitCLI") -> Run:
    if cli.datamodule is None:
        raise ValueError("data: this command needs a LightningDataModule; none is configured.")
    if not isinstance(cli.trainer.strategy, SplitFederatedStrategy):
        raise ValueError(
            f"trainer.strategy={type(cli.trainer.strategy).__name__}: this command needs"
            " lightning_sfl.SplitFederatedStrategy."
        )
    return Run(model=cli.model, data=cli.datamodule, trainer=cli.trainer)


def row(
    costs: Profile | None,
    leakage: CutLeakage,
    *,
    run: Run,
    accuracy: float | None,
    rounds: int,
    train_wall_s: float | None,
) -> CutRow:
    """A row of the report. Without rounds nothing was trained, and nothing metered; without costs, nothing counted."""
    meter = None if rounds == 0 else run.strategy.link.meter
    seconds, joule = (None, None) if rounds == 0 else run.simulated_per_round()
    size = run.batch_size

    def per_sample(batch: Callable[[Profile], FloatArray]) -> float | None:
        """What a batch costs at this cut, spread over its samples."""
        return None if costs is None else float(at(batch(costs)[0], size)) / size

    return CutRow(
        cut=leakage.cut,
        accuracy=accuracy,
        client_forward_flop_per_sample=per_sample(lambda costs: costs.client_forward_flop),
        client_backward_flop_per_sample=per_sample(lambda costs: costs.client_backward_flop),
        client_parameters=None if costs is None else int(costs.client_parameters[0]),
        client_parameter_byte=None if costs is None else int(costs.client_parameter_byte[0]),
        client_training_memory_byte=None if costs is None else int(costs.training_memory_byte(0, size)),
        smashed_byte_per_sample=per_sample(lambda costs: costs.smashed_bit / 8),
        uplink_byte_per_round=None if meter is None else meter.total(uplink=True).payload_byte / rounds,
        downlink_byte_per_round=None if meter is None else meter.total(uplink=False).payload_byte / rounds,
        simulated_s_per_round=seconds,
        client_joule_per_round=joule,
        train_wall_s=train_wall_s,
        leakage=leakage,
    )


def metric_of(trainer: pl.Trainer, metric: str) -> float:
    """A metric that validation logged.

    Raises:
        ValueError: It was not logged.
    """
    logged = trainer.callback_metrics
    if metric not in logged:
        raise ValueError(f"report.metric={metric!r} was not logged in validation; logged were {sorted(logged)}.")
    return float(logged[metric])


def make_report(
    title: str, metric: str, rows: list[CutRow], settings: dict[str, str], notes: Sequence[str] = ()
) -> Report:
    """Put a report together; ``notes`` come after those of every report."""
    packages = ("lightning-sfl", "lightning", "torch", "torchmetrics", "numpy")
    return Report(
        title=title,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        metric=metric,
        settings=settings,
        versions={"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        rows=tuple(rows),
        notes=(*NOTES, *notes),
    )


NOTES = (
    "1 multiply-accumulate counts as 2 FLOP. FLOPs are those of matrix products, convolutions and attention.",
    "Client training memory counts live tensors at their peak: weights, buffers, gradients, optimizer state, batch and"
    " activations at the client's batch size, with what the backward pass and the optimizer's step take for a while.",
    "Bytes per round are payload metered on the link, summed over the participants; framing and labels' names are not"
    " in them.",
    "Simulated time and energy are those of the environment named in the settings; energy is what all clients took to"
    " compute and to send.",
    "Intervals are 95 % percentile bootstrap intervals over clients, each drawn with all its attacked records; p-values"
    " come from the same resampling and are corrected for the number of cells (Holm).",
    "PSNR is capped at 100 dB. Gains are over the best guess made without the messages: mid-grey, the mean of held-out"
    " images, or what the same attack made of another client's messages.",
    "'Leaks' means that an attack beats that guess beyond chance and recovers at least one record. 'Inconclusive' means"
    " that this attack, with this budget, did not; it says nothing about stronger attacks.",
)


def write_report(report: Report, output: Path, loggers: list[Any]) -> None:
    """Write report.html and report.json, and log the report to wandb if a WandbLogger is configured."""
    refuse_existing_report(output)
    output.mkdir(parents=True, exist_ok=True)
    made = {"report.json": to_json(report), "report.html": to_html(report)}
    for name, text in made.items():
        (output / f"{name}.unfinished").write_text(text, encoding="utf-8")
    for name in made:
        os.replace(output / f"{name}.unfinished", output / name)  # a killed command leaves a whole report or none
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            log_to_wandb(report, logger.experiment)


def torch_threads() -> str:
    """How many threads torch uses, for the settings of a report."""
    return str(torch.get_num_threads())
