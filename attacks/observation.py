"""What an attacker has of one batch: the smashed data, what crossed beside them, and the weights in force."""

import dataclasses

from torch import Tensor

from attacks.threat import AttackerView
from lightning_sfl.link.message import Message, MessageKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """One client's batch as the server saw it.

    Attributes:
        number: Number of the message of smashed data.
        client: Whose batch it is.
        round: The round.
        step: The step.
        cut: The cut.
        smashed: The crossing tensors, in order, as the server decodes them.
        known: Batch tensors that crossed beside them, by name.
        weights: The client's half as it was broadcast at the start of the round, by name.
    """

    number: int
    client: int
    round: int
    step: int
    cut: str
    smashed: tuple[Tensor, ...]
    known: dict[str, Tensor]
    weights: dict[str, Tensor]

    @property
    def records(self) -> int:
        """How many records the batch holds."""
        return self.smashed[0].shape[0]


def last_observations(view: AttackerView) -> list[Observation]:
    """Of every client, the newest batch that it computed with weights the server had just broadcast.

    That is its first batch of a round: later ones come from weights that the client has stepped on its own.

    Returns:
        The observations by ascending client.
    """
    broadcast: dict[tuple[int, int], Message] = {
        (_client(message), message.round): message for message in view.messages(MessageKind.BROADCAST)
    }
    first: dict[tuple[int, int], Message] = {}
    for message in view.messages(MessageKind.SMASHED):
        first.setdefault((_client(message), message.round), message)
    newest: dict[int, Message] = {}
    for key, message in first.items():
        if key in broadcast:
            newest[_client(message)] = message
    beside: dict[tuple[int, int], dict[str, Tensor]] = {}
    for kind in (MessageKind.LABEL, MessageKind.MASK, MessageKind.INPUT):
        for message in view.messages(kind):
            beside.setdefault((_client(message), message.step), {}).update(message.decoded())
    return [
        Observation(
            number=message.number,
            client=client,
            round=message.round,
            step=message.step,
            cut=message.cut or "",
            smashed=tuple(message.decoded().values()),
            known=beside.get((client, message.step), {}),
            weights=broadcast[client, message.round].decoded(),
        )
        for client, message in sorted(newest.items())
    ]


def _client(message: Message) -> int:
    """The client at one end; of the kinds read here, every message has one."""
    assert message.client is not None
    return message.client
