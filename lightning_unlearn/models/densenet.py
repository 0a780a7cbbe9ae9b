"""DenseNet for small images: torchvision's network under a stem for 32x32 pixels."""

from torch import nn
from torchvision.models import DenseNet

from lightning_unlearn.models.initialization import Network, check_positive

__all__ = ["DenseNet121"]


class DenseNet121(Network, DenseNet):  # type: ignore[misc]  # torchvision has no types
    """DenseNet-121 for 32x32 images: a 3x3 convolution of stride 1 replaces the 7x7 one and its max-pooling.

    Huang et al., "Densely connected convolutional networks", 2017. The "DenseNet" of Zuo et al., "Machine
    unlearning through fine-grained model parameters perturbation", table I.

    Args:
        num_classes: Number of logits, at least 1.
        in_channels: Colour channels of the images.
        growth_rate: Channels that each layer adds (32 in the paper); the stem has twice as many.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, num_classes)``, H and W at least 8.

    Raises:
        ValueError: If an argument is below 1.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, growth_rate: int = 32) -> None:
        check_positive(num_classes=num_classes, in_channels=in_channels, growth_rate=growth_rate)
        super().__init__(growth_rate=growth_rate, num_init_features=2 * growth_rate, num_classes=num_classes)
        features = self.get_submodule("features")
        features.add_module(
            "conv0", nn.Conv2d(in_channels, 2 * growth_rate, kernel_size=3, padding=1, bias=False)
        )
        features.add_module("pool0", nn.Identity())
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
