import pytest
import torch
from attack_cases import HandMadeLog, PoisonedLog, attacker_of, background_of, noise_images, threat_model, two_halves
from torch import nn

from attacks.attacker import UnavailableError
from attacks.observation import Observation, last_observations
from attacks.threat import FED_SERVER, SPLIT_SERVER, Knowledge, ThreatModel
from lightning_sfl.link.codecs import Chain, NearestUniform
from lightning_sfl.link.link import LocalLink
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind

SEES_ALL = threat_model(*MessageKind, knows=[Knowledge.CLIENT_WEIGHTS])
BLIND_TO_WEIGHTS = threat_model(MessageKind.SMASHED, MessageKind.LABEL, MessageKind.CUT_GRADIENT)

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
                gradient = torch.full((4, 2), -value(client, round, step))
                log.add(MessageKind.CUT_GRADIENT, {"0": gradient}, **place)
        for client in clients:
            update = {"front.weight": torch.full((2,), -1.0)}
            log.add(MessageKind.CLIENT_UPDATE, update, client=client, round=round, step=steps[-1])
    return log


def seen_in(log: MessageLog, threat: ThreatModel = SEES_ALL, records: int = 1000) -> list[Observation]:
    return last_observations(attacker_of(log, threat, records=records))


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


@pytest.mark.parametrize("kinds", [(), (MessageKind.BROADCAST,)])
def test_a_log_without_smashed_data_is_refused(kinds):
    log = HandMadeLog()
    for kind in kinds:
        log.add(kind, {"0": torch.zeros(2, 2)}, client=0, round=0, step=0)

    with pytest.raises(UnavailableError, match="no smashed data that follow a broadcast"):
        seen_in(log)
    with pytest.raises(UnavailableError, match=r"no smashed data\.$"):
        seen_in(log, BLIND_TO_WEIGHTS)


def test_smashed_data_of_clients_without_a_broadcast_are_refused_where_others_have_one():
    log = HandMadeLog()
    log.add(MessageKind.BROADCAST, {"0": torch.zeros(2)}, client=1, round=0, step=0)
    log.add(MessageKind.SMASHED, {"0": torch.zeros(2, 2)}, client=0, round=0, step=0)

    with pytest.raises(UnavailableError, match="no smashed data that follow a broadcast"):
        seen_in(log)


# Who does not know the clients' weights


def test_without_the_weights_the_newest_batch_of_all_is_taken():
    """The second step of a client's last round; its weights are anybody's guess, and no broadcast is read."""
    found = seen_in(fill(HandMadeLog()), BLIND_TO_WEIGHTS)

    assert [(seen.client, seen.round, seen.step) for seen in found] == [(0, 2, 5), (1, 1, 3), (2, 0, 1)]
    for seen in found:
        assert seen.weights == {}
        assert seen.known["1"].tolist() == [seen.step, seen.client]
        assert torch.equal(seen.smashed[0], torch.full((4, 2), value(seen.client, seen.round, seen.step)))


def test_what_no_broadcast_preceded_is_taken_without_the_weights():
    log = fill(HandMadeLog())
    log.add(MessageKind.SMASHED, {"0": torch.zeros(4, 2)}, client=1, round=7, step=14)

    assert [(seen.client, seen.round) for seen in seen_in(log, SPLIT_SERVER)] == [(0, 2), (1, 7), (2, 0)]


# Weights that are never broadcast


def test_without_broadcasts_the_newest_step_is_taken_with_the_weights_that_are_known():
    """Clients that draw their updates from seeds: all have the weights of the newest step; client 2 was not in it."""
    images = noise_images(2)
    module = two_halves(nn.Conv2d(3, 2, 1), images)
    log = HandMadeLog()
    for step in range(3):
        for client in (0, 1, 2) if step < 2 else (0, 1):
            log.add(
                MessageKind.SMASHED,
                {"0": torch.full((4, 2), value(client, 0, step))},
                client=client,
                round=0,
                step=step,
            )
    known = background_of(module, images, client_weights=module.state_dict())

    found = last_observations(attacker_of(log, SEES_ALL, known))

    assert [(seen.client, seen.step) for seen in found] == [(0, 2), (1, 2)]
    for seen in found:
        assert list(seen.weights) == ["front.weight", "front.bias"]
        assert torch.equal(seen.weights["front.bias"], module.front.bias)


def test_without_broadcasts_and_weights_it_is_said_what_is_missing():
    log = HandMadeLog()
    log.add(MessageKind.SMASHED, {"0": torch.zeros(4, 2)}, client=0, round=0, step=0)

    with pytest.raises(UnavailableError, match="it needs client_weights"):
        seen_in(log)


# What crossed beside


def test_cut_gradients_stand_beside_what_they_are_of():
    """The second crossing tensor has none."""
    for seen in seen_in(fill(HandMadeLog())):
        gradient, none = seen.cut_gradients
        assert torch.equal(gradient, -seen.smashed[0])
        assert none is None


@pytest.mark.parametrize("kind", [MessageKind.LABEL, MessageKind.MASK, MessageKind.CUT_GRADIENT])
def test_what_is_not_declared_does_not_come_along(kind):
    threat = threat_model(*(other for other in MessageKind if other is not kind), knows=[Knowledge.CLIENT_WEIGHTS])

    for seen in seen_in(fill(HandMadeLog()), threat):
        expected = {MessageKind.LABEL: "1", MessageKind.MASK: "mask"}
        assert sorted(seen.known) == [name for other, name in expected.items() if other is not kind]
        assert (seen.cut_gradients == (None, None)) == (kind is MessageKind.CUT_GRADIENT)


def test_inputs_that_may_cross_come_along():
    log = fill(HandMadeLog())
    log.add(MessageKind.INPUT, {"2": torch.tensor([7.0])}, client=0, round=2, step=4)

    assert [sorted(seen.known) for seen in seen_in(log)] == [["1", "2", "mask"], ["1", "mask"], ["1", "mask"]]


def test_the_fed_server_sees_no_smashed_data():
    with pytest.raises(ValueError, match=r"kind='smashed': the threat model 'fed server'"):
        seen_in(fill(HandMadeLog()), FED_SERVER)


# How much is attacked


@pytest.mark.parametrize(("records", "clients"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (1000, 3)])
def test_whole_batches_are_taken_until_there_are_enough_records(records, clients):
    """Three clients with 4 records each."""
    assert [seen.client for seen in seen_in(fill(HandMadeLog()), records=records)] == list(range(clients))


def test_messages_of_another_cut_are_passed_over():
    log = fill(HandMadeLog())
    for kind in (MessageKind.BROADCAST, MessageKind.SMASHED):
        log.add(kind, {"0": torch.zeros(4, 2)}, client=0, round=9, step=99, cut="elsewhere")

    assert [(seen.client, seen.round) for seen in seen_in(log)] == [(0, 2), (1, 1), (2, 0)]
    assert [(seen.client, seen.round) for seen in seen_in(log, BLIND_TO_WEIGHTS)] == [(0, 2), (1, 1), (2, 0)]


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
