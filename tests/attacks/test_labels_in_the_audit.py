"""Attacks on labels as the audit runs and scores them."""

import dataclasses

import pytest
import torch
from attack_cases import HandMadeLog
from audited import Trained, train

from attacks.attack import GuessedLabels, ScoredLabels
from attacks.attacker import Attacker, Records, UndeclaredError
from attacks.audit.label_control import LABEL_CUT, LABELLED_RECORDS, label_control_run
from attacks.audit.score_labels import score_labels
from attacks.audit.score_order import score_order
from attacks.audit.settings import AuditSettings
from attacks.audit.truth import Truth, known_labels_of
from attacks.images import ImageSpace
from attacks.labels.direction import GradientDirection
from attacks.labels.label_attack import LabelAttack, LabelVictim
from attacks.reconstruction import unwatched
from attacks.registry import ATTACKS, make_attack
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind
from lightning_sfl.report.html_file import to_html
from lightning_sfl.report.json_file import to_json
from lightning_sfl.report.leakage import CutLeakage, Verdict
from lightning_sfl.report.report import Report, leakage_row

ON_LABELS = tuple(name for name in ATTACKS if isinstance(make_attack(name), LabelAttack))
SPACE = ImageSpace(shape_CHW=(1, 2, 2))
LABELS = torch.tensor([0, 0, 1, 0, 1, 1, 1, 0])
"""By place in the training set."""


def records(indices: tuple[int, ...]) -> Records:
    return Records(images_BCHW=torch.zeros(len(indices), 1, 2, 2), labels_B=LABELS[list(indices)])


def two_batches() -> HandMadeLog:
    """Records 0 to 3 of client 0 and 4 to 7 of client 1: one cut gradient each."""
    log = HandMadeLog()
    for client in (0, 1):
        own = range(4 * client, 4 * client + 4)
        log.add(MessageKind.CUT_GRADIENT, {"0": torch.ones(4, 2)}, client=client, round=0, step=0, indices=own)
    return log


# What is known


def test_the_first_record_of_every_class_is_known_and_no_other():
    """Classes are 0, 0, 1, 0 and 1, 1, 1, 0: the first zero and the first one of the messages that are asked for."""
    known = known_labels_of(two_batches(), records)

    assert known([0, 1]) == {(0, 0): 0, (0, 2): 1}
    assert known([1, 0]) == {(1, 0): 1, (1, 3): 0}
    assert known([1]) == {(1, 0): 1, (1, 3): 0}


def test_records_whose_classes_were_known_do_not_count():
    """Wrong for all records but the known ones 0 and 2, which would make it right for 2 of 8."""
    log = two_batches()
    known = {(0, 0): 0, (0, 2): 1}
    guessed = [GuessedLabels(number=n, labels_B=1 - LABELS[4 * n : 4 * n + 4], in_order=True) for n in (0, 1)]
    guessed[0].labels_B[[0, 2]] = LABELS[[0, 2]]

    found = score_labels(guessed, Truth(log, records), None, known, threshold=0.9)

    assert found.value.mean == 0
    assert found.value.records == 6
    everything = score_labels(guessed, Truth(log, records), None, {}, threshold=0.9)
    assert (everything.value.mean, everything.value.records) == (0.25, 8)


def test_a_batch_of_which_every_record_is_known_is_left_out():
    guessed = [GuessedLabels(number=n, labels_B=LABELS[4 * n : 4 * n + 4], in_order=True) for n in (0, 1)]

    found = score_labels(
        guessed, Truth(two_batches(), records), None, {(0, place): 0 for place in range(4)}, threshold=0.9
    )

    assert (found.value.records, found.value.clients, found.value.mean) == (4, 1, 1)


def test_scores_do_not_count_known_records_either():
    """Known records at the wrong end: without them classes are apart exactly."""
    log = two_batches()
    scores = LABELS.double()
    scores[[0, 2]] = torch.tensor([9.0, -9.0], dtype=torch.float64)
    scored = [ScoredLabels(number=n, scores_BK=scores[4 * n : 4 * n + 4, None], classes=(1,)) for n in (0, 1)]

    found = score_order(scored, Truth(log, records), {(0, 0): 0, (0, 2): 1}, threshold=0.9)

    assert (found.value.mean, found.value.records, found.value.clients) == (1, 6, 2)
    assert score_order(scored, Truth(log, records), {}, threshold=0.9).value.mean < 1


def test_scores_are_scored_by_area_chance_and_the_worst_client():
    """Client 0 has classes 0, 0, 1, 0 scored 0, 1, 2, 3: of 3 pairs 2 are in order. Client 1 has classes 1, 1, 1, 0
    scored 4, 4, 4, -1: all 3 are. Together 4 ones and 4 zeros: 2 beats 0, 1 and -1, and each 4 beats all 4 zeros, which
    is 15 of 16 pairs.

    Beyond at least nine in ten are the three 4s (1) and the zeros 0, 1 and -1 of the other column, which has none.
    """
    scores = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0, -1.0])
    scored = [ScoredLabels(number=n, scores_BK=scores[4 * n : 4 * n + 4, None], classes=(1,)) for n in (0, 1)]

    found = score_order(scored, Truth(two_batches(), records), {}, threshold=0.9)

    assert found.recovers == "labels"
    assert found.value.mean == pytest.approx(15 / 16)
    assert found.worst_record == 1
    assert found.share_recovered == 3 / 8
    assert [(guess.name, guess.value.mean) for guess in found.baselines] == [("labels dealt out at random", 0.5)]
    assert found.gain.interval.mean == pytest.approx(7 / 16)
    assert found.gain.interval.clients == 2
    # Of 70 ways to deal out four ones, two reach 15 of 16: the three 4s with the 2, and with the 3.
    assert found.gain.p_value == pytest.approx(2 / 70, abs=0.012)


def test_records_of_one_class_show_nothing():
    scored = [ScoredLabels(number=0, scores_BK=torch.arange(4.0)[:, None], classes=(1,))]

    def alike(indices: tuple[int, ...]) -> Records:
        return dataclasses.replace(records(indices), labels_B=torch.ones(len(indices), dtype=torch.int64))

    found = score_order(scored, Truth(two_batches(), alike), {}, threshold=0.9)

    assert (found.value.mean, found.gain.p_value, found.gain.interval.low) == (0.5, 1, 0)


# Controls


@pytest.mark.parametrize("name", ON_LABELS)
@pytest.mark.parametrize(("low", "high", "size"), [(0.0, 1.0, 8), (-2.1, 2.6, 32)])
def test_every_attack_on_labels_is_exact_on_its_control(name, low, high, size):
    """By construction: see the victims. All but the known records' labels are told apart, in any range of pixels."""
    attack = make_attack(name)
    space = ImageSpace(shape_CHW=(3, size, size), low=(low,), high=(high,))
    log, background, own = label_control_run(space, attack.victim)
    attacker = Attacker(log, attack.needs, background, cut=LABEL_CUT, records=LABELLED_RECORDS)

    findings = attack.run(attacker, unwatched)

    truth = Truth(log, own)
    if isinstance(findings.batches[0], ScoredLabels):
        score = score_order(findings.batches, truth, attacker.told, threshold=0.9)
    else:
        score = score_labels(findings.batches, truth, background.auxiliary, attacker.told, threshold=0.9)
    assert score.value.mean == pytest.approx(1, abs=1e-12)
    assert score.value.records == LABELLED_RECORDS - len(attacker.told)


def test_the_controls_are_the_victims_that_they_are_said_to_be():
    """One logit crosses behind as many numbers as pixels; two logits cross themselves."""
    widths = {}
    for victim in LabelVictim:
        log, _, _ = label_control_run(SPACE, victim)
        (tensor,) = next(iter(log.messages(kinds=[MessageKind.CUT_GRADIENT]))).tensors.values()
        widths[victim] = tensor.shape[1]
    assert widths == {LabelVictim.ONE_LOGIT: 4, LabelVictim.LOGITS: 2}


# On the log of a run


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(log=MessageLog(), steps=2, batch=16)


@pytest.fixture(scope="module")
def found(trained) -> CutLeakage:
    (leakage,) = trained.audit(AuditSettings(attacks=ON_LABELS, records=48))
    return leakage


def test_attacks_on_labels_read_the_log_of_a_run(found):
    """An untrained model of ten classes: gradients point where their class pulls. The stem is no logit."""
    cells = {cell.attack: cell for cell in found.cells}

    assert [left_out.attack for left_out in found.not_run] == ["signs of logit gradients"]
    assert {cell.recovers for cell in found.cells} == {"labels"}
    assert cells["gradient direction"].value.mean == pytest.approx(1)
    assert cells["gradient direction"].verdict is Verdict.LEAKS
    assert cells["clusters of gradients"].value.mean == 1
    assert cells["every class tried"].value.mean == 1
    assert cells["gradient norm"].value.records == 48
    assert cells["gradient direction"].value.records == 48 - 10
    assert all(cell.control is not None and cell.control.passed for cell in found.cells)
    assert found.strongest is None


def test_the_report_says_who_could_and_what_was_known(found):
    cells = {cell.attack: cell for cell in found.cells}

    assert "split server" in cells["gradient norm"].parties
    assert cells["gradient norm"].knows == ()
    assert cells["gradient direction"].knows == ("known_labels",)
    assert "split server" in cells["gradient direction"].parties
    assert cells["every class tried"].parties == ("both servers", "malicious server")
    assert cells["gradient norm"].baseline == "labels dealt out at random"
    assert cells["gradient norm"].best_guess.value.mean > 0.5  # folded up, as the attack's own figure is


def test_labels_that_cross_in_clear_are_a_plain_leak_in_the_report(found):
    (note,) = found.notes

    assert note.startswith("Labels cross in clear: those of all 48 records in step 1.")
    report = Report(title="", created="", metric="", settings={}, versions={}, rows=(leakage_row(found),), notes=())
    assert note in to_json(report)
    assert f"<p>stem: {note}" in to_html(report)


def test_labels_that_do_not_cross_are_not_said_to(trained):
    without = MessageLog()
    for message in trained.log.messages():
        if message.kind is not MessageKind.LABEL:
            without.append(message, trained.log.truth().get(message.number))

    (leakage,) = trained.audit(AuditSettings(attacks=("gradient_norm",)), log=without)

    assert leakage.notes == ()


def test_tensors_that_are_not_the_records_classes_are_no_labels(trained):
    """A message of another name and meaning may be called a label by the dataflow: what it holds decides."""
    other = MessageLog()
    for message in trained.log.messages():
        if message.kind is MessageKind.LABEL:
            turned = {name: tensor + 1 for name, tensor in message.tensors.items()}
            message = dataclasses.replace(message, tensors=turned)
        other.append(message, trained.log.truth().get(message.number))

    (leakage,) = trained.audit(AuditSettings(attacks=("gradient_norm",)), log=other)

    assert leakage.notes == ()


def test_an_attack_that_asks_twice_for_known_labels_stops_the_audit(trained):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Greedy(GradientDirection):
        def run(self, attacker, progress):
            numbers = [message.number for message in attacker.messages(MessageKind.CUT_GRADIENT)]
            return [attacker.known_labels([number]) for number in numbers]

    with pytest.raises(UndeclaredError, match="handed out once"):
        trained.audit(AuditSettings(attacks=(Greedy(),)))


def test_without_auxiliary_classes_trying_every_class_is_not_run(trained):
    (leakage,) = trained.audit(AuditSettings(attacks=("every_class",)), auxiliary=None)

    assert "auxiliary_records" in leakage.not_run[0].reason
