"""Small client halves of which it is known what can be had back from their smashed data."""

import torch
from torch import Tensor, nn


def orthogonal(size: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)))[0]


def orthogonal_1x1(channels: int, seed: int = 0) -> nn.Conv2d:
    """A 1x1 convolution by an orthogonal matrix of channels."""
    convolution = nn.Conv2d(channels, channels, 1, bias=False).requires_grad_(False)
    convolution.weight.data = orthogonal(channels, seed)[:, :, None, None].contiguous()
    return convolution


def mixing_3x3(channels: int, seed: int = 0) -> nn.Conv2d:
    """A 3x3 convolution that shifts every channel around the torus, each another way, then mixes them orthogonally."""
    convolution = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular", bias=False).requires_grad_(False)
    weight = torch.zeros_like(convolution.weight)
    for channel, column in enumerate(orthogonal(channels, seed).T):
        weight[:, channel, channel % 3, (channel + 1) % 3] = column
    convolution.weight.data = weight
    return convolution


def noise_images(records: int, channels: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(records, channels, size, size, generator=torch.Generator().manual_seed(seed))
