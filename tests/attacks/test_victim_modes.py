"""Victims in training and in evaluation mode: attacked as they computed, and named in the report."""

import dataclasses

import lightning.pytorch as pl
import pytest
import torch
from attack_cases import noise_images, two_halves
from audited import ONE_ITERATION, TinyNet, train
from torch import nn

from attacks import PrivacyAudit
from attacks.audit.run import audit
from attacks.audit.victim import evaluating_at
from attacks.program import Program
from attacks.smashed.white_box import FAITHFUL, WhiteBox
from lightning_sfl.cut.find import search
from lightning_sfl.link.log import MessageLog


class WithDropout(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(self.stem, nn.Dropout(0.25))


class FreezesNorms(TinyNet):
    """As fine-tuning often does: normalisation stays in evaluation mode, whatever mode the model is set to."""

    def train(self, mode: bool = True):
        super().train(mode)
        self.stem[1].eval()
        return self


class Evaluates(pl.Callback):
    """The whole model is in evaluation mode from the second step on, or from the first."""

    def __init__(self, since: int = 0) -> None:
        self.since = since

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pl_module.train(batch_idx < self.since)


@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_report_says_which_victim_it_was(steps, mode, batch):
    """Untrained and trained, in both modes, with 1, 4 and 16 records in a batch: the newest round is attacked, the
    first of a run of one step and the second of a run of two."""
    evaluates = [Evaluates()] if mode == "evaluation" else []
    run = train(*evaluates, log=MessageLog(), steps=steps, batch=batch)

    victim = run.cell(dataclasses.replace(ONE_ITERATION, records=2)).victim

    statistics = {"training": "batch statistics", "evaluation": "running statistics"}
    trained = {1: "untrained, unless it was made with trained weights", 2: "1 round of training"}
    assert (victim.round, victim.trained) == (steps - 1, trained[steps])
    assert (victim.mode, victim.batch_norm) == (mode, statistics[mode])
    assert victim.batch_sizes == (batch,)


def test_a_victim_in_evaluation_mode_is_rebuilt_by_its_running_statistics():
    """Records do not depend on one another there; with statistics of the batch nothing would fit. A log on disk and the
    callback say the same as a log in memory."""
    attack = WhiteBox(iterations=120, candidates=(FAITHFUL,))
    callback = PrivacyAudit((attack,), records=8)
    run = train(Evaluates(), callback, log=MessageLog(), steps=2)
    settings = dataclasses.replace(ONE_ITERATION, attacks=(attack,), records=8)

    cell = run.cell(settings)

    ((live,),) = callback.leakage.values()
    assert cell.value.mean == live.cells[0].value.mean
    assert cell.value.mean > 25
    assert cell.fit < 1e-2


def test_the_modes_are_kept_with_a_log_on_disk(tmp_path):
    log = MessageLog(tmp_path / "log", keep_rounds=2)

    train(Evaluates(since=1), log=log, steps=3)

    opened = MessageLog.open(tmp_path / "log")
    assert opened.rounds() == [1, 2]
    assert set(opened.evaluating(2)) == {name for name, _ in TinyNet().named_modules()}
    assert opened.evaluating(0) == ()
    assert sorted(path.name for path in (tmp_path / "log" / "modes").iterdir()) == [
        "round_000001.json",
        "round_000002.json",
    ]
    opened.save(tmp_path / "copy")
    assert MessageLog.open(tmp_path / "copy").evaluating(1) == opened.evaluating(1)


def test_a_run_in_training_mode_writes_no_modes(tmp_path):
    train(log=MessageLog(tmp_path / "log"), steps=1)

    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == ["messages", "truth"]


def test_the_first_step_of_a_round_counts():
    """Attacks are on the batch that follows the broadcast."""
    log = MessageLog()
    module = nn.Sequential(nn.ReLU())
    log.note_step(0, {0: [1]}, module.eval())
    log.note_step(0, {0: [2]}, module.train())
    log.note_step(1, {0: [3]}, module)
    log.note_step(2, {0: [3]})

    assert [log.evaluating(round) for round in (0, 1, 2)] == [("", "0"), (), ()]


def test_modes_are_those_of_the_newest_round_at_the_cut():
    run = train(Evaluates(since=1), log=MessageLog(), steps=2)

    assert "stem.1" in evaluating_at(run.log, "stem")
    assert evaluating_at(run.log, "body") == ()


def test_frozen_normalisation_is_named():
    run = train(log=MessageLog(), steps=2, net=FreezesNorms)

    victim = run.cell(ONE_ITERATION).victim

    assert victim.mode == "training, but for normalisation in evaluation mode"
    assert victim.batch_norm == "running statistics"


def test_dropout_at_work_is_named_with_its_rate():
    run = train(log=MessageLog(), steps=1, net=WithDropout)
    still = train(Evaluates(), log=MessageLog(), steps=1, net=WithDropout)

    assert run.cell(ONE_ITERATION).victim.dropout == "at work in the victim, off in attacks: 0.25 in stem.1"
    assert still.cell(ONE_ITERATION).victim.dropout == "off"


def test_a_checkpoint_is_named_where_the_run_began_from_it():
    run = train(log=MessageLog(), steps=1)

    assert run.cell(ONE_ITERATION, from_checkpoint=True).victim.trained == "a checkpoint's weights"


def test_an_audit_of_a_mode_is_not_taken_for_one_of_the_other():
    """The program's fingerprint tells modes: what is kept of one audit is not used in the other."""
    images = noise_images(2, channels=1)
    template = (torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
    module = two_halves(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.5)), images)
    split = search(module, template).cut("front").split

    train_mode, eval_mode = (Program(module, split, template, evaluating=names) for names in ((), ("front.1",)))

    assert train_mode.dropout == {"front.1": 0.5}
    assert eval_mode.dropout == {}
    assert train_mode.called() == ("front", "front.0", "front.1")
    evaluating = Program(module, split, template, evaluating=("front.0",))
    assert evaluating.fingerprint() != train_mode.fingerprint()


def test_modules_behind_the_cut_are_not_the_clients():
    """A server's half in evaluation mode is no matter of the client's."""

    class Head(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            pl_module.body.eval()

    run = train(Head(), log=MessageLog(), steps=1)

    (found,) = audit(run.log, run.background(), run.records, ONE_ITERATION)
    assert found.cells[0].victim.mode == "training"
