"""What Lightning offers beside a plain fit: with one client each of it gives the very weights of a plain run."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.tuner import Tuner
from sfl_models import MLP, VGG, Classifier, ImageData, fit, mlp, quiet_trainer, same, sgd, vgg
from torch import nn
from torch.utils.data import DataLoader, get_worker_info

from lightning_sfl import SplitFederatedStrategy


def one_client(**options) -> SplitFederatedStrategy:
    return SplitFederatedStrategy(**{"cut": "model.2", "num_clients": 1, "aggregate_every": 3, **options})


def several(**options) -> SplitFederatedStrategy:
    return SplitFederatedStrategy(**{"cut": "model.2", "num_clients": 3, **options})


def trains_alike(
    kind=Classifier, *, model=vgg, strategy=None, callback=None, val=False, loader=None, **options
) -> bool:
    """Whether one client ends with the weights, metrics, random state and steps of plain Lightning.

    Eleven samples in batches of 3: four steps per epoch, the last of them short.
    """
    results = []
    for chosen in ("auto", strategy or one_client()):
        torch.manual_seed(0)
        module = kind(model(), sgd)
        trainer = fit(
            module,
            loader() if loader else VGG.loader(11, 3, shuffle=not options.get("overfit_batches")),
            chosen,
            val=VGG.loader(4, 4) if val else None,
            **{"max_epochs": 3, "callbacks": [callback()] if callback else [], **options},
        )
        results.append((module.state_dict(), trainer.callback_metrics, torch.get_rng_state(), trainer.global_step))
    plain, split = results
    assert plain[3] == split[3] > 0
    return same(plain[0], split[0]) and same(plain[1], split[1]) and torch.equal(plain[2], split[2])


@pytest.mark.parametrize(
    "options",
    [
        {"overfit_batches": 1},
        {"overfit_batches": 2},
        {"limit_train_batches": 3},
        {"limit_train_batches": 0.5},
        {"fast_dev_run": True},
        {"fast_dev_run": 3},
        {"val_check_interval": 2, "val": True},
        {"val_check_interval": 0.5, "val": True},
        {"max_steps": 5, "max_epochs": -1},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value", "accumulate_grad_batches": 2},
        {"accumulate_grad_batches": 3, "overfit_batches": 2},
        {"accumulate_grad_batches": 3, "max_steps": 3, "max_epochs": -1, "val_check_interval": 1, "val": True},
    ],
    ids=str,
)
def test_a_trainers_options(options):
    assert trains_alike(**options)


@pytest.mark.parametrize(("every", "accumulates"), [(1, 1), (3, 1), (2, 3)])
def test_a_moving_average_of_the_weights(every, accumulates):
    """The callback reads the weights after every step, in mid-round too."""
    assert trains_alike(
        strategy=one_client(aggregate_every=every),
        callback=lambda: EMAWeightAveraging(decay=0.9),
        accumulate_grad_batches=accumulates,
    )


class ClipsByValue(Classifier):
    def on_before_optimizer_step(self, optimizer):
        nn.utils.clip_grad_value_(self.parameters(), 0.01)


class ScalesGradients(Classifier):
    def on_after_backward(self):
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(0.1)


class SkipsOddSteps(Classifier):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        if batch_idx % 2 == 0:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()


class Plateau(Classifier):
    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.parameters())
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "loss"}}


class LeavesEpochsEarly(Classifier):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 2 and self.current_epoch < 2 else None


@pytest.mark.parametrize("kind", [ClipsByValue, ScalesGradients, SkipsOddSteps, Plateau, LeavesEpochsEarly])
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1", "fedavg"])
def test_a_modules_hooks(kind, algorithm):
    cut = None if algorithm == "fedavg" else "model.2"
    assert trains_alike(kind, strategy=one_client(cut=cut, algorithm=algorithm))


@pytest.mark.parametrize("algorithm", ["splitfed_v1", "fedavg"])
def test_clipping_by_value_without_a_shared_server(algorithm):
    """The trainer's own optimizer has no gradients there, which torch refuses to clip by value."""
    used = one_client(cut=None if algorithm == "fedavg" else "model.2", algorithm=algorithm)
    assert trains_alike(strategy=used, gradient_clip_val=0.01, gradient_clip_algorithm="value")


def test_a_hook_that_logs_norms_of_gradients():
    """Each party logs its own layers, under the names and with the values of the plain run."""

    class Logs(Classifier):
        def on_before_optimizer_step(self, optimizer):
            norms = {name: p.grad.norm() for name, p in self.named_parameters() if p.grad is not None}
            self.log_dict(norms)

    assert trains_alike(Logs, max_epochs=2)


def test_persistent_workers_with_epochs_left_off_early():
    def loader():
        return VGG.loader(11, 3, shuffle=True, num_workers=1, persistent_workers=True)

    assert trains_alike(loader=loader, limit_train_batches=2, max_epochs=2)


class Shifted(ImageData):
    """A data set with an attribute that its workers look at."""

    shift = 0.0

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image + self.shift, label


def look(worker):
    data = get_worker_info().dataset
    assert len(data.targets) == 8
    assert data.shift == 2.0


def test_the_workers_initialisation_sees_the_users_data_set():
    data = Shifted(8)
    data.shift = 2.0
    module = MLP.module(sgd)
    trainer = fit(module, DataLoader(data, batch_size=2, num_workers=1, worker_init_fn=look), several(), max_epochs=1)
    assert trainer.global_step == 2


# Tuning, testing, reloading, fitting twice


class Tuned(Classifier):
    """Knows its batch size and learning rate, and makes its own loader."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(mlp(), None, schedule=False)
        self.batch_size, self.lr = 2, 1e-3

    def train_dataloader(self):
        return MLP.loader(24, self.batch_size)

    def val_dataloader(self):
        return MLP.loader(4, 4)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def test_the_learning_rate_finder_suggests_a_rate_and_leaves_the_weights_alone(tmp_path):
    module = Tuned()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trainer = quiet_trainer(strategy=several(), max_epochs=3, enable_checkpointing=True, default_root_dir=tmp_path)
    found = Tuner(trainer).lr_find(module, num_training=12, early_stop_threshold=None)
    assert len(found.results["loss"]) == 12
    assert same(before, module.state_dict())
    trainer.fit(module)
    assert trainer.global_step == 3 * 4  # 24 samples of 3 clients in batches of 2


def test_the_batch_size_finder_doubles_the_batch_of_every_client(tmp_path):
    """Two trials, of batches of 2 and 4: the plain finder then says 4 as well."""
    module = Tuned()
    trainer = quiet_trainer(strategy=several(), max_epochs=1, enable_checkpointing=True, default_root_dir=tmp_path)
    assert Tuner(trainer).scale_batch_size(module, max_trials=2, steps_per_trial=1) == module.batch_size == 4
    trainer.fit(module)
    assert trainer.global_step == 2  # 24 samples of 3 clients in batches of 4


def test_the_best_checkpoint_is_tested(tmp_path):
    """The learning rate makes the loss grow, so that the first epoch's checkpoint is the best."""
    torch.manual_seed(0)
    module = Classifier(mlp(), lambda p: torch.optim.SGD(p, lr=0.3, maximize=True), schedule=False)
    saving = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val_loss")
    options = {"callbacks": [saving], "enable_checkpointing": True, "max_epochs": 3}
    trainer = fit(module, MLP.loader(12, 2), several(aggregate_every=4), val=MLP.loader(4, 4), **options)
    assert trainer.callback_metrics["val_loss"] > saving.best_model_score
    (result,) = trainer.test(module, MLP.loader(4, 4), ckpt_path="best", verbose=False, weights_only=True)
    assert result["val_loss"] == pytest.approx(float(saving.best_model_score), rel=1e-6)


def test_a_validation_before_the_fit_changes_nothing():
    results = []
    for looks in (False, True):
        module = VGG.module(sgd)
        trainer = quiet_trainer(strategy=several(), max_epochs=2)
        if looks:
            trainer.validate(module, VGG.loader(4, 4), verbose=False)
        pl.seed_everything(1, verbose=False)
        trainer.fit(module, VGG.loader(12, 2, shuffle=True))
        results.append(module.state_dict())
    assert same(*results)


def test_a_second_fit_goes_on_like_plain_lightning():
    results = []
    for strategy in ("auto", one_client()):
        module = VGG.module(sgd)
        trainer = fit(module, VGG.loader(8, 2), strategy, max_epochs=2)
        trainer.fit_loop.max_epochs = 4
        pl.seed_everything(2, verbose=False)
        trainer.fit(module, VGG.loader(8, 2))
        results.append((module.state_dict(), trainer.global_step))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1] == 16


def test_loaders_that_are_reloaded_give_the_batches_of_a_plain_run():
    class Own(Classifier):
        def train_dataloader(self):
            return VGG.loader(7 + self.current_epoch, 2, shuffle=True)

    results = []
    for strategy in ("auto", one_client()):
        torch.manual_seed(0)
        module = Own(vgg(), sgd)
        trainer = fit(module, None, strategy, max_epochs=3, reload_dataloaders_every_n_epochs=1)
        results.append((module.state_dict(), trainer.global_step))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1] == 4 + 4 + 5
