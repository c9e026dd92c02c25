"""How far smashed data are from those that were sent, free of their scale."""

from collections.abc import Sequence

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """In at least 32 bits: sums of squares overflow or stall in 16."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def carries_nothing(smashed: Sequence[Tensor]) -> bool:
    """Whether smashed data are all zero, or not all finite, so that no distance to them can be told."""
    return not all(tensor.isfinite().all() for tensor in smashed) or not any(tensor.any() for tensor in smashed)


def relative_distance(smashed: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """‖f(x) − z‖² / ‖z‖² over all crossing tensors and records together: the fit of a guess, 0 if it explains all."""
    distance = torch.stack([(wide(ours) - wide(sent)).square().sum() for ours, sent in _pairs(smashed, target)]).sum()
    return distance / torch.stack([wide(sent).square().sum() for sent in target]).sum()


def relative_distance_B(smashed: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """The same of every record by itself, of tensors whose first axis counts records; shape (B,)."""
    distance = torch.stack(
        [(wide(ours) - wide(sent)).square().flatten(1).sum(1) for ours, sent in _pairs(smashed, target)]
    ).sum(0)
    return distance / torch.stack([wide(sent).square().flatten(1).sum(1) for sent in target]).sum(0)


def _pairs(smashed: Sequence[Tensor], target: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(smashed, target, strict=True))
