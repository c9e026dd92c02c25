"""What the strategy refuses, and says so before anything has run or been written."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_sfl.cut.find import unknown_submodule
from lightning_sfl.link.log import MessageLog


def check_integer(name: str, value: object, *, least: int, or_none: bool = False) -> None:
    """Raise a ValueError unless ``value`` is an integer of at least ``least`` (or None, where allowed)."""
    if value is None and or_none:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        accepted = f"an integer of at least {least}" + (", or None" if or_none else "")
        raise ValueError(f"{name}={value!r} is not accepted: give {accepted}.")


Choice = TypeVar("Choice", bound=StrEnum)


def check_choice(name: str, value: str, choices: type[Choice]) -> Choice:
    """The choice called ``value``; a ValueError if there is none."""
    if value not in tuple(choices):
        raise ValueError(f"{name}={value!r} is not known. Accepted are {', '.join(repr(str(one)) for one in choices)}.")
    return choices(value)


def check_devices(devices: Sequence[torch.device] | None, num_nodes: int) -> None:
    """Raise a MisconfigurationException unless there is exactly one device."""
    count = len(devices) if devices else 1
    if count > 1 or num_nodes > 1:
        raise MisconfigurationException(
            f"Trainer(devices={count}, num_nodes={num_nodes}) with strategy='split_federated': all clients and the"
            " server run on one device for now. Give devices=1, num_nodes=1."
        )


def check_precision(precision: Precision) -> None:
    """Raise a MisconfigurationException for precisions whose loss scaling the parties do not share yet."""
    if isinstance(precision, MixedPrecision) and precision.scaler is not None:
        raise MisconfigurationException(
            f"Trainer(precision={precision.precision!r}) with strategy='split_federated': loss scaling is not shared"
            " between the parties yet. Accepted are '32-true', '64-true', 'bf16-mixed' and 'bf16-true'."
        )


def check_log(log: MessageLog | None) -> None:
    """Raise a MisconfigurationException if the log holds the messages of an earlier fit."""
    if log is not None and not log.is_empty():
        raise MisconfigurationException(
            "message_log holds the messages of an earlier fit already, and one log is one fit. Set"
            " strategy.message_log to a new MessageLog."
        )


def check_module(module: pl.LightningModule, trainer: pl.Trainer, cut: str | None) -> None:
    """Raise unless clients and server can train this module.

    Raises:
        MisconfigurationException: Manual optimization, compiled modules or gradient accumulation.
        CutError: The module has no submodule called ``cut``.
    """
    name = type(module).__name__
    if not module.automatic_optimization:
        raise MisconfigurationException(
            f"{name}.automatic_optimization=False: the strategy steps clients and server itself and needs automatic"
            " optimization. Return the loss from training_step and leave automatic_optimization=True."
        )
    if trainer.accumulate_grad_batches != 1:
        raise MisconfigurationException(
            f"Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}) with strategy='split_federated' is not"
            " supported yet. Give accumulate_grad_batches=1; aggregate_every sets the steps between aggregations."
        )
    if compiled := _compiled_submodules(module):
        raise MisconfigurationException(
            f"{name} holds compiled modules ({', '.join(map(repr, compiled))}), which ignore the hook at the cut"
            " silently. Train the module uncompiled."
        )
    if cut is not None and cut not in dict(module.named_modules()):
        raise unknown_submodule(module, cut)


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
