"""What the equations of a whole model's gradient hold of one record, before anything is solved."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attacks.gradients.r_gap import layer_rank
from attacks.program import Program, Weights

LEAST_SHARE = "R-GAP: least share of a layer's input that its equations hold"
FIRST_SHARE = "R-GAP: share of the image that the equations of the first layer hold"
IN_CLOSED_FORM = "whether a fully connected layer gives the image away in closed form"

_MOST_UNKNOWNS = 1024
"""Larger layers are counted, not decomposed: a rank costs their cube."""


def indicators_of_whole_model(program: Program, weights: Weights, image_1CHW: Tensor, label: int) -> dict[str, float]:
    """How far the gradient of one record determines it, layer by layer, without a search.

    R-GAP (Zhu and Blaschko 2021) solves one layer after the other, from the last one back: where each holds its input
    (a share of 1), so does the gradient hold the image. Layers of more than 1024 inputs are only counted, equations
    against unknowns, which is an upper bound. Layers that it has no equations for (normalisations, pooling, groups)
    are passed over, so that a share of 1 predicts a leak and does not prove it.

    Args:
        program: The whole model's program.
        weights: The weights that the client began from.
        image_1CHW: One image as the model is given it: the attacker's own, of the same kind.
        label: Its class.

    Returns:
        Figures by name, from 0 to 1; none of the layers' where the model has no fitting layer.
    """
    name, _, _ = program.image_input(1)
    trained = {key: tensor.detach().clone() for key, tensor in weights.items()}
    for key in program.trainable(tuple(trained)):
        trained[key].requires_grad_()
    known = {program.label_input(): torch.tensor([label], device=image_1CHW.device)}
    with _watched(program.module) as calls:
        loss = program.loss(trained, {name: image_1CHW}, known)
    gradients = torch.autograd.grad(loss, [output for _, _, _, output in calls], materialize_grads=True)
    shares: list[float] = []
    closed = 0.0
    for (layer, weight, shape, output), gradient in zip(calls, gradients, strict=True):
        shares.append(_share(layer, weight, shape, output, gradient[0]))
        reads_image = isinstance(layer, nn.Linear) and layer.bias is not None and math.prod(shape) == image_1CHW.numel()
        if reads_image and bool(gradient.any()):
            closed = 1.0
    found = {IN_CLOSED_FORM: closed}
    return {LEAST_SHARE: min(shares), FIRST_SHARE: shares[0], **found} if shares else found


Call = tuple[nn.Linear | nn.Conv2d, Tensor, tuple[int, ...], Tensor]
"""A layer, the weight it ran with, the shape of one record's input, and its output."""


@contextlib.contextmanager
def _watched(module: nn.Module) -> Iterator[list[Call]]:
    calls: list[Call] = []

    def take(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        calls.append((layer, layer.weight.detach(), tuple(inputs[0].shape[1:]), output))

    with contextlib.ExitStack() as hooks:
        for part in module.modules():
            if isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and _has_equations(part)):
                hooks.callback(part.register_forward_hook(take).remove)
        yield calls


def _has_equations(layer: nn.Conv2d) -> bool:
    """Whether its geometry is one that ranks are computed for."""
    square = len(set(layer.stride)) == 1 and not isinstance(layer.padding, str) and len(set(layer.padding)) == 1
    return square and layer.groups == 1 and set(layer.dilation) == {1} and layer.padding_mode == "zeros"


def _share(
    layer: nn.Linear | nn.Conv2d, weight: Tensor, shape: tuple[int, ...], output: Tensor, gradient: Tensor
) -> float:
    unknowns = math.prod(shape)
    if unknowns > _MOST_UNKNOWNS:
        return min(1.0, (output[0].numel() + weight.numel()) / unknowns)
    if isinstance(layer, nn.Linear):
        return layer_rank(weight, gradient.reshape(-1, weight.shape[0]).sum(0), shape).share
    padding = layer.padding[0]
    assert isinstance(padding, int)
    return layer_rank(weight, gradient, shape, stride=layer.stride[0], padding=padding).share
