"""What gives a gradient away: the victim as an attacker can run it, and how far two gradients are apart."""

import copy
import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

Gradients = tuple[Tensor, ...]
"""One tensor for each parameter: a gradient, or what several steps add up to."""

GradientOf = Callable[[Tensor, Tensor], Gradients]
"""(model input (B, C, H, W), labels) → gradients of the mean loss over the batch, by parameter.

Labels are int64 (B,) classes, or floating (B, K) shares of each class. Where gradients are enabled, what is returned
can be differentiated by the input and by floating labels."""

LossOf = Callable[[Tensor, Tensor], Tensor]
"""(scores (B, K), labels as above) → mean loss over the batch."""


@dataclasses.dataclass(frozen=True)
class ModuleState:
    """A module copied for an attacker, and the tensors it runs with.

    Attributes:
        module: The copy.
        trainable: Its trainable parameters, in the order of ``module.parameters()``.
        fixed: Frozen parameters and buffers.
        dtype: Of all that is floating.
    """

    module: nn.Module
    trainable: dict[str, Tensor]
    fixed: dict[str, Tensor]
    dtype: torch.dtype

    def with_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """What ``functional_call`` takes, with buffers that may be written to."""
        return {**weights, **{name: tensor.clone() for name, tensor in self.fixed.items()}}

    def labels(self, labels: Tensor) -> Tensor:
        """Classes as they are, shares of classes in the module's precision."""
        return labels.to(self.dtype) if labels.is_floating_point() else labels


def module_state(module: nn.Module, dtype: torch.dtype = torch.float32) -> ModuleState:
    """Copy a module, so that it may go on training and statistics that a normalisation keeps do not move.

    Layers train or evaluate as the module does at this moment, except dropout, which lets everything pass: nobody but
    the victim knows what it dropped. It runs in ``dtype``, of at least 32 bits, since differences of gradients
    would be lost in 16.
    """
    own = copy.deepcopy(module)
    for part in own.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.eval()
    parameters = {name: (_own(p, dtype), p.requires_grad) for name, p in own.named_parameters()}
    trainable = {name: tensor.requires_grad_() for name, (tensor, learns) in parameters.items() if learns}
    if not trainable:
        raise ValueError("The module has no trainable parameter, so it gives no gradient: thaw one.")
    frozen = {name: tensor for name, (tensor, learns) in parameters.items() if not learns}
    buffers = {name: _own(buffer, dtype) for name, buffer in own.named_buffers()}
    return ModuleState(own, trainable, {**frozen, **buffers}, dtype)


def of_module(module: nn.Module, loss: LossOf, dtype: torch.dtype = torch.float32) -> GradientOf:
    """The gradient of a module's trainable parameters, in the order of ``module.parameters()``.

    The module is copied as :func:`module_state` says. Images and shares of classes are taken in any precision.
    ``torch.float64`` costs more, and lets a search come nearer than rounding in 32 bits does.
    """
    state = module_state(module, dtype)

    def gradient(images: Tensor, labels: Tensor) -> Gradients:
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            scores = functional_call(state.module, state.with_weights(state.trainable), (images.to(state.dtype),))
            return torch.autograd.grad(
                loss(scores, state.labels(labels)),
                tuple(state.trainable.values()),
                create_graph=differentiable,
                materialize_grads=True,
            )

    return gradient


def observed(gradients: Sequence[Tensor]) -> Gradients:
    """What an attacker saw, in at least 32 bits and apart from any graph."""
    return tuple(widened(tensor.detach()) for tensor in gradients)


def carries_nothing(seen: Sequence[Tensor]) -> bool:
    """Whether nothing can be fitted to these gradients: all zero, or not all finite."""
    return not any(bool(tensor.any()) for tensor in seen) or not all(bool(tensor.isfinite().all()) for tensor in seen)


def cosine_distance(gradients: Sequence[Tensor], seen: Sequence[Tensor]) -> Tensor:
    """1 − ⟨g, g*⟩ / (‖g‖·‖g*‖) over all parameters as one vector (Geiping et al. 2020)."""
    product = torch.stack([(one * other).sum() for one, other in zip(gradients, seen, strict=True)]).sum()
    return 1 - product / (squared_norm(gradients) * squared_norm(seen)).clamp_min(1e-38).sqrt()


def direction_distance(gradients: Sequence[Tensor], seen: Sequence[Tensor]) -> Tensor:
    """Σ|g/‖g‖ − g*/‖g*‖| / Σ|g*/‖g*‖| over all parameters as one vector: a cosine's cousin with absolute values."""
    norm, seen_norm = (squared_norm(tensors).clamp_min(1e-38).sqrt() for tensors in (gradients, seen))
    apart = [(one / norm - other / seen_norm).abs().sum() for one, other in zip(gradients, seen, strict=True)]
    whole = [other.abs().sum() for other in seen]
    return torch.stack(apart).sum() * seen_norm / torch.stack(whole).sum()


def squared_distance(gradients: Sequence[Tensor], seen: Sequence[Tensor]) -> Tensor:
    """‖g − g*‖² / ‖g*‖² over all parameters as one vector."""
    apart = [one - other for one, other in zip(gradients, seen, strict=True)]
    return squared_norm(apart) / squared_norm(seen)


def squared_norm(tensors: Sequence[Tensor]) -> Tensor:
    """‖t‖² over all tensors as one vector."""
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum()


def widened(tensor: Tensor) -> Tensor:
    """Floating tensors in at least 32 bits, others as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)) if tensor.is_floating_point() else tensor


def _own(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype, copy=True) if tensor.is_floating_point() else tensor
