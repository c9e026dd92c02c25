"""Which rebuilt record is meant for which original, where a batch comes back in no order."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def matched(rebuilt_BCHW: Tensor, originals_BCHW: Tensor) -> Tensor:
    """The rebuilt records in the order of the originals: the one-to-one assignment of least squared error.

    Hungarian algorithm (Kuhn 1955): each rebuilt record serves one original, so a single good one cannot count twice.
    """
    flat, wanted = rebuilt_BCHW.flatten(1).double(), originals_BCHW.flatten(1).double()
    distance = torch.cdist(wanted, flat, compute_mode="donot_use_mm_for_euclid_dist")
    rows, columns = linear_sum_assignment(distance.square().cpu().numpy())
    assert (rows == range(len(rows))).all()
    return rebuilt_BCHW[torch.from_numpy(columns).to(rebuilt_BCHW.device)]
