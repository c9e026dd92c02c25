"""torchvision's vision transformer as an ordinary LightningModule: nothing in it knows of a split."""

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, ViT_B_32_Weights
from typing_extensions import override

from recipes.cnn.image_classifier import ImageClassifier


class VisionTransformerClassifier(ImageClassifier):
    """A vision transformer trained by SGD with momentum; the patch embedding is ``model.conv_proj``.

    Args:
        channels: Channels of the input images.
        image_size: Height and width of the input images.
        patch_size: Height and width of a patch.
        width: Numbers per token.
        layers: Transformer blocks.
        heads: Attention heads of each.
        mlp_width: Hidden width of each block's two linear layers.
        num_classes: Number of labels.
        pretrained: Whether to start from torchvision's ImageNet weights of ViT-B/32 (a download of 337 MB), with a new
            last layer; the other arguments are then to be ViT-B/32's, which the defaults are.
        learning_rate: Of SGD with momentum 0.9.
    """

    def __init__(
        self,
        channels: int = 3,
        image_size: int = 224,
        patch_size: int = 32,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        mlp_width: int = 3072,
        num_classes: int = 10,
        pretrained: bool = True,
        learning_rate: float = 0.01,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.model = VisionTransformer(
            image_size=image_size,
            patch_size=patch_size,
            num_layers=layers,
            num_heads=heads,
            hidden_dim=width,
            mlp_dim=mlp_width,
            num_classes=num_classes,
        )
        if pretrained:
            weights = ViT_B_32_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
            new_head = {f"heads.{name}": tensor for name, tensor in self.model.heads.state_dict().items()}
            self.model.load_state_dict({**weights, **new_head})
        if channels != 3:
            self.model.conv_proj = _embedding(channels, width, patch_size)

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)  # (B, classes)
        return logits

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


def _embedding(channels: int, width: int, patch_size: int) -> nn.Conv2d:
    """Torchvision's patch embedding, for images of so many channels."""
    embedding = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)
    nn.init.trunc_normal_(embedding.weight, std=(channels * patch_size**2) ** -0.5)
    assert embedding.bias is not None
    nn.init.zeros_(embedding.bias)
    return embedding
