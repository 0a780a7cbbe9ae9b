"""Residual networks for small images: torchvision's blocks under a stem for 32x32 pixels, and wide ones."""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from lightning_unlearn.models.initialization import Network, check_positive

__all__ = ["ResNet8", "ResNet18", "ResNet34", "ResNet50", "ResNet101", "WideResNet"]

Block = type[BasicBlock] | type[Bottleneck]


def _initialize_convolutions(network: nn.Module) -> None:
    """He initialisation by fan-out, as torchvision's ResNet and Zagoruyko & Komodakis' wide one have it."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class _ResNet(Network):
    """Stages of torchvision's residual blocks; the state dict has the names of torchvision's ResNet.

    Torchvision's own class cannot be subclassed for this: it builds 64 to 512 channels and four stages
    whatever it is told.
    """

    def __init__(
        self, block: Block, depths: Sequence[int], num_classes: int, in_channels: int, width: int
    ) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels, width=width)
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        channels = width
        self._stages = [f"layer{stage}" for stage in range(1, len(depths) + 1)]
        for stage, (name, depth) in enumerate(zip(self._stages, depths, strict=True)):
            planes = width * 2**stage
            blocks = [_first_block(block, channels, planes, stride=1 if stage == 0 else 2)]
            channels = planes * block.expansion
            blocks += [block(channels, planes) for _ in range(1, depth)]
            self.add_module(name, nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        self._initialize()

    def _initialize(self) -> None:
        _initialize_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        x = self.relu(self.bn1(self.conv1(x)))
        for name in self._stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _first_block(block: Block, channels: int, planes: int, stride: int) -> nn.Module:
    outputs = planes * block.expansion
    shortcut = None
    if stride != 1 or channels != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(channels, outputs, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
    first: nn.Module = block(channels, planes, stride, shortcut)
    return first


class ResNet8(_ResNet):
    """The smallest residual network for CIFAR: three stages of one basic block each; 78,042 parameters.

    He et al., "Deep residual learning for image recognition", 2016, §4.2 with n = 1 (but with 1x1
    convolutions on the shortcuts that change width). Meant for tests and quick runs on a CPU.

    Args:
        num_classes: Number of logits, at least 1.
        in_channels: Colour channels of the images.
        width: Channels of the first stage; each following stage doubles them.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, num_classes)``, any H and W.

    Raises:
        ValueError: If an argument is below 1.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 16) -> None:
        super().__init__(BasicBlock, (1, 1, 1), num_classes, in_channels, width)


class ResNet18(_ResNet):
    """ResNet-18 for 32x32 images: a 3x3 convolution of stride 1 in place of the 7x7 one and its max-pooling.

    He et al., "Deep residual learning for image recognition", 2016. The network of CIFAR-10 in Chen et al.,
    2024, table 1, Zuo et al., "Machine unlearning through fine-grained model parameters perturbation", table
    I, and Chen, Huang & Wang, "Machine unlearning via GAN", 2021, table 1.

    Args:
        num_classes: Number of logits, at least 1.
        in_channels: Colour channels of the images.
        width: Channels of the first stage (64 in the paper); each following stage doubles them.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, num_classes)``, any H and W.

    Raises:
        ValueError: If an argument is below 1.

    Example:
        >>> import torch
        >>> ResNet18(width=8)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 64) -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, width)


class ResNet34(_ResNet):
    """ResNet-34 for 32x32 images; stem, arguments, shapes and errors as :class:`ResNet18`."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 64) -> None:
        super().__init__(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, width)


class ResNet50(_ResNet):
    """ResNet-50 for 32x32 images (Chen, Huang & Wang, 2021, figure 7); all else as :class:`ResNet18`."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 64) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, width)


class ResNet101(_ResNet):
    """ResNet-101 for 32x32 images (Chen, Huang & Wang, 2021, figure 7); all else as :class:`ResNet18`."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 64) -> None:
        super().__init__(Bottleneck, (3, 4, 23, 3), num_classes, in_channels, width)


class WideResNet(Network):
    """Wide residual network with pre-activation blocks, WRN-``depth``-``widen_factor``.

    Zagoruyko & Komodakis, "Wide residual networks", 2016. Chen, Wang & Huang, "Lightweight machine unlearning
    in neural network", 2021, table I takes a wide resnet for SVHN without saying which.

    Args:
        num_classes: Number of logits, at least 1.
        in_channels: Colour channels of the images.
        depth: Number of convolutions, ``6 * n + 4`` for n blocks a stage: 10, 16, 22, 28, ...
        widen_factor: The stages have 16, 32 and 64 times this many channels.
        dropout: Probability of dropping a value between a block's two convolutions, in [0, 1).

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, num_classes)``, any H and W.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        depth: int = 28,
        widen_factor: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels, widen_factor=widen_factor)
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6 * n + 4 with n at least 1 (10, 16, 22, 28, ...), got {depth}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        blocks_per_stage = (depth - 4) // 6
        channels = 16
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)]
        for stage in range(3):
            outputs = 16 * 2**stage * widen_factor
            for block in range(blocks_per_stage):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(_PreActivationBlock(channels, outputs, stride, dropout))
                channels = outputs
        self.features = nn.Sequential(
            *layers, nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        )
        self.classifier = nn.Linear(channels, num_classes)
        self._initialize()

    def _initialize(self) -> None:
        _initialize_convolutions(self)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class _PreActivationBlock(nn.Module):
    """Normalise, activate, convolve, twice, beside a shortcut; torchvision's blocks convolve first."""

    def __init__(self, channels: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = (
            nn.Conv2d(channels, outputs, kernel_size=1, stride=stride, bias=False)
            if stride != 1 or channels != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.bn1(x))
        # A shortcut that changes shape starts behind the activation, an identity before it (the paper's
        # figure 1).
        identity = x if self.shortcut is None else self.shortcut(activated)
        residual = self.conv2(self.dropout(self.relu(self.bn2(self.conv1(activated)))))
        total: Tensor = identity + residual
        return total
