"""Profiles of the networks that papers of split learning compute with, measured without weights."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import vgg16

from lightning_sfl import find_cuts
from lightning_sfl.world.model.measure import profile_cuts
from lightning_sfl.world.model.profile import Profile


class Net(nn.Module):
    """VGG-16 for 32x32 images, with a classifier of 512 features, as for CIFAR; built without weights."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.model = vgg16(num_classes=10)
            self.model.avgpool = nn.Identity()
            self.model.classifier = nn.Sequential(
                nn.Linear(512, 512),
                nn.ReLU(),
                nn.Dropout(),
                nn.Linear(512, 512),
                nn.ReLU(),
                nn.Dropout(),
                nn.Linear(512, 10),
            )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        return cross_entropy(self.model(batch[0]), batch[1])


def vgg16_profile() -> Profile:
    """VGG-16 with a cut after each of its 16 layers: after the activation, and the pooling where there is one."""
    net, batch = Net(), (torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))
    places = (1, 4, 6, 9, 11, 13, 16, 18, 20, 23, 25, 27)
    names = [f"model.features.{place}" for place in places]
    names += ["model.features", "model.classifier.1", "model.classifier.4", "model"]
    found = {cut.name: cut.split for cut in find_cuts(net, batch)}
    return profile_cuts(net, batch, {name: found[name] for name in names})
