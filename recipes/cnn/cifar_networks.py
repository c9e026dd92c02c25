"""VGG-16 and ResNet-18 for images of 32x32, as ordinary LightningModules: nothing in them knows of a split."""

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, vgg16
from typing_extensions import override

from recipes.cnn.image_classifier import ImageClassifier


class Vgg16(ImageClassifier):
    """torchvision's VGG-16 without its pooling to 7x7, and with two hidden layers of 512; trained by SGD.

    15.2 million parameters and 313.7 million multiply-accumulates for an image of 32x32.

    Args:
        num_classes: Number of labels.
        learning_rate: Of SGD.
        momentum: Of SGD.
    """

    def __init__(self, num_classes: int = 10, learning_rate: float = 5e-4, momentum: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate, self.momentum = learning_rate, momentum
        self.features = vgg16(weights=None).features
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, num_classes)
        )

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))  # (B, classes)
        return logits

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=self.momentum)


class ResNet18(ImageClassifier):
    """torchvision's ResNet-18 with a stem of 3x3 without pooling, as is usual for images of 32x32; trained by SGD.

    11.2 million parameters and 555.4 million multiply-accumulates for an image of 32x32.

    Args:
        num_classes: Number of labels.
        learning_rate: Of SGD.
        momentum: Of SGD.
    """

    def __init__(self, num_classes: int = 10, learning_rate: float = 5e-4, momentum: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate, self.momentum = learning_rate, momentum
        self.model = resnet18(weights=None, num_classes=num_classes)
        self.model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.model.maxpool = nn.Identity()

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)  # (B, classes)
        return logits

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=self.momentum)
