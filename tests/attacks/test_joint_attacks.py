"""Attacks on several messages together, on the logs of real runs."""

import dataclasses

import lightning.pytorch as pl
import pytest
from audited import CLIENTS, TinyNet, Trained, train
from torch import nn

from attacks import PrivacyAudit
from attacks.audit.settings import AuditSettings
from attacks.joint.linked_views import LinkedViews
from attacks.joint.one_step import OneStep
from attacks.smashed.white_box import FAITHFUL, WhiteBox
from lightning_sfl.allocation import Allocation
from lightning_sfl.link.log import MessageLog

STEPS_PER_EPOCH = 5
"""40 records per client in batches of 8."""
ALONE = WhiteBox(iterations=100, candidates=(FAITHFUL,))


class NetWithoutNorms(TinyNet):
    """Shallow: invertible but for rectifiers. Deep: 36 numbers of 64 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(0.5))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(36, 10)


class MovesDeeper(pl.Callback):
    """The first epoch at the shallow cut, later ones at the deep one."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == STEPS_PER_EPOCH - 1:
            trainer.strategy.allocate(Allocation(cut=["body"] * CLIENTS))


@pytest.fixture
def moved(monkeypatch) -> Trained:
    """A run that ends at the deep cut."""
    monkeypatch.setattr("audited.TinyNet", NetWithoutNorms)
    return train(MovesDeeper(), log=MessageLog(), steps=2 * STEPS_PER_EPOCH, cut="stem")


def cells(run: Trained, *attacks, records: int = 8):
    found = {at_cut.cut: at_cut for at_cut in run.audit(AuditSettings(attacks=attacks, records=records))}
    return {cell.attack: cell for cell in found["body"].cells}, found["body"].not_run


def test_what_a_shallow_cut_showed_a_deep_one_does_not_hide(moved):
    """R22: the attacker pools the views of all cuts. One record in five comes with the anchor's own step again."""
    found, not_run = cells(moved, ALONE, LinkedViews(descent=ALONE, views=5))

    assert not_run == ()
    alone, joint = found[ALONE.name], found[LinkedViews.name]
    assert alone.value.mean < 16
    assert joint.value.mean > alone.value.mean + 10
    assert joint.worst_record > 40
    assert "8 of 8 records rebuilt from several messages, at stem" in joint.budget
    assert joint.control.passed


def test_a_record_that_no_other_message_holds_is_not_found_in_one(monkeypatch):
    """Within an epoch no record comes twice: whatever is near is another record, and is left alone."""
    monkeypatch.setattr("audited.TinyNet", NetWithoutNorms)
    run = train(log=MessageLog(), steps=STEPS_PER_EPOCH, cut="body")

    found, not_run = cells(run, LinkedViews(descent=ALONE))

    assert found == {}
    assert "No record of the attacked batches was found in another message" in not_run[0].reason


def test_batches_tied_by_batch_statistics_are_sought_whole():
    """With batch normalisation a row cannot be explained without its batch: the others in it are sought too."""
    run = train(log=MessageLog(), steps=2 * STEPS_PER_EPOCH + 1, cut="stem")
    found = run.audit(AuditSettings(attacks=(LinkedViews(descent=ALONE, views=2),), records=8))

    ((cell,),) = [at_cut.cells for at_cut in found]
    assert cell.value.mean > 30


def test_an_update_helps_where_the_smashed_data_say_little(monkeypatch):
    """One record, a front of 8 numbers of 64 pixels behind a layer of 32: its update shows the layer's input whole.

    dL/dW of the first layer is the outer product of its output gradient and the image (Geiping et al. 2020,
    proposition 3.1), so what 8 numbers leave open the update settles.
    """

    class Narrow(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 8))
            self.body = nn.Tanh()
            self.head = nn.Linear(8, 10)

    monkeypatch.setattr("audited.TinyNet", Narrow)
    run = train(log=MessageLog(), steps=2, batch=1)
    descent = dataclasses.replace(ALONE, iterations=150)
    (found,) = run.audit(AuditSettings(attacks=(descent, OneStep(descent=descent, shares=(0.0, 0.5))), records=1))

    alone, joint = found.cells
    assert alone.value.mean < 16
    assert joint.value.mean > 30
    assert "share of the update 0.5" in joint.budget


def test_an_update_that_does_not_help_is_left_out(monkeypatch):
    """At an invertible cut the smashed data alone give all; the share is chosen on auxiliary images."""
    monkeypatch.setattr("audited.TinyNet", NetWithoutNorms)
    run = train(log=MessageLog(), steps=2, batch=4)
    settings = AuditSettings(attacks=(ALONE, OneStep(descent=ALONE)), records=4)
    (found,) = run.audit(settings)

    alone, joint = found.cells
    assert "share of the update 0;" in joint.budget
    assert joint.value.mean == alone.value.mean


def test_a_live_audit_pools_the_rounds_that_it_keeps(monkeypatch):
    """Rounds are kept in memory only as long as they are asked for."""
    monkeypatch.setattr("audited.TinyNet", NetWithoutNorms)
    attack = LinkedViews(descent=dataclasses.replace(ALONE, iterations=20), views=1)
    few, many = (PrivacyAudit(attacks=[attack], records=8, keep_rounds=rounds) for rounds in (1, 2 * STEPS_PER_EPOCH))
    for audit in (few, many):
        train(MovesDeeper(), audit, steps=2 * STEPS_PER_EPOCH, cut="stem")

    assert [found.cells for found in few.leakage[2 * STEPS_PER_EPOCH]] == [()]
    assert any(found.cells for found in many.leakage[2 * STEPS_PER_EPOCH])
    with pytest.raises(ValueError, match="keep_rounds=0 is not accepted"):
        PrivacyAudit(keep_rounds=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneStep(shares=(1.0,)), r"shares=\(1.0,\) is not accepted"),
        (lambda: OneStep(shares=()), r"shares=\(\) is not accepted"),
        (lambda: LinkedViews(views=0), "views=0 is not accepted"),
        (lambda: LinkedViews(ratio=1.0), "ratio=1.0 is not accepted"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
