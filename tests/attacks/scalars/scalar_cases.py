"""Halves that are probed by hand, in double precision."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.images import ImageSpace
from attacks.scalars.probed import Probed

MU = 1e-3


def probed_half(half: nn.Module, images_BCHW: Tensor, probes: int, *, seed: int = 0) -> tuple[Probed, Tensor]:
    """A half as an attacker probes it, and the scalars of these images, computed as the client does."""
    half = half.double()
    draw = torch.Generator().manual_seed(seed)
    weights = {name: own.detach() for name, own in half.named_parameters()}
    moved = [
        {name: own + MU * torch.randn(own.shape, generator=draw, dtype=own.dtype) for name, own in weights.items()}
        for _ in range(probes)
    ]

    def forward(probe: int | None, images: Tensor) -> tuple[Tensor, ...]:
        return (functional_call(half, weights if probe is None else moved[probe], (images.double(),)),)

    smashed = forward(None, images_BCHW)[0].detach()
    cut_gradient = torch.randn(smashed.shape, generator=draw, dtype=smashed.dtype) / smashed.shape[0]
    with torch.no_grad():
        sent = [((forward(p, images_BCHW)[0] - smashed) * cut_gradient).sum() for p in range(probes)]
    _, channels, height, width = images_BCHW.shape
    space = ImageSpace(shape_CHW=(channels, height, width))
    return Probed(forward, (cut_gradient,), probes, space), torch.stack(sent)


def linear(pixels: int, features: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, features))


def noise_images(records: int, channels: int, size: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(records, channels, size, size, generator=draw, dtype=torch.float64)
