"""What an attack on smashed data is handed of its victim: functions, never a module, a log or a strategy."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

Forward = Callable[[Tensor], tuple[Tensor, ...]]
"""The client's half: from input images (B, C, H, W) to the tensors that cross. White box: differentiable. Black box: a
query, which gives what crossed as the server decodes it."""

Program = Callable[[Mapping[str, Tensor], Tensor], tuple[Tensor, ...]]
"""The client's half with weights of the attacker's choice, by name; differentiable in weights and images."""

ServerLoss = Callable[[tuple[Tensor, ...], Tensor], Tensor]
"""The server's own half, frozen: its mean loss of smashed data and labels, differentiable in the smashed data."""


def forward_of(module: nn.Module) -> Forward:
    """The half that a module is, with the weights it has, which no gradient reaches.

    Batch statistics are those of the images at hand where the module is in training mode; its own are left alone.
    """
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
    program = program_of(module)
    return lambda images_BCHW: program(weights, images_BCHW)


def program_of(module: nn.Module) -> Program:
    """The program that a module is. Buffers that are not given are the module's, read and never written."""

    def run(weights: Mapping[str, Tensor], images_BCHW: Tensor) -> tuple[Tensor, ...]:
        # Batch normalisation writes into its buffers: copies.
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        dtype = next((tensor.dtype for tensor in weights.values() if tensor.is_floating_point()), images_BCHW.dtype)
        return as_tuple(functional_call(module, {**buffers, **weights}, (images_BCHW.to(dtype),)))

    return run


def server_loss_of(module: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> ServerLoss:
    """The loss behind a cut that one tensor crosses: ``loss(module(smashed), labels)``.

    No gradient reaches the weights. The module runs in the mode it is in; its buffers are left alone.
    """
    forward = forward_of(module)
    return lambda smashed, labels: loss(forward(smashed[0])[0], labels)


def as_tuple(output: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors that a half gives, which may be one."""
    return (output,) if isinstance(output, Tensor) else tuple(output)


def records_are_independent(forward: Forward, input_BCHW: Tensor) -> bool:
    """Whether the smashed data of a record do not depend on the records beside it (batch statistics tie them).

    An attacker finds out by himself: he changes all records but the first, and looks at the first.

    Args:
        forward: The attacker's copy of the client's half.
        input_BCHW: Input images, any that differ from one another.
    """
    records = len(input_BCHW)
    if records == 1:
        return True
    # Copies of the first: rearranged images would leave the statistics of the batch as they are.
    others_BCHW = input_BCHW[:1].expand_as(input_BCHW).contiguous()
    with torch.no_grad():
        pairs = list(zip(forward(input_BCHW), forward(others_BCHW), strict=True))
    if any(one.ndim < 2 or len(one) != records for one, _ in pairs):
        return False  # what is one record's cannot be told
    return all(
        torch.allclose(one[0], other[0], rtol=1e-5, atol=1e-6 * float(one[0].abs().max())) for one, other in pairs
    )
