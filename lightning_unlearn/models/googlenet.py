"""GoogLeNet for small images: torchvision's network with blocks and stem for 32x32 pixels."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.googlenet import GoogLeNet as TorchvisionGoogLeNet
from torchvision.models.googlenet import Inception, InceptionAux

from lightning_unlearn.models.initialization import Network, check_positive

__all__ = ["GoogLeNet"]


class _ConvolutionBlock(nn.Module):
    """Torchvision's block, but with a bias in the convolution."""

    def __init__(self, in_channels: int, out_channels: int, **kwargs: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, **kwargs)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _Inception(Inception):  # type: ignore[misc]  # torchvision has no types
    """Torchvision's module, but with two 3x3 convolutions in place of the 5x5 one, not a single one."""

    def __init__(
        self, in_channels: int, c1: int, c3_in: int, c3: int, c5_in: int, c5: int, c_pool: int
    ) -> None:
        super().__init__(in_channels, c1, c3_in, c3, c5_in, c5, c_pool, conv_block=_ConvolutionBlock)
        self.branch3.append(_ConvolutionBlock(c5, c5, kernel_size=3, padding=1))


class GoogLeNet(Network, TorchvisionGoogLeNet):  # type: ignore[misc]
    """GoogLeNet for 32x32 images: a single 3x3 convolution as the stem, no auxiliary classifiers.

    Szegedy et al., "Going deeper with convolutions", 2015. The "GoogLeNet" of Zuo et al., "Machine unlearning
    through fine-grained model parameters perturbation", table I, whose counts tell its convolutions have a
    bias and its 5x5 convolutions are two 3x3 ones.

    Args:
        num_classes: Number of logits, at least 1.
        in_channels: Colour channels of the images.
        dropout: Probability of dropping a feature before the linear layer, in [0, 1).

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, num_classes)``, any H and W.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.2) -> None:
        check_positive(num_classes=num_classes, in_channels=in_channels)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        super().__init__(
            num_classes=num_classes,
            aux_logits=False,
            init_weights=False,  # _initialize does it, once the stem is replaced
            blocks=[_ConvolutionBlock, _Inception, InceptionAux],
            dropout=dropout,
        )
        self.conv1 = _ConvolutionBlock(in_channels, 192, kernel_size=3, padding=1)
        self.maxpool1 = nn.Identity()
        self.conv2 = nn.Identity()
        self.conv3 = nn.Identity()
        self.maxpool2 = nn.Identity()
        self._initialize()

    def _initialize(self) -> None:
        # Torchvision's scheme: two hundred standard deviations are no cut in practice, so normal_ draws the
        # same.
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
