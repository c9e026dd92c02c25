"""The message log: what crossed the link, kept in memory or on disk, and the truth file beside it.

The log holds messages alone. Which records of the data set a message came from is written to a place of its own, the
truth, with which an audit scores and which no attack is ever handed.

    DIRECTORY/messages/round_000012/00000345.safetensors     one file per message, its very bytes on the wire
    DIRECTORY/truth/round_000012.jsonl                       one line per message that stems from records
    DIRECTORY/truth/round_000012.steps.jsonl                 one line per step and client: the records it worked on
    DIRECTORY/modes/round_000012.json                        the modules that computed in evaluation mode, where any did
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from lightning_sfl.link.message import Message, MessageKind


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Which records a message was computed from: a client, and places in the training set."""

    client: int
    indices: tuple[int, ...]


class MessageSource(Protocol):
    """Where messages can be read again: a log, in memory or on disk."""

    def messages(self, *, kinds: Sequence[MessageKind] | None = None, client: int | None = None) -> Iterator[Message]:
        """The messages of these kinds and of this client, in the order in which they were sent."""
        ...


class MessageLog:
    """A log of messages.

    Args:
        directory: Where to keep it; None keeps it in memory. It must not hold a log yet.
        keep_rounds: How many of the last rounds to keep; None keeps all.

    Raises:
        ValueError: ``keep_rounds`` is below 1, or the directory holds a log already.
    """

    def __init__(self, directory: str | Path | None = None, *, keep_rounds: int | None = None) -> None:
        if keep_rounds is not None and keep_rounds < 1:
            raise ValueError(
                f"keep_rounds={keep_rounds} is not accepted: give an integer of at least 1, or None for all."
            )
        self.directory = None if directory is None else Path(directory)
        self.keep_rounds = keep_rounds
        self._rounds: dict[int, list[Message]] = {}
        self._truth: dict[int, dict[int, Origin]] = {}
        self._steps: dict[int, list[Origin]] = {}
        self._evaluating: dict[int, tuple[str, ...]] = {}
        self._damaged: dict[str, None] = {}
        parents = [] if self.directory is None else [self.directory, *self.directory.parents]
        if files := [path for path in parents if path.exists() and not path.is_dir()]:
            raise ValueError(f"directory={str(self.directory)!r} cannot be made: {str(files[0])!r} is a file.")
        if self.directory is not None and any((self.directory / part).exists() for part in ("messages", "truth")):
            raise ValueError(
                f"directory={str(self.directory)!r} holds a message log already. Read it with MessageLog.open, or"
                " give an empty or new directory."
            )

    @classmethod
    def open(cls, directory: str | Path) -> "MessageLog":
        """Open a log that a run left behind, for reading.

        Raises:
            ValueError: There is no log in this directory.
        """
        if not (Path(directory) / "messages").is_dir():
            raise ValueError(f"directory={str(directory)!r} holds no message log (it has no folder named messages).")
        log = cls()
        log.directory = Path(directory)
        return log

    def is_empty(self) -> bool:
        """Whether it holds no message."""
        return next(self._all(), None) is None

    def append(self, message: Message, origin: Origin | None = None) -> None:
        """Keep a message. Its tensors are copied, so they may go on to change."""
        if self.directory is None:
            kept = {name: tensor.detach().to("cpu", copy=True) for name, tensor in message.tensors.items()}
            self._rounds.setdefault(message.round, []).append(dataclasses.replace(message, tensors=kept))
            if origin is not None:
                self._truth.setdefault(message.round, {})[message.number] = origin
        else:
            self._write(message, origin)
        self._forget_before(message.round)

    def note_step(self, round: int, batches: Mapping[int, Sequence[int]], module: nn.Module | None = None) -> None:
        """Keep, beside the messages, what a step is made with.

        Args:
            round: The round.
            batches: Which records every client works on: the truth of its updates.
            module: The model, whose modules are in training or evaluation mode; None says nothing of it.
        """
        if module is not None:
            self.note_evaluating(round, [name for name, part in module.named_modules() if not part.training])
        found = [Origin(client, tuple(indices)) for client, indices in batches.items()]
        held = self._steps.setdefault(round, [])
        if self.directory is None:
            held.extend(found)
        else:
            _append(self._steps_file(round), [{"client": own.client, "indices": list(own.indices)} for own in found])

    def note_evaluating(self, round: int, modules: Sequence[str]) -> None:
        """Keep which modules compute in evaluation mode, by name; of several steps of a round, the first counts."""
        if round in self._evaluating:
            return
        self._evaluating[round] = tuple(modules)
        if self.directory is not None and modules:
            path = self._modes_file(round)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(list(modules)))

    def evaluating(self, round: int) -> tuple[str, ...]:
        """The modules that computed in evaluation mode in a round's first step; none where nothing was noted."""
        if self.directory is None:
            return self._evaluating.get(round, ())
        path = self._modes_file(round)
        return tuple(json.loads(path.read_text())) if path.exists() else ()

    def _modes_file(self, round: int) -> Path:
        assert self.directory is not None
        return self.directory / "modes" / f"{_round_name(round)}.json"

    def worked_on(self, client: int, round: int) -> list[tuple[int, ...]]:
        """Which records a client worked on in a round, step by step: for scoring, never for an attack."""
        return [own.indices for own in self._worked_in(round) if own.client == client]

    def _steps_file(self, round: int) -> Path:
        assert self.directory is not None
        return self.directory / "truth" / f"{_round_name(round)}.steps.jsonl"

    def rounds(self) -> list[int]:
        """The rounds of which messages are held, ascending."""
        return sorted({message.round for message in self.messages()})

    def damaged(self) -> tuple[str, ...]:
        """Names of the files that hold no whole message: they are passed over, and a reader should say so."""
        for _ in self._all():
            pass
        return tuple(self._damaged)

    def fingerprint(self) -> str:
        """SHA-256 of all messages' bytes in their order, in hexadecimal: the same for the same log, kept anywhere."""
        digest = hashlib.sha256()
        for message in self._all():
            digest.update(message.to_bytes())
        return digest.hexdigest()

    def save(self, directory: str | Path) -> None:
        """Write the log and its truth to a directory, in the form in which a log on disk is kept.

        Raises:
            ValueError: The directory holds a log already.
        """
        copied = MessageLog(directory)
        (Path(directory) / "messages").mkdir(parents=True)
        truth = self.truth()
        for message in self.messages():
            copied.append(message, truth.get(message.number))
        for round in self._rounds_worked():
            for origin in self._worked_in(round):
                copied.note_step(round, {origin.client: origin.indices})
        for round in self.rounds():
            copied.note_evaluating(round, self.evaluating(round))

    def _rounds_worked(self) -> list[int]:
        """The rounds of which steps are noted; their messages may all be lost."""
        if self.directory is None:
            return sorted(self._steps)
        names = (path.name.split(".")[0] for path in (self.directory / "truth").glob("*.steps.jsonl"))
        return sorted(int(name.removeprefix("round_")) for name in names)

    def _worked_in(self, round: int) -> list[Origin]:
        if self.directory is None:
            return self._steps.get(round, [])
        path = self._steps_file(round)
        return [Origin(line["client"], tuple(line["indices"])) for line in _whole_lines(path)] if path.exists() else []

    def _write(self, message: Message, origin: Origin | None) -> None:
        assert self.directory is not None
        folder = self.directory / "messages" / _round_name(message.round)
        if message.round not in self._rounds:
            folder.mkdir(parents=True, exist_ok=True)
            self._rounds[message.round] = []
        path = folder / f"{message.number:08d}.safetensors"
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(message.to_bytes())
        os.replace(unfinished, path)  # a killed run leaves whole messages only
        if origin is not None:
            line = {"number": message.number, "client": origin.client, "indices": list(origin.indices)}
            _append(self.directory / "truth" / f"{_round_name(message.round)}.jsonl", [line])

    def _forget_before(self, newest: int) -> None:
        if self.keep_rounds is None:
            return
        for old in [
            number for number in {*self._rounds, *self._steps, *self._evaluating} if number <= newest - self.keep_rounds
        ]:
            self._rounds.pop(old, None)
            self._truth.pop(old, None)
            self._steps.pop(old, None)
            self._evaluating.pop(old, None)
            if self.directory is not None:
                shutil.rmtree(self.directory / "messages" / _round_name(old), ignore_errors=True)
                (self.directory / "truth" / f"{_round_name(old)}.jsonl").unlink(missing_ok=True)
                self._steps_file(old).unlink(missing_ok=True)
                self._modes_file(old).unlink(missing_ok=True)

    def messages(self, *, kinds: Sequence[MessageKind] | None = None, client: int | None = None) -> Iterator[Message]:
        """The messages in the order in which they were sent.

        Args:
            kinds: Of these kinds only; None for all.
            client: To or from this client only; None for all.
        """
        for message in self._all():
            if (kinds is None or message.kind in kinds) and (client is None or message.client == client):
                yield message

    def _all(self) -> Iterator[Message]:
        if self.directory is None:
            for number in sorted(self._rounds):
                yield from self._rounds[number]
            return
        for path in sorted((self.directory / "messages").glob("round_*/*.safetensors"), key=_place):
            try:
                message = Message.from_bytes(path.read_bytes())
            except ValueError:
                self._damaged[str(path.relative_to(self.directory))] = None
                continue
            yield message

    def truth(self) -> dict[int, Origin]:
        """Which records the messages came from, by message number: for scoring, never for an attack."""
        if self.directory is None:
            return {number: origin for found in self._truth.values() for number, origin in found.items()}
        origins: dict[int, Origin] = {}
        for path in sorted((self.directory / "truth").glob("*.jsonl")):
            if path.name.endswith(".steps.jsonl"):
                continue
            for entry in _whole_lines(path):
                origins[entry["number"]] = Origin(entry["client"], tuple(entry["indices"]))
        return origins


def _append(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    whole, _, _ = path.read_text().rpartition("\n")  # a killed run may leave part of a last line
    return [json.loads(line) for line in whole.splitlines()]


def _place(path: Path) -> tuple[int, int]:
    """Round and number of a message's file, which sort as numbers and not as text."""
    return int(path.parent.name.removeprefix("round_")), int(path.stem)


def _round_name(number: int) -> str:
    return f"round_{number:06d}"
