"""VGG networks for small images, from torchvision's convolutional layers and one linear layer."""

from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from lightning_unlearn.models.initialization import Network, check_positive

__all__ = ["VGG16", "VGG19"]


class _VGG(Network):
    def __init__(self, configuration: str, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels, width=width)
        # Torchvision's widths are multiples of 64, the first layer's.
        layers = [size if size == "M" else size // 64 * width for size in cfgs[configuration]]
        self.features = make_layers(layers, batch_norm=True)
        self.features[0] = nn.Conv2d(in_channels, width, kernel_size=3, padding=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(8 * width, num_classes)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        if min(x.shape[-2:]) < 32:
            raise ValueError(
                f"{type(self).__name__} halves the image five times and needs at least 32x32 pixels, got a "
                f"batch of shape {tuple(x.shape)}; resize or pad the images"
            )
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


class VGG16(_VGG):
    """VGG-16 with batch normalisation and one linear layer, the usual form for 32x32 images.

    Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015. The
    second network of CIFAR-10 in Chen et al., 2024, table 1.

    Args:
        num_classes: Number of logits, at least 1.
        in_channels: Colour channels of the images.
        width: Channels of the first layer (64 in the paper); the last ones have eight times as many.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, num_classes)``, H and W at least 32.

    Raises:
        ValueError: If an argument is below 1 or the images are too small.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 64) -> None:
        super().__init__("D", num_classes, in_channels, width)


class VGG19(_VGG):
    """VGG-19; all else as :class:`VGG16`.

    The "VGG" of Zuo et al., table I: 5% of its parameters are the 1.002M that Random-k perturbs there, while
    5% of VGG-16's would be 0.737M.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 64) -> None:
        super().__init__("E", num_classes, in_channels, width)
