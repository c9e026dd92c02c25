"""What an attacker has of one client's round: the weights before and after, and the gradient that can be read there."""

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from attacks.attacker import Attacker, UnavailableError
from attacks.threat import Knowledge
from lightning_sfl.link.message import Message, MessageKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Update:
    """One client's update as it was sent.

    Attributes:
        number: Number of the message.
        client: Whose it is.
        round: The round.
        cut: The cut; None where clients hold the whole model.
        before: The weights that the client began from, by name.
        after: Those that it sent.
        gradients: The gradient of every trainable parameter, by name, in float64, as a single step shows it; empty
            where it cannot be read, for attackers who do not know how clients step, and for those who do not see the
            states of an optimizer with momentum.
        states_before: The optimizer's state that the client was sent, by parameter, by key; empty where none crossed,
            and for attackers who do not see it.
        states_after: The one that it sent.
    """

    number: int
    client: int
    round: int
    cut: str | None
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    states_before: Mapping[str, Mapping[str, Tensor]]
    states_after: Mapping[str, Mapping[str, Tensor]]


def last_updates(attacker: Attacker, clients: int | None = None) -> list[Update]:
    """Of every client, its newest update that follows a broadcast.

    Args:
        attacker: Who reads.
        clients: So many clients at most, lowest first; None for all.

    Returns:
        By ascending client.

    Raises:
        UnavailableError: There are none.
    """
    broadcast = {(_client(m), m.round): m for m in attacker.messages(MessageKind.BROADCAST)}
    newest: dict[int, Message] = {}
    for message in attacker.messages(MessageKind.CLIENT_UPDATE):
        if (_client(message), message.round) in broadcast:
            newest[_client(message)] = message
    if not newest:
        raise UnavailableError("the message log holds no client update that follows a broadcast.")
    chosen = [newest[client] for client in sorted(newest)[:clients]]
    states = _states(attacker) if attacker.sees(MessageKind.OPTIMIZER_STATE) else {}
    return [_update(attacker, message, broadcast[_client(message), message.round], states) for message in chosen]


States = dict[tuple[int, int, bool], dict[str, dict[str, Tensor]]]
"""By client, round and whether it is sent up: by parameter, by key."""


def _states(attacker: Attacker) -> States:
    found: States = {}
    for message in attacker.messages(MessageKind.OPTIMIZER_STATE):
        own = found.setdefault((_client(message), message.round, message.is_uplink), {})
        for name, tensor in message.decoded().items():
            parameter, _, key = name.rpartition("/")
            own.setdefault(parameter, {})[key] = tensor
    return found


def _update(attacker: Attacker, message: Message, broadcast: Message, states: States) -> Update:
    before, after = broadcast.decoded(), message.decoded()
    # Encoded updates are differences to what was broadcast.
    after |= {name: before[name] + after[name] for name, how in message.codings.items() if how.is_difference}
    gradients: dict[str, Tensor] = {}
    client = _client(message)
    old, new = states.get((client, message.round, False), {}), states.get((client, message.round, True), {})
    if attacker.knows(Knowledge.LOCAL_HYPERPARAMETERS):
        rule = attacker.optimizer
        is_shown = rule.momentum == 0 or attacker.sees(MessageKind.OPTIMIZER_STATE)
        for name in attacker.program.trainable(tuple(after)):
            if name not in before or not is_shown:
                continue
            gradient = rule.gradient(before[name], after[name], old.get(name), new.get(name))
            if gradient is not None:
                gradients[name] = gradient
    return Update(
        number=message.number,
        client=client,
        round=message.round,
        cut=message.cut,
        before=before,
        after=after,
        gradients=gradients,
        states_before=old,
        states_after=new,
    )


def _client(message: Message) -> int:
    """The client at one end; of the kinds read here, every message has one."""
    assert message.client is not None
    return message.client
