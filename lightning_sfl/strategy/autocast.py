"""The trainer's precision for a step on another device than the trainer's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import nn


@contextmanager
def train_step_context(precision: Precision, module: nn.Module) -> Iterator[None]:
    """The context of a training step wherever the module is.

    A mixed precision casts what runs on the trainer's device alone; copies that models are measured on are on the CPU.
    """
    with precision.train_step_context():
        device = next((parameter.device.type for parameter in module.parameters()), "cpu")
        if not isinstance(precision, MixedPrecision) or device == precision.device:
            yield
            return
        dtype = torch.bfloat16 if precision.precision == "bf16-mixed" else torch.half
        with torch.autocast("cpu" if device == "meta" else device, dtype=dtype, cache_enabled=False):
            yield
