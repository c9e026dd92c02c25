"""What the strategy refuses, and says so before anything has run or been written."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.core.optimizer import _MockOptimizer
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import nn
from torch.optim import Optimizer

from lightning_sfl.algorithms.aggregation import ClientOptimizerState, Weighting
from lightning_sfl.algorithms.forward_only import ForwardOnly
from lightning_sfl.algorithms.placement import Algorithm
from lightning_sfl.cut.find import unknown_submodule
from lightning_sfl.data.loader import ClientLoader
from lightning_sfl.link.log import MessageLog
from lightning_sfl.optimizers import check_optimizer
from lightning_sfl.schedule import SequentialSchedule
from lightning_sfl.strategy.cuts import Cuts
from lightning_sfl.strategy.loss_scale import loss_scaler


def check_integer(name: str, value: object, *, least: int, or_none: bool = False) -> None:
    """Raise a ValueError unless ``value`` is an integer of at least ``least`` (or None, where allowed)."""
    if value is None and or_none:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        accepted = f"an integer of at least {least}" + (", or None" if or_none else "")
        raise ValueError(f"{name}={value!r} is not accepted: give {accepted}.")


def check_participants(clients_per_round: int | None, num_clients: int) -> int:
    """How many clients take part in a round; a ValueError if that is more than there are."""
    check_integer("clients_per_round", clients_per_round, least=1, or_none=True)
    if clients_per_round is not None and clients_per_round > num_clients:
        raise ValueError(f"clients_per_round={clients_per_round} is more than num_clients={num_clients}.")
    return clients_per_round or num_clients


def check_names(name: str, value: Sequence[str]) -> tuple[str, ...]:
    """The names in ``value``; a ValueError if it is one string, whose letters would be taken for names."""
    if isinstance(value, str):
        raise ValueError(f"{name}={value!r} is one name; give a sequence of names, ({value!r},).")
    return tuple(value)


Choice = TypeVar("Choice", bound=StrEnum)


def check_choice(name: str, value: str, choices: type[Choice]) -> Choice:
    """The choice called ``value``; a ValueError if there is none."""
    if value not in tuple(choices):
        raise ValueError(f"{name}={value!r} is not known. Accepted are {', '.join(repr(str(one)) for one in choices)}.")
    return choices(value)


class ServerBatching(StrEnum):
    """How the server runs on what several clients send."""

    PER_CLIENT = "per_client"
    MERGED = "merged"


def check_merging(batching: ServerBatching, algorithm: Algorithm, weighting: Weighting, cuts: Cuts) -> None:
    """Raise a ValueError if the server is to merge what cannot be one batch."""
    if batching is not ServerBatching.MERGED:
        return
    if algorithm.name != "splitfed_shared":
        raise ValueError(
            f"server_batching='merged' does not go with algorithm={algorithm.name!r}: one server model must be trained"
            " on all participants at once. Accepted is 'splitfed_shared'."
        )
    if weighting is Weighting.UNIFORM:
        raise ValueError(
            "server_batching='merged' does not go with weighting='uniform': the loss of a merged batch weights clients"
            " by their samples. Accepted are 'samples' and 'data'."
        )
    if cuts.by_client or cuts.last is not None:
        given = (cuts.default, cuts.last) if cuts.last is not None else cuts.names
        raise ValueError(
            f"server_batching='merged' does not go with the cuts {given}: all clients must cut at the same one place."
        )


def check_fit(trainer: pl.Trainer, algorithm: Algorithm, cuts: Cuts, log: MessageLog | None) -> None:
    """Raise unless this trainer's module can be fitted so; see the single checks."""
    check_accumulation(trainer, algorithm)
    check_module(trainer.lightning_module, trainer, cuts)
    check_head(algorithm, trainer.lightning_module)
    check_loss_scale(algorithm, trainer.precision_plugin)
    check_log(log)


def allocated_cuts(module: nn.Module, algorithm: Algorithm, cut: Sequence[str], now: Cuts) -> Cuts:
    """The cuts of an allocation.

    Raises:
        ValueError: The algorithm has no cut.
        CutError: A name is that of no submodule.
    """
    if not algorithm.uses_cut:
        raise ValueError(f"Allocation(cut=...) does not go with algorithm={algorithm.name!r}.")
    for name in sorted(set(cut) - {name for name, _ in module.named_modules()}):
        raise unknown_submodule(module, name)
    return Cuts.of_all(cut, now.last)


def check_forward_only(algorithm: Algorithm, cuts: Cuts, state: ClientOptimizerState) -> None:
    """Raise a ValueError for what does not go with clients that run forward only."""
    if not isinstance(algorithm, ForwardOnly):
        return
    if cuts.last is not None:
        raise ValueError(
            f"cut={(cuts.default, cuts.last)} does not go with algorithm={algorithm.name!r}: in a U-shape the client"
            " computes the loss and would have to backpropagate. Give one cut."
        )
    if state is not ClientOptimizerState.AVERAGE:
        raise ValueError(
            f"client_optimizer_state={state.value!r} does not go with algorithm={algorithm.name!r}, whose clients have"
            " the same optimizer state at all times. Accepted is 'average'."
        )


def check_loss_scale(algorithm: Algorithm, precision: Precision) -> None:
    """Raise a MisconfigurationException if steps may be skipped after clients were told of them."""
    if isinstance(algorithm, ForwardOnly) and loss_scaler(precision) is not None:
        raise MisconfigurationException(
            f"precision='16-mixed' does not go with algorithm={algorithm.name!r}: a loss scaler skips steps that"
            " overflow, when clients have made them already. Give precision='bf16-mixed' or '32-true'."
        )


def check_head(algorithm: Algorithm, module: pl.LightningModule) -> None:
    """Raise a MisconfigurationException if clients need an auxiliary head and the module has none."""
    head = algorithm.head if isinstance(algorithm, ForwardOnly) else None
    if head is None:
        return
    if head not in dict(module.named_modules()) or not callable(getattr(module, "auxiliary_loss", None)):
        raise MisconfigurationException(
            f"{type(module).__name__} with algorithm={algorithm.name!r} needs a submodule named {head!r} and a method"
            " auxiliary_loss(batch, *smashed), which returns that head's mean loss given the tensors that cross."
        )


def check_devices(devices: Sequence[torch.device] | None, num_nodes: int) -> None:
    """Raise a MisconfigurationException unless there is exactly one device."""
    count = len(devices) if devices else 1
    if count > 1 or num_nodes > 1:
        raise MisconfigurationException(
            f"Trainer(devices={count}, num_nodes={num_nodes}) with strategy='split_federated': all clients and the"
            " server run on one device for now. Give devices=1, num_nodes=1."
        )


def check_log(log: MessageLog | None) -> None:
    """Raise a MisconfigurationException if the log holds the messages of an earlier fit."""
    if log is not None and not log.is_empty():
        raise MisconfigurationException(
            "message_log holds the messages of an earlier fit already, and one log is one fit. Set"
            " strategy.message_log to a new MessageLog."
        )


def check_module(module: pl.LightningModule, trainer: pl.Trainer, cuts: Cuts) -> None:
    """Raise unless clients and server can train this module.

    Raises:
        MisconfigurationException: Manual optimization, a step that draws its own batches, compiled modules, a schedule
            of gradient accumulation or stochastic weight averaging.
        CutError: The module has no submodule of a cut's name.
    """
    name = type(module).__name__
    if not module.automatic_optimization:
        raise MisconfigurationException(
            f"{name}.automatic_optimization=False: the strategy steps clients and server itself and needs automatic"
            " optimization. Return the loss from training_step and leave automatic_optimization=True."
        )
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        raise MisconfigurationException(
            f"{name}.training_step(dataloader_iter) draws its own batches; the strategy hands every client its own."
            " Give it the arguments (batch, batch_idx)."
        )
    callbacks = getattr(trainer, "callbacks", [])
    for callback in callbacks:
        if isinstance(callback, GradientAccumulationScheduler) and callback.going_to_accumulate_grad_batches():
            raise MisconfigurationException(
                f"GradientAccumulationScheduler(scheduling={callback.scheduling}) with strategy='split_federated' is"
                " not supported: rounds count optimizer steps, and all of a run are made of as many batches. Give"
                " Trainer(accumulate_grad_batches=...) instead."
            )
    if any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks):
        raise MisconfigurationException(
            "StochasticWeightAveraging with strategy='split_federated': it accumulates over an epoch and runs one"
            " without steps, which clients cannot follow. The WeightAveraging callback is accepted."
        )
    if compiled := _compiled_submodules(module):
        raise MisconfigurationException(
            f"{name} holds compiled modules ({', '.join(map(repr, compiled))}), which ignore the hook at the cut"
            " silently. Train the module uncompiled."
        )
    for cut in [*cuts.names, *([] if cuts.last is None else [cuts.last])]:
        if cut not in dict(module.named_modules()):
            raise unknown_submodule(module, cut)


def check_accumulation(trainer: pl.Trainer, algorithm: Algorithm) -> None:
    """Raise a MisconfigurationException if gradients are accumulated over batches of different clients."""
    if trainer.accumulate_grad_batches != 1 and issubclass(algorithm.schedule, SequentialSchedule):
        raise MisconfigurationException(
            f"Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}) with algorithm={algorithm.name!r}: a"
            " batch there is one client's, and the server steps on each. Give accumulate_grad_batches=1, or an"
            " algorithm in which clients train side by side: 'splitfed_shared', 'splitfed_v1' or 'fedavg'."
        )


def check_accumulates_on(trainer: pl.Trainer, accumulates: int) -> None:
    """Raise a MisconfigurationException if a callback has set over how many batches gradients are accumulated."""
    if trainer.accumulate_grad_batches != accumulates:
        raise MisconfigurationException(
            f"accumulate_grad_batches={trainer.accumulate_grad_batches} was set while training, which began with"
            f" {accumulates}. Rounds count optimizer steps, and the batches of later ones may be fetched already. Leave"
            " it as it was given to the Trainer."
        )


def check_optimizers(optimizers: Sequence[Optimizer]) -> None:
    """Raise unless there is one optimizer, and every party can have a copy of it.

    Raises:
        MisconfigurationException: There is none.
        ValueError: It cannot be copied for a party.
    """
    if len(optimizers) != 1 or isinstance(optimizers[0], _MockOptimizer):  # Lightning's stand-in for None
        raise MisconfigurationException(
            "configure_optimizers returned no optimizer; the strategy needs one, of which every party has a copy."
        )
    check_optimizer(optimizers[0])


def check_one_loader(trainer: pl.Trainer) -> None:
    """Raise a MisconfigurationException unless the training data are one loader, and not one in a collection."""
    combined = trainer.fit_loop._combined_loader
    if combined is not None and not isinstance(combined.iterables, ClientLoader):
        raise MisconfigurationException(
            f"The training data come as a {type(combined.iterables).__name__} of {len(combined.flattened)} loaders;"
            " their samples cannot be dealt out to clients. Give one DataLoader, for example over a"
            " torch.utils.data.ConcatDataset."
        )


def check_cut(cut: object, num_clients: int) -> str | tuple[str, str] | dict[int, str] | None:
    """Return ``cut`` if it is a module's name, two, one for every client, or None; else raise a ValueError."""
    if cut is None or (isinstance(cut, str) and cut):
        return cut
    if isinstance(cut, list | tuple) and len(cut) == 2 and all(isinstance(name, str) and name for name in cut):
        if cut[0] == cut[1]:
            raise ValueError(f"cut={cut!r}: the two cuts of a U-shape are different modules, the first one run first.")
        return (cut[0], cut[1])
    if isinstance(cut, Mapping) and all(isinstance(name, str) and name for name in cut.values()):
        if set(cut) != set(range(num_clients)):
            raise ValueError(f"cut={cut!r} must name a cut for every client, 0 to {num_clients - 1}.")
        return dict(cut)
    raise ValueError(
        f"cut={cut!r} is not accepted: give the name of a submodule, such as 'model.layer2', two of them for a U-shape"
        " (('first', 'last')), one for every client ({client: name}), or None."
    )


def _compiled_submodules(module: nn.Module) -> list[str]:
    compiled = [
        name or "the module itself"
        for name, submodule in module.named_modules()
        if isinstance(submodule, torch._dynamo.OptimizedModule)
        or getattr(submodule, "_compiled_call_impl", None) is not None
    ]
    if getattr(module, "_compiler_ctx", None) is not None:
        compiled.append("the module itself")
    return compiled
