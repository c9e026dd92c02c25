"""The strategy's settings stand among the loggers' hyper-parameters, beside the module's own."""

import warnings
from unittest.mock import MagicMock

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from sfl_models import MLP, Classifier, fit, mlp, quiet_trainer, sgd

from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.allocation import Allocation
from lightning_sfl.link.codecs import StochasticUniform

ALL = {
    "split_federated/algorithm": "splitfed_shared",
    "split_federated/cut": "model.2",
    "split_federated/num_clients": 3,
    "split_federated/clients_per_round": 2,
    "split_federated/partition": "dirichlet:0.5",
    "split_federated/aggregate_every": 2,
    "split_federated/batch_size": 4,
    "split_federated/weighting": "uniform",
    "split_federated/client_optimizer_state": "keep",
    "split_federated/server_batching": "per_client",
    "split_federated/server_inputs": "1",
    "split_federated/nonfinite": "skip",
    "split_federated/codecs": "smashed: StochasticUniform(bits=8)",
    "split_federated/seed": 7,
}


class Configured(Classifier):
    """A module with hyper-parameters, one of which is called like a setting."""

    def __init__(self, seed=5, width=16):
        super().__init__(mlp(), sgd, schedule=False)
        self.save_hyperparameters()


class Data(pl.LightningDataModule):
    def __init__(self, size=12):
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self):
        return MLP.loader(self.hparams.size, 2)


class Told(Logger):
    """Notes the hyper-parameters it is told, call by call."""

    name, version = "told", 0

    def __init__(self):
        super().__init__()
        self.calls = []

    def log_hyperparams(self, params, *args, **kwargs):
        self.calls.append(dict(params))

    def log_metrics(self, metrics, step=None):
        pass

    def settings(self):
        """Every setting, which may be told once."""
        found = {}
        for call in self.calls:
            own = {name: value for name, value in call.items() if name.startswith("split_federated/")}
            assert not own.keys() & found.keys()
            found |= own
        return found


def told(strategy=None, module=None, **options):
    logger = Told()
    strategy = strategy or SplitFederatedStrategy(cut="model.2", num_clients=2, **options.pop("settings", {}))
    fit(module or Configured(), MLP.loader(12, 2), strategy, max_steps=3, logger=logger, **options)
    return logger


def full(**options):
    settings = {
        "cut": "model.2",
        "num_clients": 3,
        "clients_per_round": 2,
        "partition": "dirichlet:0.5",
        "aggregate_every": 2,
        "batch_size": 4,
        "weighting": "uniform",
        "client_optimizer_state": "keep",
        "server_inputs": ["1"],
        "nonfinite": "skip",
        "codecs": {"smashed": [StochasticUniform(bits=8)]},
        "seed": 7,
        **options,
    }
    return SplitFederatedStrategy(**settings)


def test_every_setting_is_told_once_and_the_modules_own_are_in_the_same_first_call():
    """TensorBoard shows the hyper-parameters of a run's first call alone. Lightning then tells the module's again."""
    logger = told(full())
    assert logger.settings() == ALL
    assert logger.calls == [{"seed": 5, "width": 16, **ALL}, {"seed": 5, "width": 16}]


def test_the_data_modules_are_in_the_first_call_too():
    logger = Told()
    trainer = quiet_trainer(strategy=full(batch_size=2), max_steps=1, logger=logger)
    trainer.fit(Configured(), datamodule=Data())
    assert logger.calls[0].items() >= {"seed": 5, "width": 16, "size": 12}.items()


def test_every_value_is_a_number_or_text():
    assert {type(value) for value in told().settings().values()} == {int, str}


def test_csv_files_hold_them_beside_the_modules_own(tmp_path):
    loggers = [CSVLogger(tmp_path / name) for name in ("one", "two")]
    fit(Configured(), MLP.loader(12, 2), full(), max_steps=3, logger=loggers)
    for logger in loggers:
        with open(f"{logger.log_dir}/hparams.yaml") as file:
            assert yaml.safe_load(file) == {"seed": 5, "width": 16, **ALL}


def test_wandb_is_told_them_with_its_configuration_left_as_it_is():
    run = MagicMock()
    fit(Configured(), MLP.loader(12, 2), full(), max_steps=1, logger=WandbLogger(experiment=run))
    updates = [call.args[0] for call in run.config.update.call_args_list]
    assert updates == [{"seed": 5, "width": 16, **ALL}, {"seed": 5, "width": 16}]


# The cut


def test_a_chosen_cut_is_told_once_it_is_chosen():
    strategy = SplitFederatedStrategy(num_clients=2)
    logger = told(strategy)
    assert "split_federated/cut" not in logger.calls[0]
    assert logger.calls[-1] == {"split_federated/cut": strategy._rounds.cuts.default}
    assert logger.settings()["split_federated/cut"].startswith("model.")


def test_cuts_of_single_clients_are_told_with_their_clients():
    cuts = {0: "model.4", 1: "model.2", 2: "model.4", 3: "model.4", 4: "model.2", 5: "model.4"}
    logger = told(SplitFederatedStrategy(cut=cuts, num_clients=6))
    assert logger.settings()["split_federated/cut"] == "model.2: 1, 4; model.4: 0, 2-3, 5"


def test_a_cut_that_an_allocation_gives_before_one_is_chosen_is_told():
    class Allocates(pl.Callback):
        def on_train_start(self, trainer, module):
            trainer.strategy.allocate(Allocation(cut=["model.2", "model.4"]))

    logger = told(SplitFederatedStrategy(num_clients=2), callbacks=[Allocates()])
    assert logger.settings()["split_federated/cut"] == "model.2: 0; model.4: 1"


def test_fedavg_has_no_cut():
    logger = told(SplitFederatedStrategy(algorithm="fedavg", num_clients=2))
    assert logger.settings()["split_federated/cut"] == "none"


# The words


class Halves:
    """A user's own partition."""

    def split(self, num_samples, num_clients, labels, seed):
        return np.array_split(np.arange(num_samples), num_clients)


class Named(Halves):
    def __repr__(self):
        return "Named(2)"


@pytest.mark.parametrize(
    ("partition", "text"),
    [
        ("iid", "iid"),
        ("shards:2", "shards:2"),
        ("dirichlet:10", "dirichlet:10"),
        ([[*range(6)], [*range(6, 12)]], "index lists"),
        (Halves(), "Halves"),
        (Named(), "Named(2)"),
    ],
)
def test_a_partition_is_told_in_words(partition, text):
    assert told(settings={"partition": partition}).settings()["split_federated/partition"] == text


def test_loaders_and_what_was_left_out_are_told_in_words():
    loaders = {client: MLP.loader(6, 2) for client in range(2)}
    logger = Told()
    strategy = SplitFederatedStrategy(cut="model.2", num_clients=2, partition=loaders)
    fit(Configured(), loaders[0], strategy, max_steps=1, logger=logger)
    found = logger.settings()
    assert found["split_federated/partition"] == "a loader per client"
    assert found["split_federated/batch_size"] == "the loader's"
    assert found["split_federated/server_inputs"] == "none"


# Which runs tell, and when


def test_every_fit_tells_and_no_other_run_does(tmp_path):
    logger, module, loader = Told(), Configured(), MLP.loader(12, 2)
    trainer = quiet_trainer(strategy=SplitFederatedStrategy(num_clients=2), max_epochs=1, logger=logger)
    trainer.validate(module, loader, verbose=False)
    assert logger.settings() == {}
    for _ in range(2):
        logger.calls = []
        trainer.fit(module, loader)
        trainer.fit_loop.max_epochs += 1
        assert logger.settings().keys() == ALL.keys()
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    logger = Told()
    trainer = quiet_trainer(strategy=SplitFederatedStrategy(num_clients=2), max_epochs=5, logger=logger)
    trainer.fit(module, loader, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert logger.settings().keys() == ALL.keys()


def test_they_are_not_told_where_hyper_parameters_are_not_logged():
    logger = told(SplitFederatedStrategy(num_clients=2), enable_autolog_hparams=False)
    assert logger.calls == []


@pytest.mark.parametrize("options", [{"logger": False}, {"fast_dev_run": True}], ids=["no logger", "fast_dev_run"])
def test_a_run_without_a_logger_trains_as_ever(options, tmp_path):
    options = {"logger": CSVLogger(tmp_path), **options}
    trainer = fit(Configured(), MLP.loader(12, 2), SplitFederatedStrategy(num_clients=2), max_epochs=1, **options)
    assert trainer.global_step > 0
    assert not list(tmp_path.rglob("hparams.yaml"))


def test_a_barebones_run_trains_as_ever():
    class Bare(Configured):
        def log(self, *args, **kwargs):
            """Barebones runs warn of it."""

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            barebones=True, accelerator="cpu", max_epochs=1, strategy=SplitFederatedStrategy(num_clients=2)
        )
    trainer.fit(Bare(), MLP.loader(12, 2))
    assert trainer.global_step > 0
