"""Real training in a simulated world, run by run: what it takes until a model is as good as wanted."""

import dataclasses
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning.pytorch as pl
from torch.utils.data import DataLoader
from training_tasks import Task

from lightning_sfl import Allocation, SplitFederatedStrategy
from lightning_sfl.callbacks import AdaptiveSplit, EfficiencyMonitor
from lightning_sfl.policies import Decision, InfeasibleError, Observation, Policy
from lightning_sfl.world.channel.seen import CSI
from lightning_sfl.world.environments import Environment

CLIENTS, STEPS_PER_ROUND, MEASURED_EVERY = 20, 15, 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What is trained: 20 clients, IID, rounds of 15 steps, a decision with every round.

    Attributes:
        task: The network and the data.
        environment: The simulated devices, channel and server.
        seed: Of weights, partition and batches.
        steps: How many.
        measured_every: Steps between two measurements.
        batch_size: Of every client, in the first round or always.
        algorithm: The algorithm.
        cut: Everybody's, in the first round or always; None where there is none.
        policy: Who decides all the others; None: nobody.
        csi: What is known of the channel then.
        until: The accuracy at which it ends, if it is reached before; None: it goes on.
    """

    task: Task
    environment: Environment
    seed: int
    steps: int
    measured_every: int
    batch_size: int
    algorithm: str = "splitfed_shared"
    cut: str | None = None
    policy: Policy | None = None
    csi: CSI = "instantaneous"
    until: float | None = None

    @property
    def settings(self) -> dict[str, object]:
        """What a run is known by, besides its name, which tells task and environment."""
        apart = ("task", "environment", "policy")
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in apart}
        return {**own, "policy": re.sub(r" at 0x\w+", "", repr(self.policy))}  # functions have addresses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """What a training came to, at every measurement.

    Attributes:
        step: Steps made.
        seconds: Simulated seconds.
        joule: Simulated joules of all clients; NaN where energy is not modelled.
        accuracy: On held-out data.
        client_joule: What each client took in all.
        out_of_reach: How many decisions were none, because no choice of the policy's reached its target.
    """

    step: list[int]
    seconds: list[float]
    joule: list[float]
    accuracy: list[float]
    client_joule: list[float]
    out_of_reach: int

    def reached(self, target: float) -> int | None:
        """Where an accuracy was first reached; None where it was not."""
        return next((place for place, value in enumerate(self.accuracy) if value >= target), None)

    def seconds_to(self, target: float) -> float:
        """Simulated seconds until an accuracy was reached; infinite where it was not."""
        place = self.reached(target)
        return math.inf if place is None else self.seconds[place]

    def joule_to(self, target: float) -> float:
        """Simulated joules until then; infinite where it was not."""
        place = self.reached(target)
        return math.inf if place is None else self.joule[place]


def made(folder: Path, name: str, training: Callable[[], Training]) -> Curve:
    """The curve of a run: read from the folder, or trained now and kept there with its settings."""
    path, wanted = folder / f"{name}.json", training()
    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get("settings") != wanted.settings:
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        kept = {"settings": wanted.settings, "curve": dataclasses.asdict(train(wanted))}
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(kept))
        unfinished.replace(path)
        print(f"{name}: {max(kept['curve']['accuracy']):.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    return Curve(**kept["curve"])


def train(training: Training) -> Curve:
    """Train, and measure now and then; a training that diverges ends there."""
    pl.seed_everything(training.seed, verbose=False)
    task = training.task
    samples, held_out = task.data()
    monitor = EfficiencyMonitor(environment=training.environment)
    measured = _Measured(monitor, training.until)
    callbacks: list[pl.Callback] = [monitor, measured]
    persistent = None if training.policy is None else _Persistent(training.policy)
    if persistent is not None:
        callbacks.insert(1, AdaptiveSplit(persistent, cuts=task.cuts, csi=training.csi))
    strategy = SplitFederatedStrategy(
        cut=training.cut,
        algorithm=training.algorithm,
        num_clients=CLIENTS,
        partition="iid",
        aggregate_every=STEPS_PER_ROUND,
        weighting="uniform",
        seed=training.seed,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        strategy=strategy,
        max_steps=training.steps,
        val_check_interval=training.measured_every,
        check_val_every_n_epoch=None,
        callbacks=callbacks,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(samples, batch_size=training.batch_size, shuffle=True)
    try:
        trainer.fit(task.network(), loader, DataLoader(held_out, batch_size=512))
    except ValueError as error:
        if "has a loss of nan" not in str(error):
            raise
        print(f"diverged after {trainer.global_step} steps", flush=True)
    return measured.curve(0 if persistent is None else persistent.out_of_reach)


class _Persistent(Policy):
    """A policy that leaves things as they are where none of its random choices reaches its target."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.out_of_reach = 0

    def decide(self, seen: Observation) -> Decision:
        try:
            return self.policy.decide(seen)
        except InfeasibleError:
            self.out_of_reach += 1
            return Decision(allocation=Allocation(), reason="out of reach", memory=seen.memory)


class _Measured(pl.Callback):
    """Takes down where the simulated clock stands whenever the model is measured, and ends the training in time."""

    def __init__(self, monitor: EfficiencyMonitor, until: float | None) -> None:
        self.monitor = monitor
        self.until = until
        self.rows: list[tuple[int, float, float, float]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        accuracy = float(trainer.callback_metrics["accuracy"])
        self.rows.append((trainer.global_step, self.monitor.clock.seconds, sum(self._client_joule()), accuracy))
        if self.until is not None and accuracy >= self.until:
            trainer.should_stop = True

    def curve(self, out_of_reach: int) -> Curve:
        """All of it."""
        step, seconds, joule, accuracy = (list(column) for column in zip(*self.rows, strict=True))
        return Curve(
            step=step,
            seconds=seconds,
            joule=joule,
            accuracy=accuracy,
            client_joule=self._client_joule(),
            out_of_reach=out_of_reach,
        )

    def _client_joule(self) -> list[float]:
        clock = self.monitor.clock
        parts: Sequence[dict[int, float]] = (clock.client_compute_joule, clock.client_radio_joule)
        return [sum(part.get(client, 0.0) for part in parts) for client in range(CLIENTS)]
