"""The true records behind messages, read to score and never by an attack; and records of batches in general."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from attacks.attacker import KnownLabels, Records, UnavailableError
from lightning_sfl.cut.batch import named_tensors
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind

RecordsAt = Callable[[tuple[int, ...]], Records]
"""Gives records of the training set by their places in it."""


class Truth:
    """Which records a message came from.

    Args:
        log: The log, with the truth beside it.
        records: Gives records by their places in the training set.
    """

    def __init__(self, log: MessageLog, records: RecordsAt) -> None:
        self._log = log
        self._records = records
        self._origins = log.truth()
        self._messages = {message.number: message for message in log.messages()}

    def says(self, number: int) -> bool:
        """Whether it is known which records a message came from: of a log that was cut off, it may not be."""
        return bool(self._indices(number))

    def of(self, number: int) -> Records:
        """The records that a message came from; of an update, those of the round's steps in their order.

        Raises:
            ValueError: The log has no truth for it.
        """
        return self._records(self.indices(number))

    def indices(self, number: int) -> tuple[int, ...]:
        """Their places in the training set.

        Raises:
            ValueError: The log has no truth for it.
        """
        indices = self._indices(number)
        if not indices:
            raise ValueError(f"The truth beside the log does not say which records message {number} came from.")
        return indices

    def _indices(self, number: int) -> tuple[int, ...]:
        if number in self._origins:
            return self._origins[number].indices
        message = self._messages[number]
        if message.kind is MessageKind.SMASHED:
            return ()  # of one step, and the round may have several
        steps = [] if message.client is None else self._log.worked_on(message.client, message.round)
        return tuple(index for step in steps for index in step)

    def labels_of(self, number: int) -> Tensor | None:
        """Their classes; None where the log has no truth for the message, or the records have no classes."""
        return self.of(number).labels_B if number in self._origins else None

    def known_among(self, number: int, known: KnownLabels) -> Tensor:
        """Of every record behind a message, whether its class was known, by this or by another message: bool (B,)."""
        told = {self._origins[of].indices[place] for of, place in known}
        return torch.tensor([index in told for index in self._origins[number].indices])

    def client(self, number: int) -> int:
        """Whose message it is."""
        client = self._messages[number].client
        assert client is not None
        return client


def batch_sizes_of(log: MessageLog) -> Callable[[int, int], tuple[int, ...]]:
    """How many records each step of a client's round held, from what is kept beside the log; nothing else of it."""

    def batch_sizes(client: int, round: int) -> tuple[int, ...]:
        steps = log.worked_on(client, round)
        if not steps:
            raise UnavailableError(f"it needs batch sizes, and none is known of client {client} in round {round}.")
        return tuple(len(step) for step in steps)

    return batch_sizes


def known_labels_of(log: MessageLog, records: RecordsAt) -> Callable[[Sequence[int]], KnownLabels]:
    """Of every class, the first record that crossed in some messages; nothing else of the truth."""

    def known_labels(numbers: Sequence[int]) -> KnownLabels:
        origins = log.truth()
        found: dict[int, tuple[int, int]] = {}
        for number in numbers:
            if number not in origins:
                raise UnavailableError(f"it needs known_labels, and the truth beside the log lacks message {number}.")
            labels = records(origins[number].indices).labels_B
            if labels is None:
                raise UnavailableError("it needs known_labels, and the records have no class labels.")
            for place, label in enumerate(labels.tolist()):
                found.setdefault(label, (number, place))
        return {at: label for label, at in sorted(found.items())}

    return known_labels


_MOST_AUXILIARY = 512


def records_of(batch: Any, name: str) -> Records:
    """A batch's images, called ``name``, and its labels if exactly one of its tensors can be a class per record."""
    tensors = named_tensors(batch)
    count = len(tensors[name])
    classes = [tensor for tensor in tensors.values() if tensor.dtype == torch.int64 and tensor.shape == (count,)]
    return Records(images_BCHW=tensors[name], labels_B=classes[0] if len(classes) == 1 else None)


def auxiliary_records(loader: Iterable[Any], name: str) -> Records | None:
    """The first records of a loader, at most 512; None where its batches have no images called ``name``."""
    parts: list[Records] = []
    for batch in loader:
        if name not in named_tensors(batch):
            return None
        parts.append(records_of(batch, name))
        if sum(len(part.images_BCHW) for part in parts) >= _MOST_AUXILIARY:
            break
    if not parts:
        return None
    images = torch.cat([part.images_BCHW for part in parts])[:_MOST_AUXILIARY]
    labels = [part.labels_B for part in parts if part.labels_B is not None]
    whole = len(labels) == len(parts)
    return Records(images_BCHW=images, labels_B=torch.cat(labels)[:_MOST_AUXILIARY] if whole else None)
