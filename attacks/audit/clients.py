"""Copies of clients for a server that deviates: their half, their optimizer, and their records, which stay in here."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from attacks.attacker import Background, UnavailableError
from attacks.audit.truth import RecordsAt
from attacks.local_optimizer import LocalOptimizer, Rule
from attacks.malicious.detector import Watch, summary
from attacks.session import OpenSession, Sent, Session
from lightning_sfl.link.codecs import Draw, Form
from lightning_sfl.link.coding import Coding
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import Message, MessageKind


def client_sessions(log: MessageLog, records: RecordsAt, background: Background) -> OpenSession:
    """Sessions with copies of a log's clients.

    A copy goes through the batches that its client sent in the log, in their order, with the codecs of the messages
    under attack; dropout is off (:class:`attacks.program.Program`). The truth beside the log is read when a session is
    opened, and not before.

    Args:
        log: The messages of the run.
        records: Gives true records by their places in the training set.
        background: What there is to know of the run.
    """

    def opened(cut: str, numbers: Sequence[int]) -> Session:
        clients = _Clients(log, records, background, cut, numbers)
        # Functions and no object: there is no attribute that leads to the records.
        return Session(
            send=lambda: clients.send(),
            answer=lambda gradients: clients.answer(gradients),
            replay=lambda number: clients.replay(number),
            noticed=lambda: summary(clients.watches),
        )

    return opened


class _Clients:
    def __init__(
        self, log: MessageLog, records: RecordsAt, background: Background, cut: str, numbers: Sequence[int]
    ) -> None:
        if background.optimizer is None:
            raise UnavailableError("it needs clients that step, and how they step is not known.")
        self._records = records
        self._program = background.program(cut)
        self._image, _, _ = self._program.image_input(1)
        found = {m.number: m for m in log.messages(kinds=[MessageKind.SMASHED]) if m.cut == cut}
        if unknown := [number for number in numbers if number not in found]:
            raise ValueError(f"numbers={unknown} are not accepted: the log has no such smashed data at {cut!r}.")
        truth = log.truth()
        self._indices = {number: truth[number].indices for number in numbers if number in truth}
        clients = sorted({_client_of(found[number]) for number in self._indices})
        if not clients:
            raise UnavailableError("it needs clients that answer, and nothing says which records theirs are.")
        own = {client: [m.number for m in found.values() if m.client == client] for client in clients}
        self._turns = itertools.cycle(clients)
        self._passes = {
            client: itertools.cycle([truth[number].indices for number in own[client] if number in truth])
            for client in clients
        }
        newest = max((found[number] for number in self._indices), key=lambda message: message.step)
        weights = _in_force(log, newest, background)
        self._program.check(weights)
        trained = set(self._program.trainable(tuple(weights)))
        self._half = {name: tensor.detach().clone().requires_grad_(name in trained) for name, tensor in weights.items()}
        stepped = [self._half[name] for name in weights if name in trained]
        self._optimizers = {client: torch_optimizer(background.optimizer, stepped) for client in clients}
        self._up = newest.codings
        downs = log.messages(kinds=[MessageKind.CUT_GRADIENT], client=newest.client)
        self._down = next((m.codings for m in downs if m.cut == cut and m.step == newest.step), {})
        self.watches = {client: Watch(seed=client) for client in clients}
        self._sent: tuple[int, tuple[Tensor, ...]] | None = None
        self._steps = 0

    def send(self) -> Sent:
        client = next(self._turns)
        own = self._records(next(self._passes[client]))
        smashed = self._program.smashed(self._half, {self._image: own.images_BCHW}, {})
        self._sent = client, smashed
        self._steps += 1
        known = {}
        if own.labels_B is not None:
            known[self._program.label_input()] = self.watches[client].labels_to_send(own.labels_B)
        crossed = _over(self._up, tuple(tensor.detach() for tensor in smashed), self._steps)
        return Sent(client=client, smashed=crossed, known=known)

    def answer(self, gradients: Sequence[Tensor]) -> None:
        if self._sent is None:
            raise ValueError("An answer to nothing is not accepted: a client must have sent a batch that waits for it.")
        client, smashed = self._sent
        shapes = [tuple(tensor.shape) for tensor in smashed]
        if [tuple(gradient.shape) for gradient in gradients] != shapes:
            given = [tuple(gradient.shape) for gradient in gradients]
            raise ValueError(f"gradients of shapes {given} are not accepted: what was sent has {shapes}.")
        self._sent = None
        arrived = _over(self._down, tuple(gradient.detach() for gradient in gradients), self._steps)
        if self.watches[client].saw(torch.cat([gradient.flatten(1).double() for gradient in arrived], dim=1)):
            return  # a client does not learn from labels that it made up
        optimizer = self._optimizers[client]
        optimizer.zero_grad()
        differentiable = [(one, g) for one, g in zip(smashed, arrived, strict=True) if one.requires_grad]
        torch.autograd.backward([one for one, _ in differentiable], [g.to(one) for one, g in differentiable])
        optimizer.step()

    def replay(self, number: int) -> tuple[Tensor, ...]:
        if number not in self._indices:
            raise ValueError(f"number={number} is not accepted: the messages under attack are {list(self._indices)}.")
        own = self._records(self._indices[number])
        with torch.no_grad():
            smashed = self._program.smashed(self._half, {self._image: own.images_BCHW}, {})
        return _over(self._up, smashed, number)


def torch_optimizer(rule: LocalOptimizer, parameters: Sequence[Tensor]) -> Optimizer:
    """An optimizer that steps as clients do; of Adam and AdamW, β2 and eps are torch's own, since no step is read."""
    if rule.rule is Rule.SGD:
        return SGD(
            parameters,
            lr=rule.learning_rate,
            momentum=rule.momentum,
            dampening=rule.dampening,
            nesterov=rule.nesterov,
            weight_decay=rule.weight_decay,
        )
    kind = Adam if rule.rule is Rule.ADAM else AdamW
    return kind(parameters, lr=rule.learning_rate, betas=(rule.momentum, 0.999), weight_decay=rule.weight_decay)


def _client_of(message: Message) -> int:
    """Whose message it is; smashed data are always a client's."""
    assert message.client is not None
    return message.client


def _in_force(log: MessageLog, newest: Message, background: Background) -> Mapping[str, Tensor]:
    """The half that the newest message's client was sent for that round; that of the newest step if none ever is."""
    for message in log.messages(kinds=[MessageKind.BROADCAST], client=newest.client):
        if message.round == newest.round and message.cut == newest.cut:
            return message.decoded()
    weights, split = background.client_weights, background.program(newest.cut).split
    if weights is None or split is None:
        raise UnavailableError("it needs the half that clients began with, and no broadcast says so.")
    held = {*split.client_parameters, *split.client_buffers}
    return {name: tensor for name, tensor in weights.items() if name in held}


def _over(codings: Mapping[str, Coding], tensors: tuple[Tensor, ...], step: int) -> tuple[Tensor, ...]:
    """What arrives of tensors that cross with these codings."""
    if not codings:
        return tensors
    draw = Draw(0, "session", (step,))
    return tuple(
        coding.chain.decode(coding.chain.encode(tensor, draw.at(place)), Form.of(tensor))
        for place, (coding, tensor) in enumerate(zip(codings.values(), tensors, strict=True))
    )
