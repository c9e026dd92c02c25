"""What an attacker has of one batch: the smashed data, what crossed beside them, and the weights in force."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping

from torch import Tensor

from attacks.attacker import Attacker, UnavailableError
from attacks.threat import Knowledge
from lightning_sfl.link.message import Message, MessageKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """One client's batch as it crossed the cut.

    Attributes:
        number: Number of the message of smashed data.
        client: Whose batch it is.
        round: The round.
        step: The step.
        cut: The cut.
        smashed: The crossing tensors, in order, as the server decodes them.
        known: Batch tensors that crossed beside them, by name.
        cut_gradients: The gradient of the client's own mean loss with respect to each of the crossing tensors; None for
            those that have none, and for attackers who do not see them.
        weights: The client's half that computed them, by name; empty for attackers who do not know it.
    """

    number: int
    client: int
    round: int
    step: int
    cut: str
    smashed: tuple[Tensor, ...]
    known: dict[str, Tensor]
    cut_gradients: tuple[Tensor | None, ...]
    weights: Mapping[str, Tensor]

    @property
    def records(self) -> int:
        """How many records the batch holds."""
        return self.smashed[0].shape[0]


def last_observations(attacker: Attacker) -> list[Observation]:
    """Of every client, the newest batch that can be attacked; no more clients than the audit attacks.

    Who knows the clients' weights takes the first batch of a round, which was computed with weights just broadcast:
    later ones come from weights that the client has stepped on its own. Where weights are never broadcast, the first
    batch of the step that they are known of. Others take the newest batch of all.

    Returns:
        The observations by ascending client.

    Raises:
        UnavailableError: There are none.
    """
    newest: dict[int, tuple[Message, Mapping[str, Tensor]]] = {}
    if attacker.knows(Knowledge.CLIENT_WEIGHTS):
        broadcast = {(_client(m), m.round): m for m in attacker.messages(MessageKind.BROADCAST)}
        first: dict[tuple[int, int], Message] = {}
        last = -1
        for message in attacker.messages(MessageKind.SMASHED):
            first.setdefault((_client(message), message.round), message)
            last = max(last, message.step)
        for key, message in first.items():
            if key in broadcast:
                newest[key[0]] = message, broadcast[key].decoded()
        if not broadcast and first:
            weights = attacker.latest_client_weights
            known = last if attacker.client_weights_step is None else attacker.client_weights_step
            for message in attacker.messages(MessageKind.SMASHED):
                if message.step == known:  # the first of a step: weights are moved for those that follow it
                    newest.setdefault(_client(message), (message, weights))
    else:
        newest = {_client(m): (m, {}) for m in attacker.messages(MessageKind.SMASHED)}
    if not newest:
        raise UnavailableError(
            "the message log holds no smashed data"
            + (" that follow a broadcast." if attacker.knows(Knowledge.CLIENT_WEIGHTS) else ".")
        )
    chosen = _enough([newest[client] for client in sorted(newest)], attacker.records)
    steps = {(_client(message), message.step) for message, _ in chosen}
    gradients: dict[tuple[int, int], dict[str, Tensor]] = {}
    for message in attacker.messages(MessageKind.CUT_GRADIENT) if attacker.sees(MessageKind.CUT_GRADIENT) else ():
        if (_client(message), message.step) in steps:
            gradients[_client(message), message.step] = message.decoded()
    beside = _beside(attacker, steps)
    return [_observation(message, weights, beside, gradients) for message, weights in chosen]


def earlier_observations(attacker: Attacker, anchor: Observation) -> Iterator[Observation]:
    """Earlier batches of the same client, at all cuts, whose weights were broadcast; newest first, one at a time.

    Their cut gradients are not looked up.

    Raises:
        UndeclaredError: The attacker does not know weights.
    """
    broadcast = {m.round: m for m in attacker.messages(MessageKind.BROADCAST, client=anchor.client, every_cut=True)}
    first: dict[int, Message] = {}
    for message in attacker.messages(MessageKind.SMASHED, client=anchor.client, every_cut=True):
        if message.round in broadcast and message.step < anchor.step:
            first.setdefault(message.round, message)
    beside = _beside(attacker, {(anchor.client, message.step) for message in first.values()})
    for round in sorted(first, reverse=True):
        yield _observation(first[round], broadcast[round].decoded(), beside, {})


def _beside(attacker: Attacker, steps: Collection[tuple[int, int]]) -> dict[tuple[int, int], dict[str, Tensor]]:
    """Batch tensors that crossed beside smashed data, by client and step, at any cut."""
    found: dict[tuple[int, int], dict[str, Tensor]] = {}
    for kind in (MessageKind.LABEL, MessageKind.MASK, MessageKind.INPUT):
        for message in attacker.messages(kind, every_cut=True) if attacker.sees(kind) else ():
            if (_client(message), message.step) in steps:
                found.setdefault((_client(message), message.step), {}).update(message.decoded())
    return found


def observations_of_round(attacker: Attacker, client: int, round: int) -> list[Observation]:
    """What crossed of every step of a client's round, in their order; without weights, which move from step to step.

    Returns:
        The observations; empty if no smashed data of this round are in the log.
    """

    def of(kind: MessageKind) -> list[Message]:
        seen = attacker.messages(kind, client=client) if attacker.sees(kind) else ()
        return [message for message in seen if message.round == round]

    gradients = {(client, message.step): message.decoded() for message in of(MessageKind.CUT_GRADIENT)}
    sent = of(MessageKind.SMASHED)
    beside = _beside(attacker, {(client, message.step) for message in sent})
    return [_observation(message, {}, beside, gradients) for message in sent]


def _observation(
    message: Message,
    weights: Mapping[str, Tensor],
    beside: Mapping[tuple[int, int], dict[str, Tensor]],
    gradients: Mapping[tuple[int, int], dict[str, Tensor]],
) -> Observation:
    client = _client(message)
    smashed = message.decoded()
    backward = gradients.get((client, message.step), {})
    return Observation(
        number=message.number,
        client=client,
        round=message.round,
        step=message.step,
        cut=message.cut or "",
        smashed=tuple(smashed.values()),
        known=beside.get((client, message.step), {}),
        cut_gradients=tuple(backward.get(name) for name in smashed),
        weights=weights,
    )


def _enough(
    found: list[tuple[Message, Mapping[str, Tensor]]], records: int
) -> list[tuple[Message, Mapping[str, Tensor]]]:
    chosen: list[tuple[Message, Mapping[str, Tensor]]] = []
    count = 0
    for message, weights in found:
        if count >= records:
            break
        chosen.append((message, weights))
        count += next(iter(message.decoded().values())).shape[0]
    return chosen


def _client(message: Message) -> int:
    """The client at one end; of the kinds read here, every message has one."""
    assert message.client is not None
    return message.client
