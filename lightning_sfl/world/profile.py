"""The profile of a cut: what the client's half computes and holds, measured on a copy of the model."""

import dataclasses
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from lightning_sfl.cut.batch import copied_batch, record_count
from lightning_sfl.cut.find import Cut, Step, copied_module, training_step
from lightning_sfl.cut.modes import halt
from lightning_sfl.optimizers import copy_optimizer
from lightning_sfl.random_state import RandomState


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutProfile:
    """What a client pays at one cut. 1 multiply-accumulate counts as 2 FLOP.

    Attributes:
        cut: Name of the cut module.
        client_forward_flop_per_sample: Matrix products, convolutions and attention in the client's forward pass.
        client_backward_flop_per_sample: The same in its backward pass.
        smashed_byte_per_sample: What crosses up per sample, in the precision of the step, uncompressed.
        client_parameters: Number of parameters the client holds.
        client_parameter_byte: Their bytes.
        client_training_memory_byte: Weights, buffers, gradients, optimizer state and saved activations of the client at
            ``batch_size``; a count of tensors, without what a kernel needs for a moment.
        batch_size: The batch that the training memory is for.
    """

    cut: str
    client_forward_flop_per_sample: float
    client_backward_flop_per_sample: float
    smashed_byte_per_sample: float
    client_parameters: int
    client_parameter_byte: int
    client_training_memory_byte: int
    batch_size: int


def profile_cut(
    module: nn.Module, batch: object, cut: Cut, optimizer: Optimizer | None = None, *, step: Step = training_step
) -> CutProfile:
    """Measure the client's half of one training step.

    The half runs once, forward and backward, on a copy of the module; module and random state stay as they are.

    Args:
        module: The module.
        batch: A client's batch, in the precision that it has on its way into the step.
        cut: The cut, from ``find_cuts``.
        optimizer: The module's optimizer, for the size of its state; None counts no state.
        step: How to run one step.
    """
    copied = copied_module(module)
    names = {
        own: copied.get_parameter(name)
        for name, own in module.named_parameters()
        if name in cut.split.client_parameters
    }
    samples = record_count(batch)
    saved = _SavedBytes(copied)
    forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
    state = RandomState.capture()
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.filterwarnings("ignore", message="You are trying to `self.log\\(\\)`")
        with saved, forward:
            halted = halt(copied, cut.split, lambda: step(copied, copied_batch(batch)))
        with backward:
            halted.backward([torch.ones_like(tensor) for tensor in halted.smashed])
    state.restore()
    client = [copied.get_parameter(name) for name in cut.split.client_parameters]
    buffers = [copied.get_buffer(name) for name in cut.split.client_buffers]
    trained = [parameter for parameter in client if parameter.grad is not None]
    return CutProfile(
        cut=cut.name,
        client_forward_flop_per_sample=forward.get_total_flops() / samples,
        client_backward_flop_per_sample=backward.get_total_flops() / samples,
        smashed_byte_per_sample=_bytes(list(halted.smashed)) / samples,
        client_parameters=cut.client_parameters,
        client_parameter_byte=_bytes(client),
        client_training_memory_byte=_bytes(client)
        + _bytes(buffers)
        + _bytes([parameter.grad for parameter in trained if parameter.grad is not None])
        + (0 if optimizer is None else _optimizer_state_byte(optimizer, names))
        + saved.total_byte,
        batch_size=samples,
    )


class _SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Adds up what autograd saves for the backward pass, every storage once, the module's own tensors left out."""

    def __init__(self, module: nn.Module) -> None:
        self._storages: dict[int, int] = {}
        self._own = {t.untyped_storage().data_ptr() for t in [*module.parameters(), *module.buffers()]}
        super().__init__(self._save, self._load)

    def _save(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    @staticmethod
    def _load(tensor: Tensor) -> Tensor:
        return tensor

    @property
    def total_byte(self) -> int:
        return sum(self._storages.values())


def _bytes(tensors: list[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _optimizer_state_byte(optimizer: Optimizer, copied: dict[nn.Parameter, nn.Parameter]) -> int:
    """Bytes of state after one step of a copy of the optimizer on the copied client parameters."""
    own = {
        parameter: copied[parameter]
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter in copied
    }
    stepper = copy_optimizer(optimizer, own)
    if stepper is None:
        return 0
    stepper.step()
    return sum(
        _bytes([value for value in state.values() if isinstance(value, Tensor)]) for state in stepper.state.values()
    )
