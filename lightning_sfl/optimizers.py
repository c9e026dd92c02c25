"""Copies of the user's optimizer for parties that step their own weights, and optimizer state by parameter name."""

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

State = dict[str, Any]
"""One parameter's optimizer state: tensors, numbers and None, by key."""


def check_optimizer(optimizer: Optimizer) -> None:
    """Raise a ValueError unless every party can have a copy of this optimizer."""
    name = type(optimizer).__name__
    if isinstance(optimizer, LBFGS):
        raise ValueError(
            f"configure_optimizers returned {name}, which calls the whole model several times per step and cannot be"
            " split among clients and server. Any torch optimizer that steps from gradients is accepted."
        )
    for attribute, value in vars(optimizer).items():
        if isinstance(value, Optimizer):
            raise ValueError(
                f"configure_optimizers returned {name}, which wraps another optimizer"
                f" ({attribute}={type(value).__name__}); a party's copy of it would"
                " still step the whole model. Give the inner optimizer alone."
            )


def copy_optimizer(optimizer: Optimizer, own: Mapping[Tensor, nn.Parameter]) -> Optimizer | None:
    """A copy of ``optimizer`` that steps a party's own parameters, with no state yet.

    The groups keep their values and their order; parameters outside ``own`` are left out. Attributes that a user's
    subclass set come along by reference.

    Args:
        optimizer: The user's optimizer.
        own: The party's own parameter for each of the module's parameters it owns.

    Returns:
        The copy, or None if the optimizer steps none of the party's parameters.
    """
    groups = [
        {**group, "params": [own[parameter] for parameter in group["params"] if parameter in own]}
        for group in optimizer.param_groups
    ]
    if not any(group["params"] for group in groups):
        return None
    # Made without __init__, whose signature is the subclass's own affair, and without the instance's `step`, which a
    # learning rate scheduler has bound to the user's optimizer.
    copied: Optimizer = object.__new__(type(optimizer))
    copied.__dict__.update({key: value for key, value in vars(optimizer).items() if key != "step"})
    copied.state = defaultdict(dict)
    copied.param_groups = [group for group in groups if group["params"]]
    if "_optimizer_state_dict_pre_hooks" in copied.__dict__:
        copied.__dict__["_optimizer_state_dict_pre_hooks"] = OrderedDict()
    return copied


def follow_groups(optimizer: Optimizer, copied: Optimizer, own: Mapping[Tensor, nn.Parameter]) -> None:
    """Give the copy the current values of the user's groups (learning rate, ...), as schedulers set them."""
    followed = [group for group in optimizer.param_groups if any(parameter in own for parameter in group["params"])]
    for group, ours in zip(followed, copied.param_groups, strict=True):
        ours.update({key: value for key, value in group.items() if key != "params"})


def clone_state(state: Mapping[str, Any]) -> State:
    """A copy of one parameter's state that shares no tensor with it."""
    return {key: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value) for key, value in state.items()}


def mean_state(states: list[Mapping[str, Any]], weights: list[float]) -> State:
    """The weighted mean of one parameter's state over parties.

    Floating tensors and numbers are averaged, integers take the maximum, and what is equal everywhere (step counts)
    stays exactly as it is. Parties whose state is empty (they have not stepped yet) count with nothing.

    Args:
        states: The parties' states of this parameter.
        weights: Their weights, summing to 1.
    """
    stepped = [(state, weight) for state, weight in zip(states, weights, strict=True) if state]
    if not stepped:
        return {}
    total = sum(weight for _, weight in stepped)
    keys = stepped[0][0].keys()
    return {key: mean_value([state[key] for state, _ in stepped], [w / total for _, w in stepped]) for key in keys}


def mean_value(values: list[Any], weights: list[float]) -> Any:
    """The weighted mean of one value over parties, by the rules of :func:`mean_state`."""
    first = values[0]
    if isinstance(first, Tensor):
        return mean_tensor(values, weights, keep_equal=first.numel() == 1)
    if isinstance(first, list | tuple):
        parts = zip(*values, strict=True)
        return type(first)(mean_value(list(part), weights) for part in parts)
    if isinstance(first, float) and any(value != first for value in values):
        return sum(value * weight for value, weight in zip(values, weights, strict=True))
    if isinstance(first, int) and not isinstance(first, bool):
        return max(values)
    return first


def mean_tensor(tensors: list[Tensor], weights: list[float], *, keep_equal: bool = False) -> Tensor:
    """The weighted mean of tensors; the maximum for integer ones. Of one tensor with weight 1 it is an exact copy.

    Args:
        tensors: The tensors, of one shape and type.
        weights: Their weights, summing to 1.
        keep_equal: Whether what is equal everywhere is kept exactly, where a rounded mean would drift from round to
            round (step counts, constants in buffers).
    """
    first = tensors[0]
    if keep_equal and all(torch.equal(first, other) for other in tensors[1:]):
        return first.clone()
    if not (first.is_floating_point() or first.is_complex()):
        largest = first.clone()
        for other in tensors[1:]:
            largest = largest | other if largest.dtype is torch.bool else torch.maximum(largest, other)
        return largest
    mean = first * weights[0]
    for other, weight in zip(tensors[1:], weights[1:], strict=True):
        mean.add_(other, alpha=weight)
    return mean


def pack_states(states: Mapping[str, State]) -> dict[str, Tensor]:
    """Optimizer states as the tensors of a message: numbers become single 64-bit elements, None is left out."""
    packed: dict[str, Tensor] = {}
    for parameter, state in states.items():
        for key, value in state.items():
            _pack(f"{parameter}/{key}", value, packed)
    return packed


def _pack(name: str, value: object, packed: dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        packed[name] = value
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            _pack(f"{name}/{place}", part, packed)
    elif isinstance(value, int | float):
        packed[name] = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)
    elif value is not None:
        raise ValueError(
            f"The optimizer keeps a {type(value).__name__} in its state ({name}), which cannot be sent and averaged:"
            " tensors, numbers, None and lists of them are accepted."
        )


def unpack_states(received: Mapping[str, Tensor], like: Mapping[str, State]) -> dict[str, State]:
    """Optimizer states from a message's tensors, put together like the states ``like``."""
    return {
        parameter: {key: _unpack(f"{parameter}/{key}", value, received) for key, value in state.items()}
        for parameter, state in like.items()
    }


def _unpack(name: str, like: Any, received: Mapping[str, Tensor]) -> Any:
    if isinstance(like, list | tuple):
        return type(like)(_unpack(f"{name}/{place}", part, received) for place, part in enumerate(like))
    if isinstance(like, int | float):
        return type(like)(received[name].item())
    return None if like is None else received[name]
