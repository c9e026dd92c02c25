"""Audits of runs whose clients run forward only: of what crosses the cut, and of their scalars."""

import dataclasses

import pytest
import torch
from attack_cases import HandMadeLog, attacker_of, background_of, noise_images, two_halves, weights_of
from audited import train, without_times
from torch import nn

from attacks import PrivacyAudit
from attacks.audit.settings import AuditSettings
from attacks.observation import last_observations
from attacks.scalars.inverting import InvertingScalars
from attacks.scalars.likelihood import ScalarLikelihood
from attacks.smashed.white_box import FAITHFUL, WhiteBox
from lightning_sfl.algorithms import HOSFL, HOSL, ZOSFL
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind
from lightning_sfl.report.leakage import Verdict

ATTACKS = (WhiteBox(iterations=60, candidates=(FAITHFUL,)), InvertingScalars(iterations=1), ScalarLikelihood())


@pytest.fixture(scope="module")
def of_hosfl():
    """A run of HO-SFL on digits with batches of one, its audit while it trained, and the weights of its last step."""
    callback = PrivacyAudit(ATTACKS, records=3)
    run = train(callback, log=MessageLog(), steps=2, batch=1, algorithm=HOSFL(probes=5))
    ((found,),) = callback.leakage.values()
    return dataclasses.replace(run, fixed_norms=True), found, callback._weights


def test_smashed_data_and_scalars_are_both_audited(of_hosfl):
    """Five numbers name the record among 67, and do not show it."""
    _, found, _ = of_hosfl
    cells = {cell.attack: cell for cell in found.cells}

    assert found.not_run == ()
    assert cells[WhiteBox.name].value.mean > 30
    assert cells[ScalarLikelihood.name].share_recovered == 1
    assert cells[ScalarLikelihood.name].verdict is Verdict.LEAKS
    assert cells[ScalarLikelihood.name].control.passed
    assert cells[InvertingScalars.name].value.mean < 17
    assert cells[InvertingScalars.name].control.passed
    assert "5 scalars for 64 pixels" in cells[InvertingScalars.name].budget


def test_the_log_with_its_weights_gives_the_same_cells(of_hosfl):
    run, found, weights = of_hosfl

    again = run.audit(
        AuditSettings(attacks=ATTACKS, records=3),
        client_weights=weights,
        probing=HOSFL(probes=5),
        client_weights_step=1,
    )

    assert without_times(again) == without_times([found])


def test_a_log_alone_says_what_to_give(of_hosfl):
    run, _, _ = of_hosfl

    (found,) = run.audit(AuditSettings(attacks=ATTACKS, records=3), probing=HOSFL(probes=5))

    assert [left.attack for left in found.not_run] == [attack.name for attack in ATTACKS]
    assert all("give a checkpoint that a step of this log began with" in left.reason for left in found.not_run)


def test_scalars_say_which_records_they_came_from(of_hosfl):
    """The truth of a message of scalars is that of the smashed data of its step."""
    run, _, _ = of_hosfl
    truth = run.log.truth()
    by_step = {}
    for message in run.log.messages():
        if message.number in truth:
            by_step.setdefault((message.client, message.step), {})[message.kind.value] = truth[message.number]

    assert all("scalars" in kinds and kinds["scalars"] == kinds["smashed"] for kinds in by_step.values())


@pytest.mark.parametrize(("algorithm", "least_db"), [(HOSL(probes=2), 30), (ZOSFL(probes=2), 25)])
def test_where_the_server_computes_losses_the_first_pass_of_a_step_is_attacked(algorithm, least_db):
    """HOSL sends its smashed data 5 times in a step, at first with the weights as they are; ZO-SFL 4 times, always
    moved by μ = 1e-3, half a percent of these smashed data. No client sends scalars."""
    callback = PrivacyAudit(ATTACKS, records=2)

    train(callback, steps=1, batch=1, algorithm=algorithm)

    ((found,),) = callback.leakage.values()
    (cell,) = found.cells
    assert cell.value.mean > least_db
    assert [left.attack for left in found.not_run] == [InvertingScalars.name, ScalarLikelihood.name]
    assert all("no client sent scalars" in left.reason.lower() for left in found.not_run)


def test_of_several_messages_of_a_step_the_first_is_attacked():
    """Those that follow it come from weights moved along directions."""
    log = HandMadeLog()
    module = two_halves(nn.Conv2d(1, 1, 1), noise_images(2, 1, 2))
    for value in (1.0, 2.0, 3.0):
        log.add(MessageKind.SMASHED, {"0": torch.full((1, 1, 2, 2), value)}, client=0, round=0, step=0)
    background = background_of(module, noise_images(2, 1, 2), client_weights=weights_of(module, ""))

    (found,) = last_observations(attacker_of(log, background=background))

    assert found.number == 0
    assert found.smashed[0].unique().tolist() == [1.0]


def test_updates_of_first_order_clients_have_no_scalars():
    callback = PrivacyAudit(("inverting_scalars", "scalar_likelihood"), records=2)

    train(callback, steps=1, batch=1)

    ((found,),) = callback.leakage.values()
    assert found.cells == ()
    assert all("no client sent scalars" in left.reason.lower() for left in found.not_run)
