"""LPIPS: how alike two images look to a network that was trained on photographs, where its weights are at hand."""

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

import torch
from torch import Tensor
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights, WeightsEnum

from lightning_sfl.random_state import RandomState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network that LPIPS can look through.

    Attributes:
        name: torchmetrics' name of it.
        weights: torchvision's weights of it.
        least_side: Height and width that an image must have: below, nothing is left of it in the network.
    """

    name: Literal["alex", "vgg", "squeeze"]
    weights: WeightsEnum
    least_side: int

    @property
    def file(self) -> Path:
        """Where torchvision keeps the weights; they are never fetched from here."""
        return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(self.weights.url).path).name


BACKBONES = (
    Backbone(name="alex", weights=AlexNet_Weights.IMAGENET1K_V1, least_side=31),
    Backbone(name="vgg", weights=VGG16_Weights.IMAGENET1K_V1, least_side=16),
    Backbone(name="squeeze", weights=SqueezeNet1_1_Weights.IMAGENET1K_V1, least_side=17),
)
"""The first whose weights are there and which takes the images is used; Zhang et al. compare by the first."""

_CHANNELS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perceptual:
    """LPIPS of every record.

    Attributes:
        name: The measure, with its network: figures of two networks are not compared.
        distance_N: 0 for equal images, more the less alike they look.
    """

    name: str
    distance_N: Tensor


def perceptual_distance(images_NCHW: Tensor, originals_NCHW: Tensor) -> Perceptual | str:
    """Learned perceptual image patch similarity (Zhang et al. 2018, arXiv 1801.03924), as torchmetrics has it.

    Args:
        images_NCHW: Unit images of 3 channels, or of 1, which is given three times.
        originals_NCHW: What they are compared with.

    Returns:
        The distances; in words why there are none, where the images do not fit or no weights are there.
    """
    _, channels, height, width = images_NCHW.shape
    if channels not in (1, _CHANNELS):
        return f"it takes images of 1 or {_CHANNELS} channels, and these have {channels}"
    fitting = [backbone for backbone in BACKBONES if min(height, width) >= backbone.least_side]
    if not fitting:
        return f"images of {height} x {width} pixels are too small for its networks"
    there = next((backbone for backbone in fitting if backbone.file.is_file()), None)
    if there is None:
        names = ", ".join(backbone.file.name for backbone in fitting)
        return f"weights of its networks are not in torch hub's folder of checkpoints ({names}), and none are fetched"
    try:
        metric = _metric(there, there.file, there.file.stat().st_mtime_ns)
    except Exception as error:  # whatever unpickling and shapes can raise
        return f"the weights in {there.file.name} cannot be used ({type(error).__name__})"
    pairs = zip(_as_photographs(images_NCHW), _as_photographs(originals_NCHW), strict=True)
    with torch.no_grad():
        distances = [metric(image[None], original[None]) for image, original in pairs]
    metric.reset()
    return Perceptual(name=f"LPIPS ({there.name})", distance_N=torch.stack(distances).double())


@lru_cache(maxsize=1)
def _metric(backbone: Backbone, file: Path, changed_ns: int) -> LearnedPerceptualImagePatchSimilarity:
    """The network, made once for a file as it was changed last."""
    before = RandomState.capture()
    try:
        return LearnedPerceptualImagePatchSimilarity(net_type=backbone.name, normalize=True)
    finally:
        before.restore()  # layers are drawn before weights are put in


def _as_photographs(unit_NCHW: Tensor) -> Tensor:
    return unit_NCHW.float().clamp(0, 1).expand(-1, _CHANNELS, -1, -1)
