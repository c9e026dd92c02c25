import copy
import dataclasses

import pytest
import torch
from attack_cases import (
    HandMadeLog,
    PoisonedLog,
    attacker_of,
    background_of,
    noise_images,
    threat_model,
    two_halves,
    weights_of,
)
from torch import nn

from attacks.attacker import Attacker, Records, UnavailableError, UndeclaredError
from attacks.local_optimizer import LocalOptimizer, Rule
from attacks.threat import MALICIOUS_SERVER, Knowledge
from lightning_sfl.algorithms import HOSFL
from lightning_sfl.link.codecs import Chain, NearestUniform
from lightning_sfl.link.link import LocalLink
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind

IMAGES = noise_images(4)
HANDED_OVER = {
    Knowledge.ARCHITECTURE: lambda attacker: attacker.program,
    Knowledge.INPUT_RANGE: lambda attacker: attacker.space,
    Knowledge.CLIENT_WEIGHTS: lambda attacker: attacker.latest_client_weights,
    Knowledge.SERVER_WEIGHTS: lambda attacker: attacker.server_weights,
    Knowledge.AUXILIARY_RECORDS: lambda attacker: attacker.auxiliary,
    Knowledge.OUTSIDE_RECORDS: lambda attacker: attacker.outside,
    Knowledge.QUERIES: lambda attacker: attacker.query(0, 0, 0),
    Knowledge.LOCAL_HYPERPARAMETERS: lambda attacker: attacker.optimizer,
    Knowledge.BATCH_SIZES: lambda attacker: attacker.batch_sizes(1, 2),
    Knowledge.BATCH_STATISTICS: lambda attacker: attacker.normalisations,
    Knowledge.KNOWN_LABELS: lambda attacker: attacker.known_labels([0]),
    Knowledge.CANDIDATES: lambda attacker: attacker.candidates(0),
}
"""How each is asked for. Batch statistics come with the messages they are read off."""


def victim():
    """A client's half with weights, buffers and a frozen layer, and a server's half with buffers."""
    torch.manual_seed(0)
    front = nn.Sequential(nn.Conv2d(3, 3, 1).requires_grad_(requires_grad=False), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))
    module = two_halves(front, IMAGES)
    module.head = nn.Sequential(nn.BatchNorm2d(2), module.head)
    return module


class NoPool:
    def records(self, round):
        return Records(images_BCHW=IMAGES[round : round + 1])

    def places(self, round, indices):
        raise AssertionError


def everything(module, **changed):
    known = {
        "auxiliary": Records(images_BCHW=IMAGES[:1]),
        "outside": Records(images_BCHW=IMAGES[1:2]),
        "server_weights": module.state_dict(),
        "client_weights": module.state_dict(),
        "optimizer": LocalOptimizer(rule=Rule.SGD, learning_rate=0.1),
        "batch_sizes": lambda client, round: (10 * client, round),
        "known_labels": lambda numbers: {(numbers[0], 3): 7},
        "probing": HOSFL(),
        "candidates": NoPool(),
    }
    return background_of(module, IMAGES, **known | changed)


@pytest.fixture
def log():
    """One message of every kind from each of two clients, at two cuts and at none, a step at each."""
    log = PoisonedLog()
    for client in (0, 1):
        for step, cut in enumerate(("front", "head", None)):
            for kind in MessageKind:
                log.add(kind, {"0": torch.tensor([float(client)])}, client=client, round=0, step=step, cut=cut)
    return log


# Messages


@pytest.mark.parametrize("kind", MessageKind)
def test_a_declared_kind_is_handed_over_in_the_order_sent(log, kind):
    attacker = attacker_of(log, threat_model(kind))

    seen = list(attacker.messages(kind))

    assert attacker.sees(kind)
    assert [message.kind for message in seen] == [kind] * 2
    assert [message.client for message in seen] == [0, 1]
    assert [message.tensors["0"].item() for message in seen] == [0, 1]


@pytest.mark.parametrize("kind", MessageKind)
def test_an_undeclared_kind_is_refused_by_name_at_once(log, kind):
    others = [other for other in MessageKind if other is not kind]
    attacker = attacker_of(log, threat_model(*others, knows=Knowledge))

    with pytest.raises(UndeclaredError, match=rf"kind='{kind.value}': the threat model 'listener' sees .* only"):
        attacker.messages(kind)  # not read yet
    assert not attacker.sees(kind)


def test_who_sees_nothing_is_told_so(log):
    with pytest.raises(UndeclaredError, match="'listener' sees nothing only"):
        attacker_of(log, threat_model()).messages(MessageKind.SMASHED)


def test_messages_of_one_client_alone_can_be_asked_for(log):
    seen = list(attacker_of(log).messages(MessageKind.SMASHED, client=1))

    assert [message.client for message in seen] == [1]


@pytest.mark.parametrize("cut", ["front", "head", None, "elsewhere"])
def test_only_messages_of_the_attackers_cut_are_handed_over(log, cut):
    attacker = attacker_of(log, cut=cut)

    for kind in MessageKind:
        assert [message.cut for message in attacker.messages(kind)] == ([] if cut == "elsewhere" else [cut] * 2)


# Knowledge


@pytest.mark.parametrize("fact", HANDED_OVER)
def test_undeclared_knowledge_is_refused_by_name_even_where_it_is_there(log, fact):
    others = [other for other in Knowledge if other is not fact]
    attacker = attacker_of(log, threat_model(*MessageKind, knows=others), everything(victim()))

    with pytest.raises(UndeclaredError, match=rf"knowledge='{fact.value}': the threat model 'listener' knows .* only"):
        HANDED_OVER[fact](attacker)
    assert not attacker.knows(fact)


def test_who_knows_nothing_is_told_so(log):
    with pytest.raises(UndeclaredError, match="'listener' knows nothing only"):
        _ = attacker_of(log, threat_model(*MessageKind)).space


@pytest.mark.parametrize("fact", HANDED_OVER)
def test_declared_knowledge_is_handed_over_and_nothing_else(fact):
    """To answer a query, weights of a broadcast are used that the attacker itself need not see."""
    module = victim()
    log = HandMadeLog()
    log.add(MessageKind.BROADCAST, weights_of(module), client=0, round=0, step=0)

    attacker = attacker_of(log, threat_model(knows=[fact]), everything(module))

    assert attacker.knows(fact)
    assert HANDED_OVER[fact](attacker) is not None
    for other in set(HANDED_OVER) - {fact}:
        with pytest.raises(UndeclaredError):
            HANDED_OVER[other](attacker)


def test_what_is_handed_over_is_what_there_is_to_know(log):
    module = victim()
    background = everything(module)
    attacker = attacker_of(log, background=background)

    assert attacker.space == background.space
    assert attacker.auxiliary is background.auxiliary
    assert attacker.outside is background.outside
    assert attacker.optimizer is background.optimizer
    assert attacker.batch_sizes(3, 7) == (30, 7)
    assert attacker.known_labels([5, 6]) == {(5, 3): 7}
    assert attacker.probing is background.probing
    assert torch.equal(attacker.candidates(2).images_BCHW, IMAGES[2:3])
    assert attacker.program.split.cut == "front"
    assert attacker_of(log, background=background, cut=None).program.split is None


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("auxiliary", Knowledge.AUXILIARY_RECORDS),
        ("outside", Knowledge.OUTSIDE_RECORDS),
        ("server_weights", Knowledge.SERVER_WEIGHTS),
        ("client_weights", Knowledge.CLIENT_WEIGHTS),
        ("optimizer", Knowledge.LOCAL_HYPERPARAMETERS),
        ("batch_sizes", Knowledge.BATCH_SIZES),
        ("known_labels", Knowledge.KNOWN_LABELS),
        ("candidates", Knowledge.CANDIDATES),
    ],
)
def test_what_is_not_there_is_named(log, name, fact):
    attacker = attacker_of(log, background=everything(victim(), **{name: None}))

    with pytest.raises(UnavailableError, match=f"it needs {fact.value}"):
        HANDED_OVER[fact](attacker)


def test_the_halves_weights_are_handed_over_apart(log):
    """Conv, conv, batch normalisation before the cut; batch normalisation and a linear layer behind it."""
    module = victim()
    attacker = attacker_of(log, background=everything(module))

    client, server = attacker.latest_client_weights, attacker.server_weights

    assert not client.keys() & server.keys()
    assert client.keys() | server.keys() == module.state_dict().keys()
    assert client.keys() == weights_of(module).keys()
    for found in (client, server):
        assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in found.items())


def test_where_clients_hold_the_whole_model_there_is_no_servers_half(log):
    module = victim()
    attacker = attacker_of(log, background=everything(module), cut=None)

    assert attacker.server_weights == {}
    assert attacker.latest_client_weights.keys() == module.state_dict().keys()


def test_known_labels_are_handed_out_once():
    """Message by message, an attack would come to one record of each class of each of them."""
    attacker = attacker_of(PoisonedLog(), background=everything(victim()))
    assert attacker.told == {}

    attacker.known_labels([5, 6])

    assert attacker.told == {(5, 3): 7}
    with pytest.raises(UndeclaredError, match=r"numbers=\(8,\).*once"):
        attacker.known_labels([8])


# Queries


def asked(log: MessageLog, module, *, client=0, round=0, number=0, **changed):
    attacker = attacker_of(log, threat_model(knows=[Knowledge.QUERIES]), everything(module, **changed))
    return attacker.query(client, round, number)(IMAGES)


def test_a_query_is_answered_with_the_weights_of_that_client_and_round():
    module = victim()
    log, expected = HandMadeLog(), {}
    for round in (0, 1):
        for client in (0, 1):
            own = copy.deepcopy(module)
            own.front[1].bias.data += client + 10 * round
            log.add(MessageKind.BROADCAST, weights_of(own), client=client, round=round, step=round)
            log.add(MessageKind.BROADCAST, {}, client=client, round=round, step=round, cut="head")
            expected[client, round] = copy.deepcopy(own.front).train()(IMAGES)

    for (client, round), smashed in expected.items():
        (answer,) = asked(log, module, client=client, round=round)
        assert torch.allclose(answer, smashed, atol=1e-6)
        assert not answer.requires_grad


def test_a_query_goes_through_the_codecs_that_the_message_went_through():
    """One bit leaves two values."""

    class OneBit:
        seed = 0

        def chain(self, kind, client, round):
            return Chain((NearestUniform(bits=1),) if kind is MessageKind.SMASHED else ())

    module, log = victim(), MessageLog()
    link, place = LocalLink(log, OneBit()), {"round": 0, "step": 0, "cut": "front"}
    link.send(MessageKind.BROADCAST, sender="fed_server", receiver="client/0", tensors=weights_of(module), **place)
    link.send(MessageKind.SMASHED, sender="client/0", receiver="server", tensors={"0": module.front(IMAGES)}, **place)

    (plain,) = asked(log, module, number=0)
    (encoded,) = asked(log, module, number=1)

    assert len(encoded.unique()) == 2 < len(plain.unique())
    assert encoded.shape == plain.shape


def test_a_query_without_a_broadcast_is_answered_with_the_newest_weights_or_refused():
    module = victim()
    front = copy.deepcopy(module.front).train()

    (answer,) = asked(HandMadeLog(), module)

    assert torch.allclose(answer, front(IMAGES), atol=1e-6)
    with pytest.raises(UnavailableError, match="needs queries, and no weights are known"):
        asked(HandMadeLog(), module, client_weights=None)


# The truth


def test_there_is_no_way_to_the_truth(log):
    """An attacker shows no log, and what it shows reads no truth: the log raises if anybody does."""
    attacker = attacker_of(log, MALICIOUS_SERVER, everything(victim()))

    shown = [name for name in dir(attacker) if not name.startswith("_")]

    for name in shown:
        assert not isinstance(getattr(attacker, name), MessageLog)
    for kind in MessageKind:
        for message in attacker.messages(kind):
            assert {field.name for field in dataclasses.fields(message)}.isdisjoint({"origin", "indices", "truth"})
    assert set(shown) == {
        *("messages", "sees", "knows", "threat", "cut", "records", "program", "space", "auxiliary", "outside"),
        *("auxiliary_unit", "program_at", "normalisations", "server_weights", "latest_client_weights", "optimizer"),
        *("batch_sizes", "query", "session"),
        *("known_labels", "told", "client_weights_step", "probing", "candidates"),
    }
    assert isinstance(attacker, Attacker)
