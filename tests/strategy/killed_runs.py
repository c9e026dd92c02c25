"""Runs in processes that are killed, and what they leave."""

import functools
import io
import logging
import multiprocessing
import os
import signal
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from resume_cases import Case, Outcome

Event = tuple[str, int]
"""What a run is about to do, or did, in which step: "step", "validation", "saving", "half", "saved"."""


class Telling(pl.Callback):
    """Tells what a run is doing.

    Args:
        pipe: Where to.
        pause: Where the run waits to be killed.
    """

    def __init__(self, pipe: Connection, pause: Event | None) -> None:
        self.pipe = pipe
        self.pause = pause
        self.step = 0

    def tell(self, what: str) -> None:
        self.pipe.send((what, self.step))
        if (what, self.step) == self.pause:
            signal.pause()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.step = trainer.global_step + 1
        self.tell("step")

    def on_validation_start(self, trainer, module):
        self.tell("validation")


class Saving(TorchCheckpointIO):
    """Saves checkpoints, and tells of it.

    Args:
        telling: Tells.
        in_place: Whether a checkpoint is written where it is to stand, half of it before the other.
    """

    def __init__(self, telling: Telling, *, in_place: bool) -> None:
        super().__init__()
        self.telling = telling
        self.in_place = in_place

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        self.telling.tell("saving")
        if self.in_place:
            whole = io.BytesIO()
            torch.save(checkpoint, whole)
            middle = len(whole.getvalue()) // 2
            with Path(path).open("wb") as file:
                file.write(whole.getvalue()[:middle])
                file.flush()
                self.telling.tell("half")
                file.write(whole.getvalue()[middle:])
        else:
            tempfile.tempdir = str(Path(path).parent)  # where a killed run's leftovers go with the rest
            super().save_checkpoint(checkpoint, path, storage_options)
            tempfile.tempdir = None
        self.telling.tell("saved")


def in_process(
    case: Case, folder: Path, go_on: Path | None, pipe: Connection, pause: Event | None, in_place: bool
) -> None:
    """A process's work: train, and leave the outcome in a file."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    telling = Telling(pipe, pause)
    outcome = case.train(folder, go_on=go_on, callbacks=(telling,), io=Saving(telling, in_place=in_place))
    torch.save(vars(outcome), folder / "outcome")


@functools.cache
def parent() -> ProcessPoolExecutor:
    """A process that has imported and does nothing but fork: autograd's threads, once made, do not survive a fork."""
    return ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn"))


def run_in_process(case: Case, folder: Path, **options: Any) -> list[Event]:
    """See :func:`run_forked`, which is called in a fresh process."""
    return parent().submit(run_forked, case, folder, **options).result()


def run_forked(
    case: Case,
    folder: Path,
    *,
    go_on: Path | None = None,
    kill: Event | None = None,
    pause: bool = True,
    in_place: bool = False,
    delay_s: float = 0,
) -> list[Event]:
    """Train in a process forked from this one, which is killed at an event or after it; returns what it told.

    Args:
        case: What to train.
        folder: Gets the checkpoints, and the outcome of a run that is not killed.
        go_on: The checkpoint to go on from.
        kill: The event.
        pause: Whether the process waits there to be killed.
        in_place: See :class:`Saving`.
        delay_s: How long after the event it is killed.
    """
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=in_process, args=(case, folder, go_on, sender, kill if pause else None, in_place))
    process.start()
    sender.close()
    told: list[Event] = []
    ended = False
    while receiver.poll() or (not ended and receiver in wait([receiver, process.sentinel])):
        try:
            told.append(receiver.recv())
        except EOFError:
            break
        if told[-1] == kill:
            time.sleep(delay_s)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            ended = True  # its workers, which hold the pipe, live on for seconds
    process.join()
    assert process.exitcode == (0 if kill is None else -signal.SIGKILL)
    receiver.close()
    process.close()
    return told


def outcome_in(folder: Path) -> Outcome:
    """The outcome that a process left."""
    return Outcome(**torch.load(folder / "outcome", weights_only=True))


def newest_whole(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint that can be read, and newer ones that cannot."""
    broken: list[Path] = []
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: -int(path.stem.split("=")[1])):
        try:
            torch.load(path, weights_only=True)
        except Exception:  # a file cut short fails in many ways
            broken.append(path)
        else:
            return path, broken
    return None, broken
