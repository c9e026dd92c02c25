"""Carrying one client's smashed data and cut gradient over the link, and in a U-shape the server's output too."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_sfl.cut.batch import named_tensors
from lightning_sfl.cut.split import Split
from lightning_sfl.link.codecs.codec import NotFiniteError
from lightning_sfl.link.link import Link
from lightning_sfl.link.log import Origin
from lightning_sfl.link.message import SERVER, MessageKind, client_name

Gradients = tuple[Tensor | None, ...]
Send = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinkCarrier:
    """A :class:`~lightning_sfl.cut.modes.Carrier` that sends messages: smashed data up, the cut gradient down.

    Attributes:
        link: The link.
        client: Whose smashed data they are.
        round: The round.
        step: The step.
        split: The split.
        server_scale: What the server's gradients are multiplied by: the client's weight, and the scale of the loss. It
            is divided out of the cut gradient, so that what crosses is the gradient of the client's own mean loss.
        client_scale: What the client's gradients are multiplied by, for a backward pass in the same range of numbers:
            the scale of the loss.
        widens: Whether gradients in half precision cross in single precision, where they were made with a loss scale:
            most of them would be too small without it.
        origin: The records of the client's batch, for the truth file.
        loses_gradient: Whether the client is lost before the cut gradient comes back.
    """

    link: Link
    client: int
    round: int
    step: int
    split: Split
    server_scale: float
    client_scale: float = 1.0
    widens: bool = False
    origin: Origin | None
    loses_gradient: bool = False

    def carry(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Send the smashed data."""
        return tuple(self.up(MessageKind.SMASHED, self.split.cut, by_place(tensors)).values())

    def carry_back(self, gradients: Gradients) -> Gradients:
        """Send the cut gradient."""
        if self.loses_gradient:
            return tuple(None for _ in gradients)
        return self.rescaled(
            gradients,
            self.server_scale,
            self.client_scale,
            lambda tensors: self.down(MessageKind.CUT_GRADIENT, self.split.cut, tensors),
        )

    def rescaled(self, gradients: Gradients, here: float, there: float, send: Send) -> Gradients:
        """Send gradients freed from the sender's scale, and give what arrives the receiver's.

        Where the receiver puts back the very scale that was taken out, and the link changed nothing, it has the
        gradient that there was: the two factors cancel, and are not rounded twice.
        """
        sent = {place: self._freed(gradient, here) for place, gradient in by_place(gradients).items()}
        try:
            received = send(sent)
        except NotFiniteError:
            if not self.widens:
                raise
            return gradients  # the scale was too large: nothing is sent, and the scaler skips everybody's step

        def scaled(place: str, gradient: Tensor) -> Tensor:
            if received[place] is sent[place] and here == there:
                return gradient
            arrived = received[place] if there == 1 else received[place] * there
            return arrived.to(gradient.dtype)

        return tuple(g if g is None else scaled(str(place), g) for place, g in enumerate(gradients))

    def _freed(self, gradient: Tensor, scale: float) -> Tensor:
        wide = gradient.float() if self.widens and gradient.dtype == torch.float16 else gradient
        return wide if scale == 1 else wide / scale

    def send_beside(self, batch: object) -> None:
        """Send what the server half reads of a batch besides the smashed data: labels, masks, allowed inputs."""
        tensors = named_tensors(batch) if self.split.crossing else {}
        by_kind: dict[str, dict[str, Tensor]] = {}
        for name, crossing in self.split.crossing.items():
            by_kind.setdefault(crossing.value, {})[name] = tensors[name]
        for kind, payload in by_kind.items():
            self.up(MessageKind(kind), self.split.cut, payload)

    def up(self, kind: MessageKind, cut: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Send something from the client to the server."""
        return self._send(kind, client_name(self.client), SERVER, cut, tensors)

    def down(self, kind: MessageKind, cut: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Send something from the server to the client."""
        return self._send(kind, SERVER, client_name(self.client), cut, tensors)

    def _send(
        self, kind: MessageKind, sender: str, receiver: str, cut: str, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return self.link.send(
            kind,
            sender=sender,
            receiver=receiver,
            round=self.round,
            step=self.step,
            cut=cut,
            tensors=tensors,
            origin=self.origin,
        )


@dataclasses.dataclass(frozen=True)
class ReturnCarrier:
    """A carrier across the second cut of a U-shape: the server's output down, its gradient up.

    The client's own mean loss makes the gradient; the server scales it when it arrives.

    Attributes:
        line: The carrier across the first cut.
    """

    line: LinkCarrier

    @property
    def _cut(self) -> str:
        assert self.line.split.back is not None
        return self.line.split.back.cut

    def carry(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Send the server's output."""
        return tuple(self.line.down(MessageKind.SERVER_OUTPUT, self._cut, by_place(tensors)).values())

    def carry_back(self, gradients: Gradients) -> Gradients:
        """Send its gradient."""
        line = self.line
        return line.rescaled(
            gradients,
            line.client_scale,
            line.server_scale,
            lambda tensors: line.up(MessageKind.OUTPUT_GRADIENT, self._cut, tensors),
        )


def by_place(tensors: Gradients) -> dict[str, Tensor]:
    """Tensors named by their place; places that hold none are left out."""
    return {str(place): tensor for place, tensor in enumerate(tensors) if tensor is not None}
