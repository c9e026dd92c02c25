"""The strategy's arguments as plain values: what a checkpoint is told apart by, and what loggers are told."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import lightning.pytorch as pl

from lightning_sfl.algorithms.forward_only import ForwardOnly
from lightning_sfl.algorithms.placement import Algorithm
from lightning_sfl.data.partition import Partition
from lightning_sfl.strategy.checkpoints import Settings
from lightning_sfl.strategy.cuts import Cuts

if TYPE_CHECKING:
    from lightning_sfl.strategy.split_federated import SplitFederatedStrategy

_LOGGED_AS = "split_federated/"


def checkpoint_settings(strategy: "SplitFederatedStrategy") -> Settings:
    """The arguments that decide who trains when; a checkpoint of others is refused."""
    return {
        "algorithm": _algorithm_text(strategy.algorithm),
        "num_clients": strategy.num_clients,
        "clients_per_round": strategy.clients_per_round,
        "aggregate_every": strategy.aggregate_every,
        "batch_size": strategy.batch_size or 0,
        "weighting": strategy.weighting.value,
        "client_optimizer_state": strategy.client_optimizer_state.value,
        "codecs": str(strategy.codecs),
        "seed": strategy.seed,
    }


def log_settings(trainer: pl.Trainer, strategy: "SplitFederatedStrategy") -> None:
    """Tell the trainer's loggers the strategy's arguments. A cut that is still to be chosen is left out.

    They come in one call with the module's and the data module's own hyper-parameters, which Lightning logs once more
    afterwards: TensorBoard shows those of a run's first call alone.
    """
    if not trainer.enable_autolog_hparams:
        return
    module, data = trainer.lightning_module, getattr(trainer, "datamodule", None)
    own: dict[str, object] = {}
    for holder in (module, data):
        if holder is not None and holder._log_hyperparams:
            own.update(holder.hparams_initial)
    own.pop("_class_path", None)  # the command line's, which Lightning leaves out too
    settings: Settings = {
        **checkpoint_settings(strategy),
        "batch_size": strategy.batch_size or "the loader's",
        "partition": _partition_text(strategy.partition),
        "server_batching": strategy.server_batching.value,
        "server_inputs": ", ".join(strategy.server_inputs) or "none",
        "nonfinite": strategy.nonfinite.value,
    }
    if not strategy.algorithm.uses_cut:
        settings["cut"] = "none"
    elif strategy.cut is not None:
        settings["cut"] = cuts_text(Cuts.given(strategy.cut, strategy.num_clients))
    _log(trainer, settings, own)


def log_chosen_cut(trainer: pl.Trainer, cuts: Cuts) -> None:
    """Tell the trainer's loggers the cut that was chosen."""
    if trainer.enable_autolog_hparams:
        _log(trainer, {"cut": cuts_text(cuts)}, {})


def _log(trainer: pl.Trainer, settings: Settings, beside: Mapping[str, object]) -> None:
    named = {f"{_LOGGED_AS}{name}": value for name, value in settings.items()}
    for logger in trainer.loggers:
        logger.log_hyperparams({**beside, **named})


def cuts_text(cuts: Cuts) -> str:
    """The cuts in words: one name, or every name with its clients, as in ``model.1: 0, 2-4; model.3: 1``.

    Those of a U-shape are joined by ``to``.
    """
    if cuts.last is not None:
        return f"{cuts_text(dataclasses.replace(cuts, last=None))} to {cuts.last}"
    if not cuts.by_client:
        return str(cuts.default)
    clients = range(cuts.num_clients)
    texts = [f"{name}: {_ranges([client for client in clients if cuts.of(client) == name])}" for name in cuts.names]
    return "; ".join(texts)


def _ranges(clients: list[int]) -> str:
    """Ascending numbers, those in a row as ``first-last``."""
    texts: list[str] = []
    begin = 0
    for place, client in enumerate(clients):
        if place + 1 == len(clients) or clients[place + 1] != client + 1:
            first = clients[begin]
            texts.append(str(first) if first == client else f"{first}-{client}")
            begin = place + 1
    return ", ".join(texts)


def _algorithm_text(algorithm: Algorithm) -> str:
    """An algorithm's name, with its hyper-parameters where it has any."""
    return str(algorithm) if isinstance(algorithm, ForwardOnly) else algorithm.name


def _partition_text(partition: Partition) -> str:
    """How a partition writes itself; a user's own that does not goes by the name of its class."""
    kind = type(partition)
    writes_itself = kind.__str__ is not object.__str__ or kind.__repr__ is not object.__repr__
    return str(partition) if writes_itself else kind.__name__
