"""Carrying one client's smashed data and cut gradient over the link, and in a U-shape the server's output too."""

import dataclasses

from torch import Tensor

from lightning_sfl.cut.batch import named_tensors
from lightning_sfl.cut.split import Split
from lightning_sfl.link.link import Link
from lightning_sfl.link.log import Origin
from lightning_sfl.link.message import SERVER, MessageKind, client_name

Gradients = tuple[Tensor | None, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinkCarrier:
    """A :class:`~lightning_sfl.cut.modes.Carrier` that sends messages: smashed data up, the cut gradient down.

    Attributes:
        link: The link.
        client: Whose smashed data they are.
        round: The round.
        step: The step.
        split: The split.
        gradient_scale: What the server multiplies the loss by before backward. It is divided out of the cut gradient,
            so that a client receives the gradient of its own mean loss.
        origin: The records of the client's batch, for the truth file.
        loses_gradient: Whether the client is lost before the cut gradient comes back.
    """

    link: Link
    client: int
    round: int
    step: int
    split: Split
    gradient_scale: float
    origin: Origin | None
    loses_gradient: bool = False

    def carry(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Send the smashed data."""
        return tuple(self.up(MessageKind.SMASHED, self.split.cut, by_place(tensors)).values())

    def carry_back(self, gradients: Gradients) -> Gradients:
        """Send the cut gradient, freed from the loss's scale."""
        if self.loses_gradient:
            return tuple(None for _ in gradients)
        own = (
            gradients if self.gradient_scale == 1 else [g if g is None else g / self.gradient_scale for g in gradients]
        )
        received = self.down(MessageKind.CUT_GRADIENT, self.split.cut, by_place(own))
        return tuple(received.get(str(place)) for place in range(len(gradients)))

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
        received = self.line.up(MessageKind.OUTPUT_GRADIENT, self._cut, by_place(gradients))
        found = [received.get(str(place)) for place in range(len(gradients))]
        scale = self.line.gradient_scale
        return tuple(found if scale == 1 else [g if g is None else g * scale for g in found])


def by_place(tensors: Gradients | list[Tensor | None]) -> dict[str, Tensor]:
    """Tensors named by their place; places that hold none are left out."""
    return {str(place): tensor for place, tensor in enumerate(tensors) if tensor is not None}
