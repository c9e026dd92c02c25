"""Several local steps seen as one gradient: what a client sends that trains between two aggregations."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.gradients.victim import GradientOf, Gradients, LossOf, module_state, widened


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalSGD:
    """How a client trains between two aggregations, as far as the attacker knows or assumes.

    Args:
        steps: Steps of SGD, each on its own batch, in the order in which the images are given.
        learning_rate: Of every step.
        momentum: Of SGD, without dampening, starting from 0.
        weight_decay: Of SGD, added to the gradient.
    """

    steps: int
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} is not accepted: give an integer of at least 1.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} is not accepted: give a number above 0.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} is not accepted: give a number from 0 to below 1.")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay={self.weight_decay} is not accepted: give a number of at least 0.")


def of_local_steps(module: nn.Module, loss: LossOf, local: LocalSGD, passes: int = 1) -> GradientOf:
    """A victim whose "gradient" is the update θ′ − θ of several local steps, divided by −(learning rate · steps).

    Geiping et al. 2020 (section 6) and Dimitrov et al. 2022 ("Data Leakage in Federated Averaging", section 4) match
    what the simulated steps add up to: the steps are unrolled, so that the update can be differentiated by the images.
    It takes the images of all steps as one batch, (steps · B, C, H, W) with their labels, the first B for the first
    step. With ``passes`` the same batches are gone through again, one pass after the other, as in several local epochs
    without shuffling. Where the order is shuffled or not known, this is only an approximation.

    Compare with :func:`update_seen`, which makes the same of the update that crossed.
    """
    if passes < 1:
        raise ValueError(f"passes={passes} is not accepted: give an integer of at least 1.")
    state = module_state(module)

    def update(images: Tensor, labels: Tensor) -> Gradients:
        if len(images) % local.steps or len(labels) != len(images):
            raise ValueError(
                f"{len(images)} images with {len(labels)} labels are not accepted: {local.steps} steps take equally"
                " many images each, and a label for every one."
            )
        differentiable = torch.is_grad_enabled()
        batches = (
            list(zip(images.to(state.dtype).chunk(local.steps), state.labels(labels).chunk(local.steps), strict=True))
            * passes
        )
        with torch.enable_grad():
            weights = dict(state.trainable)
            velocity = {name: torch.zeros_like(weight) for name, weight in weights.items()}
            for step_images, step_labels in batches:
                value = loss(functional_call(state.module, state.with_weights(weights), (step_images,)), step_labels)
                slopes = torch.autograd.grad(
                    value, tuple(weights.values()), create_graph=differentiable, materialize_grads=True
                )
                for (name, weight), slope in zip(weights.items(), slopes, strict=True):
                    velocity[name] = local.momentum * velocity[name] + slope + local.weight_decay * weight
                weights = {
                    name: _step(weight, local.learning_rate * velocity[name], differentiable)
                    for name, weight in weights.items()
                }
            moved = tuple(after - state.trainable[name] for name, after in weights.items())
        scaled = update_seen(moved, local, passes)
        return scaled if differentiable else tuple(tensor.detach() for tensor in scaled)

    return update


def update_seen(update: Gradients, local: LocalSGD, passes: int = 1) -> Gradients:
    """θ′ − θ in the units of :func:`of_local_steps`: as a mean gradient."""
    return tuple(-widened(tensor) / (local.learning_rate * local.steps * passes) for tensor in update)


def _step(weight: Tensor, move: Tensor, differentiable: bool) -> Tensor:
    after = weight - move
    # Without a graph to keep, the next step starts from a leaf.
    return after if differentiable else after.detach().requires_grad_()
