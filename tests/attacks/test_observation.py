import pytest
import torch
from attack_cases import HandMadeLog, PoisonedLog

from attacks.activation_inversion import ActivationInversion
from attacks.observation import Observation, last_observations
from attacks.threat import AttackerView
from lightning_sfl.link.codecs import Chain, NearestUniform
from lightning_sfl.link.link import LocalLink
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind

CLIENTS_LAST_ROUND = {0: 2, 1: 1, 2: 0}


def value(client: int, round: int, step: int) -> float:
    return 100.0 * client + 10 * round + step


def fill(log: HandMadeLog) -> HandMadeLog:
    """Three rounds of two steps; client 0 is in all of them, client 1 in the first two, client 2 in the first."""
    for round in range(3):
        clients = [client for client, last in CLIENTS_LAST_ROUND.items() if round <= last]
        steps = (2 * round, 2 * round + 1)
        for client in clients:
            weights = {"front.weight": torch.full((2,), value(client, round, 0))}
            log.add(MessageKind.BROADCAST, weights, client=client, round=round, step=steps[0])
        for step in steps:
            for client in clients:
                place = {"client": client, "round": round, "step": step, "indices": (step, client)}
                log.add(MessageKind.LABEL, {"1": torch.tensor([step, client])}, **place)
                log.add(MessageKind.MASK, {"mask": torch.tensor([step + 0.5])}, **place)
                smashed = {"0": torch.full((4, 2), value(client, round, step)), "1": torch.ones(4, 3)}
                log.add(MessageKind.SMASHED, smashed, **place)
                log.add(MessageKind.CUT_GRADIENT, {"0": torch.zeros(4, 2)}, **place)
        for client in clients:
            update = {"front.weight": torch.full((2,), -1.0)}
            log.add(MessageKind.CLIENT_UPDATE, update, client=client, round=round, step=steps[-1])
    return log


def seen_in(log: MessageLog) -> list[Observation]:
    return last_observations(AttackerView(log, ActivationInversion.threat))


def test_every_client_is_seen_once_in_the_newest_round_it_took_part_in():
    found = seen_in(fill(HandMadeLog()))

    assert [(seen.client, seen.round) for seen in found] == [(0, 2), (1, 1), (2, 0)]


def test_the_first_batch_after_the_broadcast_is_taken_never_a_later_one():
    for seen in seen_in(fill(HandMadeLog())):
        assert seen.step == 2 * seen.round
        assert torch.equal(seen.smashed[0], torch.full((4, 2), value(seen.client, seen.round, seen.step)))


def test_the_weights_are_those_broadcast_for_that_round_not_an_update():
    for seen in seen_in(fill(HandMadeLog())):
        assert list(seen.weights) == ["front.weight"]
        assert torch.equal(seen.weights["front.weight"], torch.full((2,), value(seen.client, seen.round, 0)))


def test_labels_and_masks_of_the_same_batch_come_along():
    for seen in seen_in(fill(HandMadeLog())):
        assert sorted(seen.known) == ["1", "mask"]
        assert seen.known["1"].tolist() == [seen.step, seen.client]
        assert seen.known["mask"].tolist() == [seen.step + 0.5]


def test_all_crossing_tensors_are_kept_in_order():
    for seen in seen_in(fill(HandMadeLog())):
        assert [tuple(tensor.shape) for tensor in seen.smashed] == [(4, 2), (4, 3)]
        assert seen.records == 4
        assert seen.cut == "front"


def test_the_number_is_that_of_the_message_whose_truth_scores_it():
    log = fill(HandMadeLog())
    truth = log.truth()

    for seen in seen_in(log):
        assert truth[seen.number].client == seen.client
        assert truth[seen.number].indices == (seen.step, seen.client)


def test_a_round_without_a_broadcast_is_passed_over():
    """What a client sends without having received weights stems from weights that the server does not know."""
    log = fill(HandMadeLog())
    log.add(MessageKind.SMASHED, {"0": torch.zeros(4, 2)}, client=1, round=7, step=14)

    assert [(seen.client, seen.round) for seen in seen_in(log)] == [(0, 2), (1, 1), (2, 0)]


def test_a_broadcast_without_smashed_data_is_passed_over():
    log = fill(HandMadeLog())
    log.add(MessageKind.BROADCAST, {"front.weight": torch.zeros(2)}, client=1, round=7, step=14)

    assert [(seen.client, seen.round) for seen in seen_in(log)] == [(0, 2), (1, 1), (2, 0)]


def test_clients_come_in_ascending_order_whatever_the_order_of_messages():
    log = HandMadeLog()
    for client in (3, 0, 2):
        log.add(MessageKind.BROADCAST, {"front.weight": torch.zeros(1)}, client=client, round=0, step=0)
        log.add(MessageKind.SMASHED, {"0": torch.zeros(1, 1)}, client=client, round=0, step=0)

    assert [seen.client for seen in seen_in(log)] == [0, 2, 3]


@pytest.mark.parametrize("kinds", [(), (MessageKind.BROADCAST,), (MessageKind.SMASHED,)])
def test_nothing_is_seen_where_broadcast_or_smashed_data_are_missing(kinds):
    log = HandMadeLog()
    for kind in kinds:
        log.add(kind, {"0": torch.zeros(2, 2)}, client=0, round=0, step=0)

    assert seen_in(log) == []


def test_a_log_on_disk_shows_the_same(tmp_path):
    log = fill(HandMadeLog())
    log.save(tmp_path)

    found = seen_in(MessageLog.open(tmp_path))

    expected = seen_in(log)
    assert [(s.number, s.client, s.round, s.step, s.cut) for s in found] == [
        (s.number, s.client, s.round, s.step, s.cut) for s in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.smashed, other.smashed, strict=True))
        assert all(torch.equal(one.known[name], other.known[name]) for name in other.known)
        assert all(torch.equal(one.weights[name], other.weights[name]) for name in other.weights)


def test_the_truth_is_never_read():
    found = seen_in(fill(PoisonedLog()))

    assert len(found) == 3


def test_what_the_server_decodes_is_seen_not_what_was_encoded():
    """One bit: the least and the largest value of each tensor; what an attacker has is what the server has."""
    log = MessageLog()

    class OneBit:
        seed = 0

        def chain(self, kind, client, round):
            return Chain((NearestUniform(bits=1),) if kind is MessageKind.SMASHED else ())

    link = LocalLink(log, OneBit())
    place = {"round": 0, "step": 0, "cut": "front"}
    down, up = {"sender": "fed_server", "receiver": "client/0"}, {"sender": "client/0", "receiver": "server"}
    link.send(MessageKind.BROADCAST, **down, **place, tensors={"front.weight": torch.ones(2)})
    smashed = {"0": torch.tensor([[0.0, 0.4, 1.0], [0.6, 0.2, 0.9]]), "1": torch.tensor([[2.0], [3.0]])}
    received = link.send(MessageKind.SMASHED, **up, **place, tensors=smashed)

    (found,) = seen_in(log)
    assert [tensor.tolist() for tensor in found.smashed] == [[[0, 0, 1], [1, 0, 1]], [[2], [3]]]
    assert all(torch.equal(one, other) for one, other in zip(found.smashed, received.values(), strict=True))
    assert found.records == 2
