"""Inverting gradients with the statistics of batch normalisation, where those crossed too."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from torch import Tensor, nn
from torch.func import functional_call

from attacks.gradients.victim import GradientOf, Gradients, ModuleState, module_state, widened

StatisticsOf = Callable[[Tensor], Gradients]
"""model input (B, C, H, W) → mean and variance by channel of what enters each normalisation, in the module's order."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def statistics_of(module: nn.Module) -> StatisticsOf:
    """The batch statistics that each BatchNorm layer of a module would take, as (mean, variance) pairs.

    The variance is the unbiased one, as running statistics keep it.

    Raises:
        ValueError: The module has no BatchNorm layer.
    """
    state = module_state(module)
    norms = [part for part in state.module.modules() if isinstance(part, _NORMS)]
    if not norms:
        raise ValueError("The module has no BatchNorm layer, so no batch statistics cross: attack without them.")

    def statistics(images: Tensor) -> Gradients:
        return _entering(state, norms, images)

    return statistics


def batch_statistics(before: Gradients, after: Gradients, momentum: float, steps: int = 1) -> Gradients:
    """The batch statistics of a step, from running ones before and after it.

    after = (1 − m)·before + m·batch, so batch = (after − (1 − m)·before) / m; over several steps with the same batch
    statistics 1 − m stands to the power of the steps, and it is a weighted mean of theirs.
    """
    if not 0 < momentum <= 1:
        raise ValueError(f"momentum={momentum} is not accepted: give a number above 0 and at most 1.")
    if steps < 1:
        raise ValueError(f"steps={steps} is not accepted: give an integer of at least 1.")
    kept = (1 - momentum) ** steps
    return tuple(
        (widened(late) - kept * widened(early)) / (1 - kept) for early, late in zip(before, after, strict=True)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithStatistics:
    """A victim that gives batch statistics away along with the gradient, as more entries to be matched.

    Yin et al. 2021 (GradInversion) add Σ‖μₗ − μₗ*‖ + ‖σₗ² − σₗ²*‖ with a weight to the distance of the
    gradients. Here the statistics, scaled to a share of the observed gradient, are entries of one long vector, so that
    any attack on gradients uses them.

    Args:
        gradient_of: The victim's gradient.
        statistics_of: Its batch statistics.
        weight: Absolute sum of all statistics against that of the gradient, at what was observed.
    """

    gradient_of: GradientOf
    statistics_of: StatisticsOf
    weight: float = 0.3

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight={self.weight} is not accepted: give a number above 0.")

    def joined(self, gradients: Gradients, statistics: Gradients) -> tuple[GradientOf, Gradients]:
        """A victim for any attack on gradients, and what it is compared with, from what crossed."""
        whole = sum(float(widened(tensor).abs().sum()) for tensor in gradients)
        part = sum(float(widened(tensor).abs().sum()) for tensor in statistics)
        scale = self.weight * whole / part if part > 0 else 1.0

        def victim(images: Tensor, labels: Tensor) -> Gradients:
            found = tuple(scale * tensor for tensor in self.statistics_of(images))
            return (*self.gradient_of(images, labels), *found)

        return victim, (*gradients, *(scale * widened(tensor) for tensor in statistics))


def _entering(state: ModuleState, norms: Sequence[nn.Module], images: Tensor) -> Gradients:
    found: list[Tensor] = []

    def take(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entering = inputs[0].transpose(0, 1).flatten(1)
        found.extend((entering.mean(1), entering.var(1)))

    with ExitStack() as hooks:
        for layer in norms:
            hooks.callback(layer.register_forward_pre_hook(take).remove)
        functional_call(state.module, state.with_weights(state.trainable), (images.to(state.dtype),))
    return tuple(found)
