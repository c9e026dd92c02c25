"""Profiles of the networks that papers of split learning compute with, measured without weights."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18, vgg16

from lightning_sfl import find_cuts
from lightning_sfl.world.model.measure import profile_cuts
from lightning_sfl.world.model.profile import Profile


class Net(nn.Module):
    """A network with its loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        return cross_entropy(self.model(batch[0]), batch[1])


def vgg16_profile() -> Profile:
    """VGG-16 for images of 32x32, with a classifier of 512 features, and a cut after each of its 16 layers.

    A cut is after the activation, and after the pooling where there is one.
    """
    with torch.device("meta"):
        model = vgg16(num_classes=10)
        model.avgpool = nn.Identity()
        hidden = [nn.Linear(512, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 512), nn.ReLU(), nn.Dropout()]
        model.classifier = nn.Sequential(*hidden, nn.Linear(512, 10))
    places = (1, 4, 6, 9, 11, 13, 16, 18, 20, 23, 25, 27)
    names = [f"model.features.{place}" for place in places]
    names += ["model.features", "model.classifier.1", "model.classifier.4", "model"]
    return _profile(Net(model), names)


def resnet18_profile() -> Profile:
    """ResNet-18 for images of 32x32 with a cut after the stem, each of its 8 blocks, and the pooling."""
    with torch.device("meta"):
        model = resnet18(num_classes=10)
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    # What leaves a layer's second block leaves the layer, and goes by its name.
    blocks = [f"model.layer{layer}{block}" for layer in (1, 2, 3, 4) for block in (".0", "")]
    return _profile(Net(model), ["model.relu", *blocks, "model.avgpool"])


def _profile(net: Net, names: Sequence[str]) -> Profile:
    batch = (torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))
    found = {cut.name: cut.split for cut in find_cuts(net, batch)}
    return profile_cuts(net, batch, {name: found[name] for name in names})


PROFILES: Mapping[str, Callable[[], Profile]] = {"VGG-16": vgg16_profile, "ResNet-18": resnet18_profile}
