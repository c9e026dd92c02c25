"""Whoever reads in mid-round sees the weighted mean of those taking part, and nothing of it is fed back."""

import datetime
import time

import lightning.pytorch as pl
import pytest
import torch
from sfl_models import MLP, RESNET, Classifier, adamw, fit, mlp, quiet_trainer, same, sgd

from lightning_sfl import SplitFederatedStrategy

# A run that goes on from a checkpoint is told so where it has other callbacks than the run that wrote it.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")

PARTS = [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 11]]


def strategy(**options) -> SplitFederatedStrategy:
    return SplitFederatedStrategy(
        **{"cut": "model.1", "num_clients": 3, "partition": PARTS, "batch_size": 3, "aggregate_every": 4, **options}
    )


def weighted_mean(used: SplitFederatedStrategy) -> dict[str, torch.Tensor]:
    """The mean of what the participants own, by hand."""
    people = list(used._federation.participants.values())
    total = sum(person.samples for person in people)
    mean: dict[str, torch.Tensor] = {}
    for person in people:
        for party in person.parties:
            for name, tensor in party.tensors().items():
                mean[name] = mean.get(name, 0) + tensor.double() * person.samples / total
    return mean


def close(shown, expected) -> None:
    for name, tensor in expected.items():
        if shown[name].is_floating_point():
            torch.testing.assert_close(shown[name].double(), tensor, rtol=1e-5, atol=1e-7)


class Watcher(pl.Callback):
    """Compares what the module shows with the mean, wherever Lightning lets users look."""

    def __init__(self) -> None:
        self.looked: list[str] = []

    def look(self, trainer, module, where):
        if trainer.strategy._federation is not None and trainer.strategy._federation.participants:
            close(module.state_dict(), weighted_mean(trainer.strategy))
            close(trainer.strategy.global_weights(), weighted_mean(trainer.strategy))
            self.looked.append(where)

    def on_validation_epoch_start(self, trainer, module):
        self.look(trainer, module, "validation")

    def on_validation_end(self, trainer, module):
        self.look(trainer, module, "validation end")

    def on_train_epoch_end(self, trainer, module):
        self.look(trainer, module, "epoch end")

    def on_train_end(self, trainer, module):
        self.look(trainer, module, "train end")

    def on_save_checkpoint(self, trainer, module, checkpoint):
        if trainer.strategy._federation is not None and trainer.strategy._federation.participants:
            close(checkpoint["state_dict"], weighted_mean(trainer.strategy))
            self.looked.append("checkpoint")


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1", "fedavg"])
def test_validation_epoch_end_checkpoint_and_fit_end_see_the_weighted_mean(algorithm, tmp_path):
    """Rounds of 4 steps and epochs of 2: every other epoch, and its checkpoint, ends in mid-round."""
    watcher = Watcher()
    used = strategy(algorithm=algorithm, cut=None if algorithm == "fedavg" else "model.1")
    saving = pl.callbacks.ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1)
    module = RESNET.module(sgd)
    fit(
        module,
        RESNET.loader(12, 3),
        used,
        val=RESNET.loader(4, 4),
        callbacks=[watcher, saving],
        enable_checkpointing=True,
        max_epochs=5,
        val_check_interval=0.5,
    )
    assert {"validation", "validation end", "epoch end", "checkpoint", "train end"} <= set(watcher.looked)


def test_an_epoch_that_the_last_step_of_a_run_cuts_short_ends_with_the_weighted_mean():
    """One step of an epoch of two, in a round of four."""
    watcher = Watcher()
    fit(MLP.module(sgd), MLP.loader(12, 3), strategy(), callbacks=[watcher], max_epochs=5, max_steps=1)
    assert watcher.looked == ["epoch end", "train end"]


def test_a_fit_that_runs_out_of_time_in_mid_round_ends_with_the_weighted_mean():
    """The first step, of a round of four, takes longer than there is time."""
    watcher, slow = Watcher(), pl.callbacks.LambdaCallback(on_train_batch_start=lambda *_: time.sleep(0.5))
    module = MLP.module(sgd)
    limit = datetime.timedelta(seconds=0.4)
    trainer = fit(module, MLP.loader(12, 3), strategy(), callbacks=[watcher, slow], max_epochs=5, max_time=limit)
    assert trainer.global_step == 1
    assert watcher.looked[-1] == "train end"
    assert not same(module.state_dict(), MLP.module(sgd).state_dict())


def test_epoch_end_sees_the_weighted_mean_without_a_validation_before_it():
    watcher = Watcher()
    fit(RESNET.module(sgd), RESNET.loader(12, 3), strategy(), callbacks=[watcher], max_epochs=3)
    assert watcher.looked.count("epoch end") == 2  # of three epochs of 2 steps, the second ends with its round


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")  # said once per process
def test_a_round_in_which_everybody_skips_leaves_the_global_model_as_it_was_even_if_it_was_read():
    class Skips(Classifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) if self.trainer.global_step < 4 else None

    torch.manual_seed(0)
    module, weights = Skips(mlp(), sgd, schedule=False), []

    class Note(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            weights.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})

    fit(module, MLP.loader(12, 3), strategy(aggregate_every=2), callbacks=[Note()], max_epochs=5)
    assert not same(weights[0], weights[1])
    assert same(weights[1], weights[4])


def test_reading_leaves_no_trace_in_training():
    """The same run without any validation, checkpoint or callback ends with the same weights."""
    results = []
    for looks in (False, True):
        module = RESNET.module(adamw)
        options = {"callbacks": [Watcher()], "val_check_interval": 1} if looks else {}
        fit(
            module,
            RESNET.loader(12, 3, shuffle=True),
            strategy(),
            # An own generator: even a plain validation loader draws from the global one.
            val=RESNET.loader(4, 4, generator=torch.Generator()) if looks else None,
            max_epochs=4,
            **options,
        )
        results.append(module.state_dict())
    assert same(*results)


def test_global_weights_after_a_fit_are_the_modules():
    used, module = strategy(), MLP.module(sgd)
    fit(module, MLP.loader(12, 3), used, max_epochs=1)
    assert same(used.global_weights(), module.state_dict())
    used.global_weights()["model.1.weight"].zero_()
    assert module.model[1].weight.abs().sum() > 0


@pytest.mark.parametrize("how", ["error", "max_steps", "should_stop"])
def test_after_a_fit_stopped_anywhere_the_module_holds_the_global_weights(how):
    """Stopped after 3 steps of a round of 4."""
    seen: dict[str, dict[str, torch.Tensor]] = {}

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 3:
                seen["mean"] = weighted_mean(trainer.strategy)
                if how == "error":
                    raise RuntimeError("stopped on purpose")
                trainer.should_stop = how == "should_stop"

    module = MLP.module(sgd)
    used = strategy()
    options = {"max_steps": 3} if how == "max_steps" else {}
    trainer = quiet_trainer(strategy=used, callbacks=[Stop()], max_epochs=4, **options)
    if how == "error":
        with pytest.raises(RuntimeError, match="on purpose"):
            trainer.fit(module, MLP.loader(12, 3))
    else:
        trainer.fit(module, MLP.loader(12, 3))
    close(module.state_dict(), seen["mean"])
    assert not any(part._forward_hooks for part in module.modules())


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_checkpoint_loads_in_plain_lightning(tmp_path, epochs):
    """In mid-round (after 1 epoch of 2 steps) and at a round's end (after 2): weights, optimizer and schedule."""
    module = MLP.module(adamw)
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="last", save_top_k=1)
    fit(module, MLP.loader(12, 3), strategy(), callbacks=[saving], enable_checkpointing=True, max_epochs=epochs)
    path = tmp_path / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    assert same(saved["state_dict"], module.state_dict())
    assert set(saved["optimizer_states"][0]["state"]) == set(range(6))
    plain = MLP.module(adamw, seed=9)
    trainer = quiet_trainer(max_epochs=epochs + 1)
    trainer.fit(plain, MLP.loader(12, 3), ckpt_path=path, weights_only=True)
    assert trainer.current_epoch == epochs + 1
    assert not same(plain.state_dict(), module.state_dict())


def test_training_goes_on_from_a_checkpoint_at_a_rounds_end_as_if_it_had_not_stopped(tmp_path):
    """Without shuffling and dropout, whose random state is not in the checkpoint."""
    whole = MLP.module(adamw)
    fit(whole, MLP.loader(12, 3), strategy(aggregate_every=2, clients_per_round=2), max_epochs=4)
    first = MLP.module(adamw)
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="half")
    options = {"aggregate_every": 2, "clients_per_round": 2}
    fit(first, MLP.loader(12, 3), strategy(**options), callbacks=[saving], enable_checkpointing=True, max_epochs=2)
    second = MLP.module(adamw, seed=9)
    trainer = quiet_trainer(strategy=strategy(**options), max_epochs=4)
    trainer.fit(second, MLP.loader(12, 3), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert same(second.state_dict(), whole.state_dict())


def test_a_plain_checkpoint_starts_a_split_run(tmp_path):
    plain = MLP.module(adamw)
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="plain")
    fit(plain, MLP.loader(12, 3), "auto", callbacks=[saving], enable_checkpointing=True, max_epochs=1)
    module = MLP.module(adamw, seed=9)
    trainer = quiet_trainer(strategy=strategy(), max_epochs=2)
    trainer.fit(module, MLP.loader(12, 3), ckpt_path=tmp_path / "plain.ckpt", weights_only=True)
    assert trainer.current_epoch == 2


def test_validate_test_and_predict_run_without_a_fit_and_leave_the_loaders_alone():
    module = MLP.module(sgd)
    trainer = quiet_trainer(strategy=strategy())
    plain = quiet_trainer()
    for name in ("validate", "test"):
        split_result = getattr(trainer, name)(module, MLP.loader(8, 3), verbose=False)
        assert split_result == getattr(plain, name)(module, MLP.loader(8, 3), verbose=False)
    predictions = trainer.predict(module, MLP.loader(8, 3))
    assert [len(part) for part in predictions] == [3, 3, 2]


def test_early_stopping_and_plateau_schedules_follow_the_global_models_metrics():
    class Plateau(Classifier):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}

    torch.manual_seed(0)
    module = Plateau(mlp(), sgd)
    stop = pl.callbacks.EarlyStopping("val_loss", patience=2, mode="max")  # stops while the loss falls
    trainer = fit(module, MLP.loader(12, 3), strategy(), val=MLP.loader(12, 12), callbacks=[stop], max_epochs=20)
    assert trainer.current_epoch < 20
