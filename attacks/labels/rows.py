"""From messages to what attacks on labels take: one row of numbers per record."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attacks.attacker import Attacker, UnavailableError
from attacks.threat import ThreatModel
from lightning_sfl.link.message import Message, MessageKind

OF_GRADIENTS = ThreatModel(
    name="who reads gradients at a cut",
    description="Who sees the gradients that cross, and nothing else: no label, no record, no weight.",
    sees=frozenset({MessageKind.CUT_GRADIENT, MessageKind.OUTPUT_GRADIENT}),
    knows=frozenset(),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """What crossed of every record of one batch.

    Attributes:
        number: Number of the message.
        client: Whose batch it is.
        round: The round.
        step: The step.
        rows_BD: One row per record, in float64. Those of gradients are times the batch size: what crosses is the
            gradient of the batch's mean loss.
    """

    number: int
    client: int
    round: int
    step: int
    rows_BD: Tensor


def gradient_rows(attacker: Attacker) -> list[Rows]:
    """Gradients of the newest batch of every client, by ascending client, until there are enough records.

    In a U-shape those that the client sends, which are nearer to the loss; the cut gradients are made of them.

    Raises:
        UnavailableError: No gradient crossed.
    """
    for kind in (MessageKind.OUTPUT_GRADIENT, MessageKind.CUT_GRADIENT):
        if found := _newest(attacker, kind):
            return [
                dataclasses.replace(rows, rows_BD=len(rows.rows_BD) * rows.rows_BD) for rows in map(_rows_of, found)
            ]
    raise UnavailableError("the message log holds no gradient that crossed this cut.")


def smashed_rows(attacker: Attacker) -> list[Rows]:
    """Smashed data, likewise.

    Raises:
        UnavailableError: None crossed.
    """
    found = _newest(attacker, MessageKind.SMASHED)
    if not found:
        raise UnavailableError("the message log holds no smashed data.")
    return [_rows_of(message) for message in found]


def joined(batches: Sequence[Rows]) -> Tensor:
    """The rows of all batches, one below the other, (N, D).

    Raises:
        UnavailableError: They have different lengths.
    """
    lengths = sorted({batch.rows_BD.shape[1] for batch in batches})
    if len(lengths) > 1:
        raise UnavailableError(f"records of one length are needed, and these have {lengths} numbers.")
    return torch.cat([batch.rows_BD for batch in batches])


def parted(values_N: Tensor, batches: Sequence[Rows]) -> tuple[Tensor, ...]:
    """Values of all records, batch by batch again."""
    parts: tuple[Tensor, ...] = values_N.split([len(batch.rows_BD) for batch in batches])
    return parts


def references(attacker: Attacker, batches: Sequence[Rows]) -> Mapping[int, Tensor]:
    """By class, the row of the one record of it whose class is known.

    Raises:
        UnavailableError: The records are of fewer than two classes, or none is left whose class is not known.
    """
    rows = {batch.number: batch.rows_BD for batch in batches}
    known = attacker.known_labels([batch.number for batch in batches])
    if len(known) < 2:
        raise UnavailableError("the records that crossed are all of one class: there is nothing to tell apart.")
    if sum(len(batch.rows_BD) for batch in batches) == len(known):
        raise UnavailableError("every record that crossed is the only one of its class, and known then.")
    return {label: rows[number][place] for (number, place), label in known.items()}


def _newest(attacker: Attacker, kind: MessageKind) -> list[Message]:
    newest = {message.client or 0: message for message in attacker.messages(kind)}
    chosen: list[Message] = []
    count = 0
    for client in sorted(newest):
        if count >= attacker.records:
            break
        chosen.append(newest[client])
        count += _records(newest[client].decoded())
    return chosen


def _rows_of(message: Message) -> Rows:
    tensors = message.decoded()
    records = _records(tensors)
    parts = [tensor.reshape(records, -1) for tensor in tensors.values() if tensor.ndim and len(tensor) == records]
    rows = torch.cat([part.double() for part in parts], dim=1)
    return Rows(
        number=message.number,
        client=message.client or 0,
        round=message.round,
        step=message.step,
        rows_BD=rows.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0),  # a client that diverged says nothing
    )


def _records(tensors: Mapping[str, Tensor]) -> int:
    """How many records a batch holds: what crosses for all of them at once has a shorter first axis."""
    return max(tensor.shape[0] for tensor in tensors.values() if tensor.ndim)
