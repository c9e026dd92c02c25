"""A small residual network for small images, as an ordinary LightningModule: nothing in it knows of a split."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from recipes.cnn.image_classifier import ImageClassifier


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them (He et al. 2016, the basic block)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    @override
    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm1(self.conv1(x)))  # (B, C, H/stride, W/stride)
        return torch.relu(self.norm2(self.conv2(h)) + self.shortcut(x))


class SmallResNet(ImageClassifier):
    """Stem, four residual blocks, pooling and a linear classifier; trained by SGD with momentum.

    Args:
        channels: Channels of the input images.
        width: Channels after the stem; doubled wherever the image is halved.
        num_classes: Number of labels.
        learning_rate: Of SGD with momentum 0.9.
        weight_decay: Of SGD.
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 8,
        num_classes: int = 10,
        learning_rate: float = 0.1,
        weight_decay: float = 5e-4,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.block1 = ResidualBlock(width, width, stride=1)
        self.block2 = ResidualBlock(width, 2 * width, stride=2)
        self.block3 = ResidualBlock(2 * width, 4 * width, stride=2)
        self.block4 = ResidualBlock(4 * width, 8 * width, stride=2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8 * width, num_classes)

    @override
    def forward(self, images: Tensor) -> Tensor:
        h = self.block1(self.stem(images))
        h = self.block4(self.block3(self.block2(h)))
        logits: Tensor = self.head(self.pool(h))  # (B, classes)
        return logits

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=self.weight_decay)
