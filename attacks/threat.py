"""Threat models: what an attacker may see and what it knows, and a view of the message log that holds it to that."""

import dataclasses
from collections.abc import Iterator
from enum import StrEnum

from lightning_sfl.link.log import MessageSource
from lightning_sfl.link.message import Message, MessageKind


class Knowledge(StrEnum):
    """What an attacker knows besides the messages it sees."""

    ARCHITECTURE = "architecture"
    """The program of the client's half: its layers, not their weights."""
    INPUT_SHAPE = "input_shape"
    """Shape and type of a private input."""
    INPUT_RANGE = "input_range"
    """The smallest and largest value an input element can have."""
    AUXILIARY_RECORDS = "auxiliary_records"
    """Records of the same kind that are not among those under attack."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """Who the attacker is.

    Attributes:
        name: A short name for reports.
        description: One sentence for reports.
        sees: Kinds of messages it sees.
        knows: What it knows besides.
    """

    name: str
    description: str
    sees: frozenset[MessageKind]
    knows: frozenset[Knowledge]


class AttackerView:
    """The part of a message log that a threat model lets an attacker see. It knows no truth.

    Args:
        source: The log.
        threat: The threat model.
    """

    def __init__(self, source: MessageSource, threat: ThreatModel) -> None:
        self._source = source
        self.threat = threat

    def messages(self, kind: MessageKind, *, client: int | None = None) -> Iterator[Message]:
        """Messages of one kind, in the order in which they were sent.

        Raises:
            ValueError: The threat model does not let the attacker see this kind.
        """
        if kind not in self.threat.sees:
            seen = ", ".join(sorted(self.threat.sees))
            raise ValueError(
                f"kind={kind.value!r}: the threat model {self.threat.name!r} sees {seen} only. An attack must declare"
                " what it reads."
            )
        yield from self._source.messages(kinds=[kind], client=client)
