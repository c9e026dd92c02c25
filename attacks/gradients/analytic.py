"""What a fully connected layer gives away in closed form, without a search."""

import torch
from torch import Tensor


def layer_input(weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    """The input of a fully connected layer with a bias: exact for one record, (I,).

    Geiping et al. 2020, proposition 3.1: dL/dW = dL/db ⊗ x, so every row whose bias gradient is not 0 gives x. Rows
    are weighed by their squared bias gradients (least squares), which keeps rounding of small rows out. With several
    records it is a mean of them, weighed by how much each moves the layer: the plain mean where all move it alike.

    Returns:
        x; all zero where no row has a bias gradient (a dead layer), and then nothing is known.

    Raises:
        ValueError: The shapes are not those of one layer.
    """
    if weight_OI.dim() != 2 or bias_O.shape != weight_OI.shape[:1]:
        raise ValueError(
            f"weight_OI of shape {tuple(weight_OI.shape)} with bias_O of shape {tuple(bias_O.shape)} is not accepted:"
            " give the gradients of one fully connected layer."
        )
    # In 32 bits the squares of small gradients would vanish.
    weight_OI, bias_O = weight_OI.double(), bias_O.double()
    return (bias_O @ weight_OI) / bias_O.square().sum().clamp_min(1e-300)


def row_inputs(weight_OI: Tensor, bias_O: Tensor, tolerance: float = 1e-6) -> Tensor:
    """What each row alone says of the layer's input, (rows, I): rows with a bias gradient, in their order.

    Each is a mean of the records' inputs, weighed by how much each record moves that row. A row that one record alone
    moves, as behind a rectifier that is shut for the others, gives that record exactly (Fowl et al. 2022, "Robbing the
    Fed", plant such rows; an honest network may have them by chance).
    """
    moved_O = bias_O.abs() > tolerance * bias_O.abs().max()
    return weight_OI[moved_O].double() / bias_O[moved_O].double()[:, None]


def records_told_apart(weight_OI: Tensor, tolerance: float = 1e-5) -> int:
    """The rank of a fully connected layer's weight gradient: how many inputs' span it gives away."""
    values = torch.linalg.svdvals(weight_OI.double())
    return int((values > tolerance * values.max()).sum()) if bool(values.max() > 0) else 0
