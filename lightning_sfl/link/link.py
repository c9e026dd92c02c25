"""The link in one process: it encodes, counts and logs messages, and hands over what their receivers make of them."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from lightning_sfl.link.codecs.chain import Chain
from lightning_sfl.link.codecs.codec import Draw, Form, NotFiniteError
from lightning_sfl.link.coding import Coding
from lightning_sfl.link.error_feedback import ErrorFeedback
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
        base: Mapping[str, Tensor] | None = None,
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
            base: What the receiver has of these tensors already; the difference is what a codec encodes then.

        Raises:
            NotFiniteError: A tensor that a codec is to encode holds NaN or infinite values.
            ValueError: A codec cannot encode a tensor.
        """
        ...


class LinkCodecs(Protocol):
    """Says what is encoded, and how.

    Attributes:
        seed: Seeds what codecs draw.
    """

    seed: int

    def chain(self, kind: MessageKind, client: int, round: int) -> Chain:
        """The codecs for what a client sends or is sent; empty: it is sent as it is."""
        ...


class LocalLink:
    """Both ends in one process: what arrives is what the receiver makes of the message.

    Args:
        log: Where to keep the messages; None keeps none.
        codecs: Says what is encoded; None: nothing is.

    Attributes:
        memory: What senders keep of what they left out.
    """

    def __init__(self, log: MessageLog | None = None, codecs: LinkCodecs | None = None) -> None:
        self.meter = Meter()
        self.log = log
        self.codecs = codecs
        self.memory = ErrorFeedback()
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
        base: Mapping[str, Tensor] | None = None,
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
        encoding = self._encoding(message, base)
        if encoding is not None:
            message = encoding.message()
        self._sent += 1
        self.meter.count(message)
        if self.log is not None:
            self.log.append(message, origin)
        return dict(tensors) if encoding is None else encoding.arrived(message)

    def _encoding(self, message: Message, base: Mapping[str, Tensor] | None) -> "_Encoding | None":
        """How a message is encoded; None if it is not."""
        if self.codecs is None or message.client is None:
            return None
        chain = self.codecs.chain(message.kind, message.client, message.round)
        if not chain.codecs:
            return None
        counters = (message.round, message.step, message.client)
        return _Encoding(message, base, chain, Draw(self.codecs.seed, f"codec/{message.kind}", counters), self.memory)


class _Encoding:
    """One message on its way through codecs.

    Args:
        plain: The message as it would be sent without.
        base: What the receiver has already; integer tensors are sent as they are then.
        chain: The codecs.
        draw: What they draw from.
        memory: What the sender has left out earlier, where the codecs feed it back.
    """

    def __init__(
        self, plain: Message, base: Mapping[str, Tensor] | None, chain: Chain, draw: Draw, memory: ErrorFeedback
    ) -> None:
        assert plain.client is not None
        self._plain = plain
        self._base = base
        self._chain = chain
        self._draw = draw
        self._memory = memory.of(plain.client) if chain.feeds_back else None
        self._inputs: dict[str, Tensor] = {}

    def message(self) -> Message:
        """The message as it is sent.

        Raises:
            NotFiniteError: A tensor holds NaN or infinite values.
            ValueError: A codec cannot encode a tensor.
        """
        parts: dict[str, Tensor] = {}
        codings: dict[str, Coding] = {}
        for place, (name, tensor) in enumerate(self._plain.tensors.items()):
            if self._base is not None and not tensor.is_floating_point():
                parts[name] = tensor
                continue
            sent = self._input(name, tensor)
            codings[name] = Coding(Form.of(sent), self._chain, is_difference=self._base is not None)
            try:
                encoded = codings[name].encode(name, sent, self._draw.at(place))
            except NotFiniteError as error:
                raise NotFiniteError(self._text(name, error)) from error
            except ValueError as error:
                raise ValueError(self._text(name, error)) from error
            if taken := parts.keys() & encoded.keys() | self._plain.tensors.keys() & encoded.keys() - {name}:
                raise ValueError(f"A tensor named {min(taken)!r} stands where a part of {name!r} is to stand.")
            parts |= encoded
            self._inputs[name] = sent
        return dataclasses.replace(self._plain, tensors=parts, codings=codings)

    def arrived(self, message: Message) -> dict[str, Tensor]:
        """What the receiver has then; the sender keeps what was left out."""
        received = message.decoded()
        for name, sent in self._inputs.items():
            if self._memory is not None:
                self._memory[name] = sent - received[name]
            if self._base is not None:
                received[name] = self._base[name] + received[name]
        return received

    def _input(self, name: str, tensor: Tensor) -> Tensor:
        """What is encoded of a tensor."""
        sent = tensor.detach() if self._base is None else tensor.detach() - self._base[name]
        left_out = None if self._memory is None else self._memory.get(name)
        return sent if left_out is None else sent + left_out.to(sent.device)

    def _text(self, name: str, error: ValueError) -> str:
        plain = self._plain
        return (
            f"{plain.kind.value} of client {plain.client} in step {plain.step}: tensor {name!r} cannot be encoded by"
            f" {self._chain}: {error}"
        )
