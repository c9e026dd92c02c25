"""Pictures as arrays that can be shown."""

import numpy as np
from numpy.typing import NDArray

from lightning_sfl.report.leakage import Pixels


def shown(pixels: Pixels) -> NDArray[np.uint8]:
    """In colour by the first three channels, (H, W, 3); in grey by the first where there are fewer, (H, W)."""
    array_HWC = np.asarray(pixels, dtype=np.uint8)
    return array_HWC[..., :3] if array_HWC.shape[2] >= 3 else array_HWC[..., 0]
