"""The link in one process: it counts every message, keeps it if there is a log, and hands it over."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from lightning_sfl.link.log import MessageLog, Origin
from lightning_sfl.link.message import Message, MessageKind
from lightning_sfl.link.meter import Meter


class Link(Protocol):
    """What carries messages between the parties. There is no other way across."""

    meter: Meter

    def send(
        self,
        kind: MessageKind,
        *,
        sender: str,
        receiver: str,
        round: int,
        step: int,
        cut: str | None,
        tensors: Mapping[str, Tensor],
        origin: Origin | None = None,
    ) -> dict[str, Tensor]:
        """Send a message and return the tensors that arrive.

        Args:
            kind: What it carries.
            sender: Who sends it.
            receiver: Who receives it.
            round: The round it belongs to.
            step: The step it belongs to.
            cut: The cut in force.
            tensors: The payload by name.
            origin: The records it stems from, for the truth file; it is not part of the message.
        """
        ...


class LocalLink:
    """Both ends in one process: what is sent arrives as it is.

    Args:
        log: Where to keep the messages; None keeps none.
    """

    def __init__(self, log: MessageLog | None = None) -> None:
        self.meter = Meter()
        self.log = log
        self._sent = 0

    def send(
        self,
        kind: MessageKind,
        *,
        sender: str,
        receiver: str,
        round: int,
        step: int,
        cut: str | None,
        tensors: Mapping[str, Tensor],
        origin: Origin | None = None,
    ) -> dict[str, Tensor]:
        """See :meth:`Link.send`."""
        message = Message(
            number=self._sent,
            kind=kind,
            sender=sender,
            receiver=receiver,
            round=round,
            step=step,
            cut=cut,
            tensors=tensors,
        )
        self._sent += 1
        self.meter.count(message)
        if self.log is not None:
            self.log.append(message, origin)
        return dict(tensors)
