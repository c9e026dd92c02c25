"""What a client's optimizer holds between steps, what of it is sent, and what it takes for a moment in a step."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_sfl.cut.weightless import has_values
from lightning_sfl.optimizers import State, copy_optimizer, pack_states
from lightning_sfl.world.model.ledger import Ledger


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stepping:
    """One parameter's share of an optimizer step.

    Attributes:
        gradient_byte: Its gradient.
        state_byte: Its state between steps.
        state_bit: Its state as a message.
        transient_byte: The most that a step takes beside these while it works on this parameter.
    """

    gradient_byte: int = 0
    state_byte: int = 0
    state_bit: int = 0
    transient_byte: float = 0.0


def steppings(module: nn.Module, optimizer: Optimizer | None) -> dict[str, Stepping]:
    """By name, the share of every parameter that is trained; without an optimizer, of gradients alone.

    Two steps are taken on parameters without values; the first one makes the state. An optimizer that looks at values
    steps on parameters that have them.

    Raises:
        ValueError: The optimizer looks at values, and the module has none.
    """
    if optimizer is None:
        return _steppings(module, None, "meta")
    try:
        return _steppings(module, optimizer, "meta")
    except (RuntimeError, NotImplementedError) as error:
        if not has_values(module):
            raise ValueError(
                f"{type(module).__name__} holds no values, and a step of {type(optimizer).__name__} looks at some"
                f" ({error}). Build the module with weights, or leave the optimizer out."
            ) from error
        return _steppings(module, optimizer, "cpu")


def _steppings(module: nn.Module, optimizer: Optimizer | None, device: str) -> dict[str, Stepping]:
    own: dict[Tensor, nn.Parameter] = {
        parameter: nn.Parameter(torch.ones(parameter.shape, dtype=parameter.dtype, device=device))
        for parameter in module.parameters()
        if parameter.requires_grad
    }
    names = {own[parameter]: name for name, parameter in module.named_parameters() if parameter in own}
    stepper = None if optimizer is None else copy_optimizer(optimizer, own)
    transient = {} if stepper is None else _transient_byte(stepper, names)
    return {
        name: _stepping(parameter, {} if stepper is None else stepper.state[parameter], transient.get(name, 0.0))
        for parameter, name in names.items()
    }


def steps_together(optimizer: Optimizer | None) -> bool:
    """Whether a step works on all parameters at a time, as ``foreach=True`` asks for, rather than one by one."""
    return optimizer is not None and any(group.get("foreach") for group in optimizer.param_groups)


def _stepping(parameter: nn.Parameter, state: State, transient_byte: float) -> Stepping:
    sent = pack_states({"": state})
    return Stepping(
        gradient_byte=_byte(parameter),
        state_byte=sum(_byte(value) for value in state.values() if isinstance(value, Tensor)),
        state_bit=8 * sum(map(_byte, sent.values())),
        transient_byte=transient_byte,
    )


def _transient_byte(stepper: Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, float]:
    """By parameter, the most that a step takes beside what stays; a step on all together is shared out by size."""
    fused = any(group.get("fused") for group in stepper.param_groups)
    for group in stepper.param_groups:
        # Both ask for a device that is a GPU, or at least has values; the state is the same without.
        group.update({name: False for name in ("fused", "capturable") if name in group})
    stepped = [parameter for group in stepper.param_groups for parameter in group["params"]]
    for parameter in stepped:
        parameter.grad = torch.ones_like(parameter)
    stepper.step()
    if fused:  # one kernel for the whole step, which keeps nothing on the way
        return {}
    ledger, turns = Ledger(), _Turns()
    for parameter in stepped:
        assert parameter.grad is not None
        kept = [value for value in stepper.state[parameter].values() if isinstance(value, Tensor)]
        turns.add(names[parameter], [parameter, parameter.grad, *kept])
    with ledger.keeping(), turns:
        stepper.step()
    live = ledger.live_byte()
    if steps_together(stepper):
        most, all_byte = float(live.max(initial=0.0)), sum(map(_byte, stepped))
        return {names[parameter]: most * _byte(parameter) / all_byte for parameter in stepped}
    found: dict[str, float] = {}
    for name, byte in zip(turns.whose, live, strict=True):
        found[name] = max(found.get(name, 0.0), float(byte))
    return found


class _Turns(TorchDispatchMode):
    """Notes on whose behalf every operation of a step runs: that of the last parameter it was seen to touch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.whose: list[str] = []
        self._owner: dict[int, str] = {}
        self._now = ""

    def add(self, name: str, tensors: Iterable[Tensor]) -> None:
        """Say what belongs to a parameter."""
        for tensor in tensors:
            self._owner[tensor.untyped_storage()._cdata] = name

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        touched = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        owners = [self._owner[key] for t in touched if (key := t.untyped_storage()._cdata) in self._owner]
        self._now = owners[0] if owners else self._now
        self.whose.append(self._now)
        return func(*args, **(kwargs or {}))


def _byte(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
