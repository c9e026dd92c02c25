"""Conversations with copies of clients: they do what the clients of the log did, and nothing leads to their records."""

import dataclasses

import pytest
import torch
from attack_cases import threat_model
from malicious_cases import clients_of, digits_run, malicious, newest_messages

from attacks.attacker import Attacker, UnavailableError, UndeclaredError
from attacks.audit.clients import client_sessions, torch_optimizer
from attacks.audit.settings import AuditSettings
from attacks.local_optimizer import LocalOptimizer
from attacks.malicious.hijack import FeatureSpaceHijack
from lightning_sfl.link.codecs import NearestUniform
from lightning_sfl.link.message import MessageKind


@pytest.fixture(scope="module")
def run():
    return digits_run(steps=2)


def test_whoever_does_not_deviate_has_no_session(run):
    needs = FeatureSpaceHijack.needs
    background = malicious(run)._background

    for threat, said in (
        (dataclasses.replace(needs, deviates=False), "does not deviate"),
        (dataclasses.replace(threat_model(MessageKind.SMASHED), deviates=True), "does not see cut_gradient, label"),
    ):
        with pytest.raises(UndeclaredError, match=said):
            Attacker(run.log, threat, background, cut="stem", records=8).session([0])


def test_without_somebody_to_play_the_clients_there_is_no_session(run):
    with pytest.raises(UnavailableError, match="clients that answer"):
        malicious(run, sessions=None).session([0])
    background = run.background(optimizer=None)
    with pytest.raises(UnavailableError, match="how they step is not known"):
        client_sessions(run.log, run.records, background)("stem", list(newest_messages(run).values()))


def test_before_the_first_answer_clients_send_what_they_sent_in_the_log(run):
    clients = clients_of(run)
    sent = {message.number: message.decoded()["0"] for message in run.log.messages(kinds=[MessageKind.SMASHED])}

    for number in newest_messages(run).values():
        (found,) = clients.replay(number)
        torch.testing.assert_close(found, sent[number])


def test_clients_come_in_turn_and_go_through_their_batches_over_and_over(run):
    clients = clients_of(run)
    sent = [clients.send() for _ in range(9)]

    assert [one.client for one in sent] == [0, 1, 2] * 3
    for turn in range(3):  # 2 batches each: the third pass begins anew, with the same half
        assert torch.equal(sent[turn].smashed[0], sent[6 + turn].smashed[0])
        assert not torch.equal(sent[turn].smashed[0], sent[3 + turn].smashed[0])


def unanswered_until(clients, run, *, fake: bool):
    """Have clients send until labels are false, or are not; what was sent then."""
    truth, batches = run.log.truth(), {}
    for message in run.log.messages(kinds=[MessageKind.SMASHED]):
        batches.setdefault(message.client, []).append(run.labels[list(truth[message.number].indices)])
    for turn in range(200):
        sent = clients.send()
        labels = batches[sent.client][turn // 3 % 2]
        if fake == bool((sent.known["1"] != labels).any()):
            return sent
    raise AssertionError


def test_a_client_steps_with_the_gradient_that_it_is_answered(run):
    """The first step of SGD from no momentum: θ' = θ - η·Jᵀg, done here by the program on its own."""
    clients, program = clients_of(run), run.program("stem")
    numbers = newest_messages(run)
    newest = max(m.round for m in run.log.messages())
    (weights,) = [m.decoded() for m in run.log.messages(kinds=[MessageKind.BROADCAST], client=0) if m.round == newest]
    own = {name: tensor.clone() for name, tensor in weights.items()}
    trained = [own[name].requires_grad_() for name in program.trainable(tuple(own))]
    sent = clients.send()
    assert sent.client == 0
    first = next(m for m in run.log.messages(kinds=[MessageKind.SMASHED], client=0))
    images = run.records(run.log.truth()[first.number].indices).images_BCHW
    gradient = torch.randn(sent.smashed[0].shape, generator=torch.Generator().manual_seed(0))
    program.smashed(own, {"0": images}, {})[0].backward(gradient)
    torch.optim.SGD(trained, lr=0.1, momentum=0.9).step()

    clients.answer([gradient])

    under_attack = run.records(run.log.truth()[numbers[2]].indices).images_BCHW
    with torch.no_grad():
        (wanted,) = program.smashed(own, {"0": under_attack}, {})
    torch.testing.assert_close(clients.replay(numbers[2])[0], wanted)


def test_clients_do_not_learn_from_labels_that_they_made_up(run):
    clients, number = clients_of(run), newest_messages(run)[0]
    before = clients.replay(number)[0]

    clients.answer([torch.ones_like(unanswered_until(clients, run, fake=True).smashed[0])])
    assert torch.equal(clients.replay(number)[0], before)

    clients.answer([torch.ones_like(unanswered_until(clients, run, fake=False).smashed[0]) * torch.rand(8, 1, 1, 1)])
    assert not torch.equal(clients.replay(number)[0], before)


def test_nothing_leads_to_the_records(run):
    """Public attributes of the session and of what it gives, to any depth, hold no tensor but what is sent."""
    clients = clients_of(run)
    sent = clients.send()
    allowed = {id(tensor) for tensor in (*sent.smashed, *sent.known.values())}
    seen: set[int] = set()

    def look(thing: object, depth: int) -> None:
        if id(thing) in seen or depth > 4:
            return
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            assert id(thing) in allowed
            assert thing.shape != (8, 1, 8, 8)
            assert thing.grad_fn is None  # a graph holds what it was computed from
            return
        for name in dir(thing):
            if not name.startswith("_") and not isinstance(thing, int | float | str | type):
                look(getattr(thing, name), depth + 1)
        if isinstance(thing, tuple | list):
            for part in thing:
                look(part, depth + 1)

    look(clients, 0)
    look(sent, 0)


def test_answers_that_fit_nothing_are_refused(run):
    clients = clients_of(run)
    with pytest.raises(ValueError, match="answer to nothing"):
        clients.answer([torch.zeros(8, 4, 8, 8)])
    sent = clients.send()
    with pytest.raises(ValueError, match=r"\(8, 4, 8, 7\).*\(8, 4, 8, 8\)"):
        clients.answer([torch.zeros(8, 4, 8, 7)])
    clients.answer([torch.zeros_like(sent.smashed[0])])
    with pytest.raises(ValueError, match="answer to nothing"):
        clients.answer([torch.zeros_like(sent.smashed[0])])


def test_messages_that_were_not_asked_for_are_not_replayed(run):
    with pytest.raises(ValueError, match="number=0 is not accepted"):
        clients_of(run).replay(0)
    with pytest.raises(ValueError, match=r"numbers=\[12345\]"):
        malicious(run).session([12345])


def test_what_clients_send_goes_through_the_codecs_of_the_log():
    run = digits_run(steps=1, codecs=[NearestUniform(bits=2)])
    clients = clients_of(run)

    assert clients.send().smashed[0].unique().numel() <= 4
    sent = {message.number: message.decoded()["0"] for message in run.log.messages(kinds=[MessageKind.SMASHED])}
    for number in newest_messages(run).values():
        torch.testing.assert_close(clients.replay(number)[0], sent[number])


@pytest.mark.parametrize(
    "kind",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, dampening=0.5),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.999), weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ],
)
def test_copies_step_as_the_clients_do(kind):
    one, other = (torch.linspace(-1, 1, 5).requires_grad_() for _ in range(2))
    theirs = kind([one])
    ours = torch_optimizer(LocalOptimizer.of(theirs), [other])

    for step in range(3):
        for tensor, optimizer in ((one, theirs), (other, ours)):
            tensor.grad = tensor.detach() ** 2 + step
            optimizer.step()

    assert torch.equal(one, other)


def test_a_hijack_leaves_run_log_and_random_state_as_they_were(run):
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    state, fingerprint = torch.get_rng_state(), run.log.fingerprint()
    quick = FeatureSpaceHijack(steps=4, pilot_steps=1, batch=8, width=4)

    run.audit(AuditSettings(attacks=(quick,), threat="malicious_server", records=24, pictures=1))

    assert torch.equal(torch.get_rng_state(), state)
    assert run.log.fingerprint() == fingerprint
    assert all(torch.equal(before[name], tensor) for name, tensor in run.model.state_dict().items())
