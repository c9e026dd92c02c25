"""VGG-16 and ResNet-18 for images of 32x32, as ordinary LightningModules: nothing in them knows of a split."""

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, vgg16
from typing_extensions import override

from recipes.cnn.image_classifier import ImageClassifier


class CifarNetwork(ImageClassifier):
    """A network that is trained by SGD.

    Args:
        network: From images, (B, 3, 32, 32), to logits, (B, classes).
        learning_rate: Of SGD.
        momentum: Of SGD.
    """

    def __init__(self, network: nn.Module, learning_rate: float, momentum: float) -> None:
        super().__init__()
        self.model = network
        self.learning_rate = learning_rate
        self.momentum = momentum

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=self.momentum)


class Vgg16(CifarNetwork):
    """torchvision's VGG-16 without its pooling to 7x7, and with two hidden layers of 512; trained by SGD.

    15.2 million parameters and 313.7 million multiply-accumulates for an image of 32x32. The layers of its convolutions
    are ``model.0`` to ``model.30``.

    Args:
        num_classes: Number of labels.
        learning_rate: Of SGD.
        momentum: Of SGD.
    """

    def __init__(self, num_classes: int = 10, learning_rate: float = 5e-4, momentum: float = 0.0) -> None:
        classifier = [nn.Flatten(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
        network = nn.Sequential(*vgg16(weights=None).features, *classifier, nn.Linear(512, num_classes))
        super().__init__(network, learning_rate, momentum)
        self.save_hyperparameters()


class ResNet18(CifarNetwork):
    """torchvision's ResNet-18 with a stem of 3x3 without pooling, as is usual for images of 32x32; trained by SGD.

    11.2 million parameters and 555.4 million multiply-accumulates for an image of 32x32.

    Args:
        num_classes: Number of labels.
        learning_rate: Of SGD.
        momentum: Of SGD.
    """

    def __init__(self, num_classes: int = 10, learning_rate: float = 5e-4, momentum: float = 0.0) -> None:
        network = resnet18(weights=None, num_classes=num_classes)
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
        super().__init__(network, learning_rate, momentum)
        self.save_hyperparameters()
