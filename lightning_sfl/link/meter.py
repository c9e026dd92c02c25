"""Counting what crosses the link."""

import dataclasses
from collections import Counter

from lightning_sfl.link.message import Message, MessageKind


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """How much crossed: messages, bits of payload, bits of framing (headers, padding)."""

    messages: int = 0
    payload_bit: int = 0
    framing_bit: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            messages=self.messages + other.messages,
            payload_bit=self.payload_bit + other.payload_bit,
            framing_bit=self.framing_bit + other.framing_bit,
        )

    @property
    def payload_byte(self) -> float:
        """Payload in bytes."""
        return self.payload_bit / 8


class Meter:
    """Adds up the messages of a run by kind and direction. Counting only: it holds no message."""

    def __init__(self) -> None:
        self._messages: Counter[tuple[MessageKind, bool]] = Counter()
        self._payload_bit: Counter[tuple[MessageKind, bool]] = Counter()
        self._framing_bit: Counter[tuple[MessageKind, bool]] = Counter()
        self._by_client: dict[int | None, Counter[tuple[MessageKind, bool]]] = {}

    def count(self, message: Message) -> None:
        """Add one message."""
        key = (message.kind, message.is_uplink)
        self._messages[key] += 1
        payload_bit = message.payload_bit
        self._payload_bit[key] += payload_bit
        self._framing_bit[key] += message.framing_bit
        self._by_client.setdefault(message.client, Counter())[key] += payload_bit

    def total(self, kind: MessageKind | None = None, *, uplink: bool | None = None) -> Traffic:
        """What crossed since the start.

        Args:
            kind: Of this kind only; None for all.
            uplink: True for what clients sent, False for what they received and servers exchanged, None for all.
        """
        keys = [
            key for key in self._messages if (kind is None or key[0] is kind) and (uplink is None or key[1] is uplink)
        ]
        return Traffic(
            messages=sum(self._messages[key] for key in keys),
            payload_bit=sum(self._payload_bit[key] for key in keys),
            framing_bit=sum(self._framing_bit[key] for key in keys),
        )

    def payload_bit_of(self, client: int | None) -> Counter[tuple[MessageKind, bool]]:
        """Payload bits that a client (None: servers among themselves) exchanged, by (kind, is uplink); a copy."""
        return Counter(self._by_client.get(client, {}))

    def by_kind(self) -> dict[tuple[MessageKind, bool], Traffic]:
        """Traffic by (kind, is uplink), in the order in which the kinds first crossed."""
        return {key: self.total(key[0], uplink=key[1]) for key in self._messages}
