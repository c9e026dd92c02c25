"""The best guesses that can be made without a single message."""

import torch
from torch import Tensor


def no_leak_guesses(
    auxiliary_BCHW: Tensor | None, shape: tuple[int, ...], low: float, high: float
) -> dict[str, Tensor]:
    """Guesses that use no message, by name, each of ``shape``.

    Args:
        auxiliary_BCHW: Images of the same kind that are not under attack; None if there are none.
        shape: Shape of the batch to guess, (records, channels, height, width).
        low: Smallest value a pixel can have.
        high: Largest.
    """
    guesses = {"mid-grey": torch.full(shape, (low + high) / 2)}
    if auxiliary_BCHW is not None:
        guesses["mean of auxiliary images"] = auxiliary_BCHW.mean(0, keepdim=True).expand(shape)
    return guesses
