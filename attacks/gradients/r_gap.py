"""How much of a layer's input its equations hold: R-GAP's rank, a predictor of leakage that costs no search."""

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerRank:
    """The rank of what is known of one layer's input.

    Attributes:
        rank: Independent linear equations, from the layer's output and from its weight gradient.
        unknowns: Numbers in its input.
    """

    rank: int
    unknowns: int

    @property
    def share(self) -> float:
        """1 where the input follows uniquely, less where it does not."""
        return self.rank / self.unknowns


def layer_rank(
    weight: Tensor,
    output_gradient: Tensor,
    input_shape: tuple[int, ...],
    *,
    stride: int = 1,
    padding: int = 0,
    tolerance: float = 1e-6,
) -> LayerRank:
    """The rank of one layer's equations in its input, at batch 1.

    Zhu and Blaschko 2021, "R-GAP: Recursive Gradient Attack on Privacy":
    given the layer's output z and the gradient k at it, the input x solves W·x = z (weight constraints) and the linear
    system that writes dL/dW in x with coefficients k (gradient constraints). Whether x is unique is a matter of their
    joint rank, before anything is solved.

    Args:
        weight: (O, I) of a fully connected layer, or (O, C, h, w) of a convolution without groups or dilation.
        output_gradient: dL/dz, (O,) or (O, H′, W′).
        input_shape: (I,) or (C, H, W).
        stride: Of a convolution.
        padding: Zeros on every side.
        tolerance: Singular values below this share of the largest count as 0; both systems are scaled to length 1.
    """
    unknowns = int(torch.Size(input_shape).numel())
    units = torch.eye(unknowns, dtype=torch.float64, device=weight.device).reshape(unknowns, *input_shape)
    weight, output_gradient = weight.double(), output_gradient.double()
    if weight.dim() == 2:
        forward = units @ weight.T
        backward = torch.einsum("o,ni->noi", output_gradient, units)
    else:
        forward = conv2d(units, weight, stride=stride, padding=padding)
        # dL/dW of a convolution is its input correlated with dL/dz: linear in the input, channel by channel.
        backward = torch.stack(
            [conv2d_weight(u[None], weight.shape, output_gradient[None], stride, padding) for u in units]
        )
    systems = [system.flatten(1) for system in (forward, backward)]
    equations = torch.cat([s / n for s in systems if bool((n := s.norm()) > 0)] or [systems[0]], dim=1)
    values = torch.linalg.svdvals(equations)
    rank = int((values > tolerance * values.max()).sum()) if bool(values.max() > 0) else 0
    return LayerRank(rank=rank, unknowns=unknowns)
