"""Inverting updates with the statistics of batch normalisation, which cross along with the weights."""

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.attacker import Attacker, UnavailableError
from attacks.gradients.inverting import InvertingGradients
from attacks.gradients.messages import OF_UPDATES, Target
from attacks.gradients.victim import GradientOf, Gradients, widened
from attacks.threat import Knowledge, ThreatModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class InvertingWithBatchStatistics(InvertingGradients):
    """Inverting gradients, by images whose batch statistics are the client's too.

    Yin et al. 2021 (GradInversion) add Σ‖μₗ − μₗ*‖ + ‖σₗ² − σₗ²*‖ with a weight to the distance of the gradients.
    Running statistics before and after a step say exactly what the batch's were, and of several steps a weighted mean
    of theirs. Here the statistics, scaled to a share of the observed gradient, are further entries of it.

    Args:
        statistics_weight: Absolute sum of all statistics against that of the gradient, at what was observed.
    """

    statistics_weight: float = 0.3

    name: ClassVar[str] = "inverting gradients with batch statistics"
    needs: ClassVar[ThreatModel] = dataclasses.replace(
        OF_UPDATES,
        name="white box of updates with batch statistics",
        knows=OF_UPDATES.knows | {Knowledge.BATCH_STATISTICS},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.statistics_weight > 0:
            raise ValueError(f"statistics_weight={self.statistics_weight} is not accepted: give a number above 0.")

    def targets(self, attacker: Attacker) -> list[Target]:
        """Updates with their statistics as further entries of what they show.

        Raises:
            UnavailableError: As for gradients alone, or no statistics cross.
        """
        return [self._with_statistics(attacker, target) for target in super().targets(attacker)]

    def _with_statistics(self, attacker: Attacker, target: Target) -> Target:
        held = {
            name: layer
            for name, layer in attacker.normalisations.items()
            if f"{name}.running_mean" in target.update.after and f"{name}.running_mean" in target.update.before
        }
        if not held:
            raise UnavailableError("no running statistics of batch normalisation are among what clients send.")
        steps = len(target.sizes)
        seen = tuple(
            batch_statistic(target.update.before[place], target.update.after[place], _momentum(layer), steps)
            for name, layer in held.items()
            for place in (f"{name}.running_mean", f"{name}.running_var")
        )
        whole = sum(float(tensor.abs().sum()) for tensor in target.gradients)
        part = sum(float(tensor.abs().sum()) for tensor in seen)
        scale = self.statistics_weight * whole / part if part > 0 else 1.0
        return dataclasses.replace(
            target,
            gradient_of=with_statistics(target.gradient_of, tuple(held.values()), steps, scale),
            gradients=(*target.gradients, *(scale * tensor for tensor in seen)),
        )


def batch_statistic(before: Tensor, after: Tensor, momentum: float, steps: int) -> Tensor:
    """A statistic of the batch, from the running one before and after a step.

    after = (1 − m)·before + m·batch, so batch = (after − (1 − m)·before) / m. Of several steps it is the mean of theirs
    weighted by :func:`shares_of_steps`.
    """
    kept = (1 - momentum) ** steps
    return (widened(after) - kept * widened(before)) / (1 - kept)


def shares_of_steps(momentum: float, steps: int) -> tuple[float, ...]:
    """How much of each step's batch is in running statistics after a round, of what all steps brought."""
    return tuple(momentum * (1 - momentum) ** (steps - 1 - k) / (1 - (1 - momentum) ** steps) for k in range(steps))


def with_statistics(gradient_of: GradientOf, layers: Sequence[nn.Module], steps: int, scale: float) -> GradientOf:
    """A victim that gives the scaled statistics of what enters some layers along with its gradient.

    Args:
        gradient_of: The victim; it runs these layers once for every step, in their order.
        layers: Layers of batch normalisation.
        steps: How many steps.
        scale: What statistics are multiplied by.
    """

    def victim(images: Tensor, labels: Tensor) -> Gradients:
        entered: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}

        def take(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            entered[layer].append(inputs[0].transpose(0, 1).flatten(1))

        with ExitStack() as hooks:
            for layer in layers:
                hooks.callback(layer.register_forward_pre_hook(take).remove)
            found = list(gradient_of(images, labels))
        for layer, of_steps in entered.items():
            shares = shares_of_steps(_momentum(layer), steps)
            # The variance is the unbiased one, as running statistics keep it.
            for own in ([values.mean(1) for values in of_steps], [values.var(1) for values in of_steps]):
                parts = [share * statistic for share, statistic in zip(shares, own, strict=True)]
                found.append(scale * torch.stack(parts).sum(0))
        return tuple(found)

    return victim


def _momentum(layer: nn.Module) -> float:
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
    assert layer.momentum is not None
    return layer.momentum
