"""The audit of a run while it trains."""

import json

import lightning.pytorch as pl
import pytest
import torch
from audited import ONE_ITERATION, TinyNet, train, without_times
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, TensorDataset

from attacks import PrivacyAudit
from attacks.audit.run import audit
from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.allocation import Allocation
from lightning_sfl.link.log import MessageLog

ATTACK = ONE_ITERATION.attacks


def states(*callbacks: pl.Callback) -> tuple[dict[str, torch.Tensor], list[tuple[dict[str, float], torch.Tensor]]]:
    class Watch(pl.Callback):
        def __init__(self) -> None:
            self.found: list[tuple[dict[str, float], torch.Tensor]] = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.found.append((metrics, torch.get_rng_state()))

    watch = Watch()
    trained = train(*callbacks, watch, steps=4)
    return trained.model.state_dict(), watch.found


def test_the_run_stays_bit_for_bit_what_it_was():
    weights, seen = states()

    audited, seen_audited = states(PrivacyAudit(ATTACK, every_n_rounds=1, records=8))

    assert all(torch.equal(weights[name], audited[name]) for name in weights)
    assert [metrics for metrics, _ in seen] == [metrics for metrics, _ in seen_audited]
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(seen, seen_audited, strict=True))


def test_it_attacks_every_n_rounds_and_at_the_end():
    callback = PrivacyAudit(ATTACK, every_n_rounds=2, records=8)

    train(callback, steps=5)

    assert list(callback.leakage) == [2, 4, 5]
    for rounds, found in callback.leakage.items():
        ((cell,),) = [at_cut.cells for at_cut in found]
        assert cell.victim.round == rounds - 1
        assert cell.cut == "stem"


def test_without_a_number_of_rounds_it_attacks_at_the_end_alone():
    callback = PrivacyAudit(ATTACK, records=8)

    train(callback, steps=3)

    assert list(callback.leakage) == [3]


def test_the_log_of_the_run_gives_the_same_cells_afterwards():
    """What the callback found while it trained, the audit of the log finds again."""
    log = MessageLog()
    callback = PrivacyAudit(ATTACK, records=16)

    trained = train(callback, log=log)

    assert without_times(callback.leakage[4]) == without_times(
        audit(log, trained.background(), trained.records, ONE_ITERATION)
    )


def test_a_run_without_a_log_keeps_the_newest_round_only():
    class Kept(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            self.rounds = trainer.strategy.message_log.rounds()

    kept = Kept()

    train(PrivacyAudit(ATTACK, records=8), kept)

    assert kept.rounds == [3]


def test_cuts_that_the_run_does_not_use_are_left_out():
    callback = PrivacyAudit(ATTACK, cuts=["body"], records=8)

    train(callback)

    assert callback.leakage == {}


def test_the_report_is_written_and_leakage_logged(tmp_path):
    callback = PrivacyAudit(ATTACK, records=8, directory=tmp_path / "audit")

    train(callback)

    document = json.loads((tmp_path / "audit" / "round_000004" / "report.json").read_text())
    (row,) = document["cuts"]
    assert row["leakage"]["cells"][0]["value"]["mean"] == callback.leakage[4][0].cells[0].value.mean
    assert (tmp_path / "audit" / "round_000004" / "report.html").is_file()


def test_another_strategy_is_refused_by_name():
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[PrivacyAudit(ATTACK)],
    )
    records = TensorDataset(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))

    with pytest.raises(MisconfigurationException, match="SingleDeviceStrategy sends none"):
        trainer.fit(TinyNet(), DataLoader(records, batch_size=2))


def test_a_second_fit_is_audited_by_itself():
    """The callback's own log is of one fit; the messages of the first are not those of the second."""
    callback = PrivacyAudit(ATTACK, records=8)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
        strategy=SplitFederatedStrategy(cut="stem", num_clients=2),
    )
    records = TensorDataset(torch.rand(16, 1, 8, 8, generator=torch.Generator()), torch.arange(16) % 10)
    loader = DataLoader(records, batch_size=4)

    trainer.fit(TinyNet(), loader)
    trainer.fit_loop.epoch_loop.max_steps = 4
    trainer.fit(TinyNet(), loader)

    assert [found.cells[0].value.records for (found,) in callback.leakage.values()] == [8]


@pytest.mark.parametrize("rounds", [0, -1])
def test_a_number_of_rounds_out_of_range_is_refused(rounds):
    with pytest.raises(ValueError, match=f"every_n_rounds={rounds}"):
        PrivacyAudit(every_n_rounds=rounds)


def test_cuts_that_move_are_all_attacked():
    """Two cuts in one run: what leaks is what the worse of them leaks, so both have cells."""

    class Moves(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 0:
                trainer.strategy.allocate(Allocation(cut=["body"] * 3))

    log = MessageLog()
    callback = PrivacyAudit(ATTACK, records=8)

    train(callback, Moves(), log=log, steps=3)

    (found,) = callback.leakage.values()
    assert [at_cut.cut for at_cut in found] == ["stem", "body"]
    assert [at_cut.cells[0].victim.round for at_cut in found] == [0, 2]
