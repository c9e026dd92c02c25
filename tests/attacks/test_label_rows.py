import math

import pytest
import torch
from attack_cases import HandMadeLog, PoisonedLog, attacker_of, threat_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from attacks.attacker import Attacker, Background, UnavailableError
from attacks.images import ImageSpace
from attacks.labels.label_attack import LabelAttack
from attacks.labels.rows import OF_GRADIENTS, gradient_rows, joined, references, smashed_rows
from attacks.registry import ATTACKS, make_attack
from attacks.threat import Knowledge
from lightning_sfl.link.message import MessageKind

BOTH = (MessageKind.CUT_GRADIENT, MessageKind.OUTPUT_GRADIENT)


def sent(log: HandMadeLog, tensor: Tensor, kind=MessageKind.CUT_GRADIENT, *, client=0, step=0, **settings) -> int:
    return log.add(kind, {"0": tensor}, client=client, round=step, step=step, **settings)


def reader(log: HandMadeLog, records: int = 1000) -> Attacker:
    return attacker_of(log, OF_GRADIENTS, records=records)


@given(records=st.integers(1, 6))
def test_rows_are_the_records_own_gradients(records):
    """What crosses is the gradient of the mean over the batch: 1/B of each record's own, which comes back."""
    draw = torch.Generator().manual_seed(records)
    smashed = torch.randn(records, 3, 2, generator=draw, dtype=torch.float64).requires_grad_()
    labels = torch.randint(2, (records,), generator=draw).double()
    log = PoisonedLog()
    mean = binary_cross_entropy_with_logits(smashed.sum((1, 2)), labels)
    sent(log, torch.autograd.grad(mean, [smashed])[0])

    (found,) = gradient_rows(reader(log))

    alone = binary_cross_entropy_with_logits(smashed.sum((1, 2)), labels, reduction="sum")
    expected = torch.autograd.grad(alone, [smashed])[0].flatten(1)
    torch.testing.assert_close(found.rows_BD, expected, rtol=1e-12, atol=0)


def test_the_newest_batch_of_every_client_is_read_and_never_the_best():
    """Nothing is kept because it suits: SecretFlow's norm attack reports the largest AUC over the epochs."""
    log = PoisonedLog()
    for step in range(3):
        for client in (1, 0):
            sent(log, torch.full((2, 1), 10.0 * client + step), client=client, step=step)

    found = gradient_rows(reader(log))

    assert [(rows.client, rows.step) for rows in found] == [(0, 2), (1, 2)]
    assert [rows.rows_BD[0, 0].item() / 2 for rows in found] == [2, 12]


@pytest.mark.parametrize(("records", "batches"), [(1, 1), (4, 1), (5, 2), (100, 3)])
def test_whole_batches_are_read_until_there_are_enough_records(records, batches):
    log = PoisonedLog()
    for client in range(3):
        sent(log, torch.ones(4, 2), client=client)

    assert len(gradient_rows(reader(log, records))) == batches


def test_in_a_u_shape_the_gradients_that_clients_send_are_read():
    log = PoisonedLog()
    sent(log, torch.zeros(2, 1), MessageKind.SMASHED)
    number = sent(log, torch.ones(2, 3), MessageKind.OUTPUT_GRADIENT, cut="head")
    sent(log, torch.ones(2, 1))

    (found,) = gradient_rows(reader(log))

    assert found.number == number
    assert found.rows_BD.shape == (2, 3)


def test_what_crosses_for_all_records_at_once_is_left_out():
    log = PoisonedLog()
    log.add(MessageKind.SMASHED, {"0": torch.ones(1, 7), "1": torch.ones(4, 2)}, client=0, round=0, step=0)

    (found,) = smashed_rows(attacker_of(log, threat_model(MessageKind.SMASHED)))

    assert found.rows_BD.shape == (4, 2)


def test_a_client_that_diverged_says_nothing():
    log = PoisonedLog()
    sent(log, torch.tensor([[math.nan, 1.0], [math.inf, 2.0]]))

    (found,) = gradient_rows(reader(log))

    assert found.rows_BD.tolist() == [[0, 2], [0, 4]]


def test_half_precision_is_read_in_double():
    log = PoisonedLog()
    sent(log, torch.full((2, 1), 0.5, dtype=torch.bfloat16))

    assert gradient_rows(reader(log))[0].rows_BD.dtype == torch.float64


def test_without_gradients_the_attack_is_unavailable():
    with pytest.raises(UnavailableError, match="no gradient"):
        gradient_rows(reader(PoisonedLog()))
    with pytest.raises(UnavailableError, match="no smashed data"):
        smashed_rows(attacker_of(PoisonedLog(), threat_model(MessageKind.SMASHED)))


def test_records_of_different_lengths_cannot_be_compared():
    log = PoisonedLog()
    sent(log, torch.ones(2, 3), client=0)
    sent(log, torch.ones(2, 4), client=1)

    with pytest.raises(UnavailableError, match=r"\[3, 4\]"):
        joined(gradient_rows(reader(log)))


@pytest.mark.parametrize(
    ("labels", "said"), [({(0, 0): 3}, "all of one class"), ({(0, 0): 3, (0, 1): 4}, "the only one of its class")]
)
def test_nothing_to_tell_apart_is_unavailable(labels, said):
    """Two records: of one class, or each the only one of its own."""
    log = HandMadeLog()
    sent(log, torch.ones(2, 3))
    knows = threat_model(*BOTH, knows=[Knowledge.KNOWN_LABELS])

    def no_program(cut):
        raise AssertionError

    background = Background(
        program=no_program, space=ImageSpace(shape_CHW=(1, 2, 2)), known_labels=lambda numbers: labels
    )
    attacker = attacker_of(log, knows, background)

    with pytest.raises(UnavailableError, match=said):
        references(attacker, gradient_rows(attacker))


def test_no_attack_on_labels_reads_messages_of_labels():
    attacks = [attack for attack in map(make_attack, ATTACKS) if isinstance(attack, LabelAttack)]

    assert len(attacks) == 6
    assert not [attack.name for attack in attacks if {MessageKind.LABEL, MessageKind.INPUT} & attack.needs.sees]
