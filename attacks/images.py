"""Where a private image can lie: its shape, and the range of its pixels as the model sees them."""

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSpace:
    """The images that an attacker looks among. Attacks work on unit images, whose pixels go from 0 to 1.

    Args:
        shape_CHW: Channels, height, width.
        low: Smallest value a pixel can have; one for all channels, or one for each.
        high: Largest.
    """

    shape_CHW: tuple[int, int, int]
    low: tuple[float, ...] = (0.0,)
    high: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        channels = self.shape_CHW[0]
        for name in ("low", "high"):
            if len(getattr(self, name)) not in (1, channels):
                raise ValueError(
                    f"{name}={getattr(self, name)} is not accepted: give 1 number, or one for each of the {channels}"
                    " channels."
                )
        if not all(high > low for low, high in zip(*self._per_channel(), strict=True)):
            raise ValueError(f"high={self.high} is not accepted: it must be above low={self.low} in every channel.")

    def to_input(self, unit_BCHW: Tensor) -> Tensor:
        """What the model is given for unit images."""
        low, high = self._columns(unit_BCHW)
        return low + (high - low) * unit_BCHW

    def to_unit(self, images_BCHW: Tensor) -> Tensor:
        """Unit images of what the model is given."""
        low, high = self._columns(images_BCHW)
        return (images_BCHW - low) / (high - low)

    def grey(self, records: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """Unit images without anything in them, (B, C, H, W)."""
        return torch.full((records, *self.shape_CHW), 0.5, dtype=dtype, device=device)

    def random(self, records: int, draw: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Unit images of uniform noise, (B, C, H, W), on the generator's device."""
        return torch.rand((records, *self.shape_CHW), generator=draw, dtype=dtype, device=draw.device)

    def _per_channel(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        channels = self.shape_CHW[0]
        wide = [values if len(values) == channels else values * channels for values in (self.low, self.high)]
        return wide[0], wide[1]

    def _columns(self, like: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (like.new_tensor(values)[:, None, None] for values in self._per_channel())
        return low, high
