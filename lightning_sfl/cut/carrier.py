"""Carrying one client's smashed data and cut gradient over the link."""

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
        origin: Origin | None,
        loses_gradient: bool = False,
    ) -> None:
        self._link = link
        self._client = client_name(client)
        self._round = round
        self._step = step
        self._cut = cut
        self._scale = gradient_scale
        self._origin = origin
        self._loses_gradient = loses_gradient

    def up(self, smashed: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Send the smashed data."""
        named = {str(place): tensor for place, tensor in enumerate(smashed)}
        return tuple(self.send_up(MessageKind.SMASHED, named).values())

    def down(self, cut_gradient: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """Send the cut gradient, freed from the loss's scale."""
        if self._loses_gradient:
            return tuple(None for _ in cut_gradient)
        named = {
            str(place): tensor if self._scale == 1 else tensor / self._scale
            for place, tensor in enumerate(cut_gradient)
            if tensor is not None
        }
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
        return tuple(received.get(str(place)) for place in range(len(cut_gradient)))

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
