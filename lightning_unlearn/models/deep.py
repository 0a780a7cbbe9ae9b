"""The papers' deep networks for small images, made of torchvision's layers, blocks and networks."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import DenseNet
from torchvision.models.googlenet import GoogLeNet as TorchvisionGoogLeNet
from torchvision.models.googlenet import Inception, InceptionAux
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vgg import cfgs, make_layers

from lightning_unlearn.models.small import ImageNetwork, Network, check_least

Block = type[BasicBlock] | type[Bottleneck]


def _initialize_convolutions(network: nn.Module) -> None:
    """He initialisation by fan-out, as torchvision's VGG and ResNet and Zagoruyko & Komodakis' wide one have it."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class _VGG(ImageNetwork, Network):
    classifier: nn.Linear
    configuration: ClassVar[str]

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        check_least(num_classes=num_classes, in_channels=in_channels, width=width)
        # Torchvision's widths are multiples of 64, the first layer's.
        layers = [size if size == "M" else size // 64 * width for size in cfgs[self.configuration]]
        features = make_layers(layers, batch_norm=True)
        features[0] = nn.Conv2d(in_channels, width, kernel_size=3, padding=1)
        self.features = features.append(nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(8 * width, num_classes)
        self._initialize()

    def _initialize(self) -> None:
        _initialize_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        if min(x.shape[-2:]) < 32:
            raise ValueError(
                f"{type(self).__name__} halves the image five times and needs at least 32x32 pixels, got a "
                f"batch of shape {tuple(x.shape)}; resize or pad the images"
            )
        return super().forward(x)


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

    configuration = "D"


class VGG19(_VGG):
    """VGG-19; all else as :class:`VGG16`.

    The "VGG" of Zuo et al., table I: 5% of its parameters are the 1.002M that Random-k perturbs there, while
    5% of VGG-16's would be 0.737M.
    """

    configuration = "E"


class _ResNet(Network):
    """Stages of torchvision's residual blocks; the state dict has the names of torchvision's ResNet.

    Torchvision's own class cannot be subclassed for this: it builds 64 to 512 channels and four stages
    whatever it is told.
    """

    block: ClassVar[Block] = BasicBlock
    depths: ClassVar[Sequence[int]]

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        check_least(num_classes=num_classes, in_channels=in_channels, width=width)
        block, depths = self.block, self.depths
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

    depths = (1, 1, 1)

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 16) -> None:
        super().__init__(num_classes, in_channels, width)


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

    depths = (2, 2, 2, 2)


class ResNet34(_ResNet):
    """ResNet-34 for 32x32 images; stem, arguments, shapes and errors as :class:`ResNet18`."""

    depths = (3, 4, 6, 3)


class ResNet50(_ResNet):
    """ResNet-50 for 32x32 images (Chen, Huang & Wang, 2021, figure 7); all else as :class:`ResNet18`."""

    block, depths = Bottleneck, (3, 4, 6, 3)


class ResNet101(_ResNet):
    """ResNet-101 for 32x32 images (Chen, Huang & Wang, 2021, figure 7); all else as :class:`ResNet18`."""

    block, depths = Bottleneck, (3, 4, 23, 3)


class WideResNet(ImageNetwork, Network):
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

    classifier: nn.Linear

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        depth: int = 28,
        widen_factor: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_least(num_classes=num_classes, in_channels=in_channels, widen_factor=widen_factor)
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
        check_least(num_classes=num_classes, in_channels=in_channels, growth_rate=growth_rate)
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


class _ConvolutionBlock(nn.Module):
    """Torchvision's block, but with a bias in the convolution."""

    def __init__(self, in_channels: int, out_channels: int, **kwargs: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, **kwargs)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _Inception(Inception):  # type: ignore[misc]  # torchvision has no types
    """Torchvision's module, but with two 3x3 convolutions in place of the 5x5 one, not a single one.

    ``channels`` are torchvision's, of the input and of the branches; a network of a stem with ``width`` channels
    has that many of every 192.
    """

    def __init__(self, *channels: int, width: int) -> None:
        scaled = [size * width // 192 for size in channels]
        super().__init__(*scaled, conv_block=_ConvolutionBlock)
        self.branch3.append(_ConvolutionBlock(scaled[5], scaled[5], kernel_size=3, padding=1))


class GoogLeNet(Network, TorchvisionGoogLeNet):  # type: ignore[misc]
    """GoogLeNet for 32x32 images: a single 3x3 convolution as the stem, no auxiliary classifiers.

    Szegedy et al., "Going deeper with convolutions", 2015. The "GoogLeNet" of Zuo et al., "Machine unlearning
    through fine-grained model parameters perturbation", table I, whose counts tell its convolutions have a
    bias and its 5x5 convolutions are two 3x3 ones.

    Args:
        num_classes: Number of logits, at least 1.
        in_channels: Colour channels of the images.
        dropout: Probability of dropping a feature before the linear layer, in [0, 1).
        width: Channels of the stem, a multiple of 24 (192 in the paper); every other layer is as much narrower.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, num_classes)``, any H and W.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.2, width: int = 192
    ) -> None:
        check_least(num_classes=num_classes, in_channels=in_channels, width=width)
        if width % 24:
            raise ValueError(
                f"width must be a multiple of 24, so that every layer is as much narrower, got {width}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        super().__init__(
            num_classes=num_classes,
            aux_logits=False,
            init_weights=False,  # _initialize does it, once the stem is replaced
            blocks=[_ConvolutionBlock, partial(_Inception, width=width), InceptionAux],
            dropout=dropout,
        )
        self.fc = nn.Linear(1024 * width // 192, num_classes)
        self.conv1 = _ConvolutionBlock(in_channels, width, kernel_size=3, padding=1)
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
