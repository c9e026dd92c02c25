"""Carrying one client's smashed data and cut gradient over the link."""

import torch
from torch import Tensor

from lightning_sfl.cut.batch import named_tensors
from lightning_sfl.cut.split import Split
from lightning_sfl.link.link import Link
from lightning_sfl.link.log import Origin
from lightning_sfl.link.message import SERVER, MessageKind, client_name


class LinkCarrier:
    """A :class:`~lightning_sfl.cut.modes.Carrier` that sends messages.

    Args:
        link: The link.
        client: Whose smashed data they are.
        round: The round.
        step: The step.
        cut: The cut.
        gradient_scale: What the loss was multiplied by before backward. It is divided out of the cut gradient, so that
            a client receives the gradient of its own mean loss.
        client_scale: What the client multiplies the gradient by that it receives, as the server multiplied the loss,
            for a backward pass in the same range of numbers.
        widens: Whether gradients in half precision cross in single precision, where they were made with a loss scale:
            most of them would be too small without it.
        origin: The records of the client's batch, for the truth file.
        loses_gradient: Whether the client is lost before the cut gradient comes back.
    """

    def __init__(
        self,
        link: Link,
        *,
        client: int,
        round: int,
        step: int,
        cut: str,
        gradient_scale: float,
        client_scale: float = 1.0,
        widens: bool = False,
        origin: Origin | None,
        loses_gradient: bool = False,
    ) -> None:
        self._link = link
        self._client = client_name(client)
        self._round = round
        self._step = step
        self._cut = cut
        self._scale = gradient_scale
        self._client_scale = client_scale
        self._widens = widens
        self._origin = origin
        self._loses_gradient = loses_gradient

    def up(self, smashed: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Send the smashed data."""
        named = {str(place): tensor for place, tensor in enumerate(smashed)}
        return tuple(self.send_up(MessageKind.SMASHED, named).values())

    def down(self, cut_gradient: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """Send the cut gradient, freed from the loss's scale, and scale what arrives as the client does.

        Where the client puts back the very scale that was taken out, and the link changed nothing, it has the gradient
        that there was: the two factors cancel, and are not rounded twice.
        """
        if self._loses_gradient:
            return tuple(None for _ in cut_gradient)
        named = {str(place): self._freed(tensor) for place, tensor in enumerate(cut_gradient) if tensor is not None}
        received = self._link.send(
            MessageKind.CUT_GRADIENT,
            sender=SERVER,
            receiver=self._client,
            round=self._round,
            step=self._step,
            cut=self._cut,
            tensors=named,
            origin=self._origin,
        )
        return tuple(
            None if tensor is None else self._scaled(received[str(place)], named[str(place)], tensor)
            for place, tensor in enumerate(cut_gradient)
        )

    def _freed(self, gradient: Tensor) -> Tensor:
        wide = gradient.float() if self._widens and gradient.dtype == torch.float16 else gradient
        return wide if self._scale == 1 else wide / self._scale

    def _scaled(self, received: Tensor, sent: Tensor, gradient: Tensor) -> Tensor:
        if received is sent and self._client_scale == self._scale:
            return gradient
        scaled = received if self._client_scale == 1 else received * self._client_scale
        return scaled.to(gradient.dtype)

    def send_beside(self, batch: object, split: Split) -> None:
        """Send what the server half reads of a batch besides the smashed data: labels, masks, allowed inputs."""
        tensors = named_tensors(batch) if split.crossing else {}
        by_kind: dict[str, dict[str, Tensor]] = {}
        for name, crossing in split.crossing.items():
            by_kind.setdefault(crossing.value, {})[name] = tensors[name]
        for kind, payload in by_kind.items():
            self.send_up(MessageKind(kind), payload)

    def send_up(self, kind: MessageKind, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Send something of the client's batch to the server."""
        return self._link.send(
            kind,
            sender=self._client,
            receiver=SERVER,
            round=self._round,
            step=self._step,
            cut=self._cut,
            tensors=tensors,
            origin=self._origin,
        )
