"""The papers' small networks, for MNIST, Fashion-MNIST, SVHN and Purchase, and what all networks are made of."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

Activation = Literal["relu", "tanh"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class Network(nn.Module):
    """A network whose initial weights are not just its layers' defaults.

    A subclass overrides :meth:`_initialize` and calls it at the end of ``__init__``; :meth:`reset_parameters`
    then repeats the whole initialisation, so that retraining starts where training started.
    """

    def reset_parameters(self) -> None:
        """Draw every weight afresh and forget all running statistics, from torch's global random numbers."""
        for module in self.modules():
            if module is not self and callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        self._initialize()

    def _initialize(self) -> None:
        """Set the weights that differ from the layers' own defaults."""
        raise NotImplementedError(f"{type(self).__name__} must define _initialize()")


class ImageNetwork(nn.Module):
    """A network of features and, behind them, a classifier of these.

    Attributes:
        features: Takes images.
        classifier: Takes the features, flattened.
        image_shape: The only shape of image it takes; ``None`` for any.
    """

    features: nn.Module
    classifier: nn.Module
    image_shape: tuple[int, ...] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        if self.image_shape is not None and tuple(x.shape[-3:]) != self.image_shape:
            raise ValueError(
                f"{type(self).__name__} was built for images of shape {self.image_shape}, got a batch "
                f"of shape {tuple(x.shape)}; set in_channels and image_size to the images'"
            )
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def check_least(least: int = 1, **arguments: int) -> None:
    """Raise a ValueError that names the first argument below the least that it may be."""
    for name, value in arguments.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


class LeNet5(ImageNetwork):
    """LeNet-5 with ReLU and max-pooling: two convolutions and three linear layers.

    LeCun et al., "Gradient-based learning applied to document recognition", 1998. The network of MNIST in
    Chen et al., "Private data protection with machine unlearning", 2024, table 1 (described there as two
    convolutions, one pooling and one linear layer; the classic network is taken instead) and of Fashion-MNIST
    in Chen, Huang & Wang, "Machine unlearning via GAN", 2021, table 1.

    The classic sizes are 32, and 28 with a border of two pixels. From 16 pixels on, the border of the first
    convolution makes the second fit; smaller images, such as scikit-learn's 8x8 digits, need it on both.

    Args:
        num_classes: Number of logits, at least 1.
        in_channels: Colour channels of the images.
        image_size: Height and width of the images in pixels, at least 4.

    Shape:
        ``(B, in_channels, image_size, image_size)`` to ``(B, num_classes)``.

    Raises:
        ValueError: If an argument is too small, or if the images have another shape than announced.

    Example:
        >>> import torch
        >>> LeNet5(image_size=8)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        check_least(num_classes=num_classes, in_channels=in_channels)
        check_least(4, image_size=image_size)  # it is halved twice
        self.image_shape = (in_channels, image_size, image_size)
        first_border = 2 if image_size < 32 else 0
        second_border = 2 if image_size < 16 else 0
        pooled = (image_size + 2 * first_border - 4) // 2
        pooled = (pooled + 2 * second_border - 4) // 2
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, kernel_size=5, padding=first_border),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5, padding=second_border),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * pooled * pooled, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )


class MLP(nn.Module):
    """Multilayer perceptron, the network of Fashion-MNIST in Chen et al., 2024, table 1.

    Args:
        in_features: Values per sample; images are flattened.
        hidden: Width of each hidden layer; without any, the network is a linear classifier.
        num_classes: Number of logits, at least 1.
        activation: What follows each hidden layer.

    Shape:
        ``(B, ...)`` with ``in_features`` values per sample, to ``(B, num_classes)``.

    Raises:
        ValueError: If a size is below 1, the activation is unknown, or the samples have another size than
            announced.

    Example:
        >>> import torch
        >>> MLP(in_features=64, hidden=[32])(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_features: int = 784,
        hidden: Sequence[int] = (256, 128),
        num_classes: int = 10,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        check_least(num_classes=num_classes, in_features=in_features)
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden must hold widths of at least 1, got {list(hidden)}")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {sorted(_ACTIVATIONS)}, got {activation!r}")
        self.in_features = in_features
        widths = [in_features, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), _ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of samples."""
        if math.prod(x.shape[1:]) != self.in_features:
            raise ValueError(
                f"{type(self).__name__} was built for in_features={self.in_features} values per sample, got "
                f"a batch of shape {tuple(x.shape)}; set in_features={math.prod(x.shape[1:])}"
            )
        logits: Tensor = self.layers(x.flatten(1))
        return logits


class PurchaseNet(MLP):
    """Three fully connected layers for Purchase-10/20/50/100.

    Chen, Huang & Wang, "Machine unlearning via GAN", 2021, table 1. The paper gives neither the hidden widths
    nor the hidden activation (the softmax it names is that of the posteriors; this network returns logits).

    Args:
        in_features: Values per sample; the data set has 600 products.
        hidden: Widths of the two hidden layers.
        num_classes: 10, 20, 50 or 100 in the paper.
        activation: What follows each hidden layer.

    Shape:
        ``(B, in_features)`` to ``(B, num_classes)``.

    Raises:
        ValueError: If there are not exactly two hidden layers, or as for :class:`MLP`.
    """

    def __init__(
        self,
        in_features: int = 600,
        hidden: Sequence[int] = (256, 128),
        num_classes: int = 10,
        activation: Activation = "relu",
    ) -> None:
        if len(hidden) != 2:
            raise ValueError(
                f"hidden must hold two widths (three layers in all), got {list(hidden)}; use MLP"
            )
        super().__init__(in_features, hidden, num_classes, activation)


class SVHNConv8(ImageNetwork):
    """Eight convolutions, one (global) pooling and one linear layer for SVHN.

    The sources disagree on the network of SVHN. Chen et al., 2024, §IV-A calls it a multilayer perceptron and
    describes this one; its first version (Chen, Wang & Huang, "Lightweight machine unlearning in neural
    network", 2021) says multilayer perceptron in the text and wide resnet in table I (:class:`WideResNet`);
    Chen, Huang & Wang, "Machine unlearning via GAN", 2021, table 1 has two convolutions and two linear layers
    (:class:`SVHNConv2`). Widths and strides are in none of them: here every second convolution halves the
    image and the widths are 1, 1, 2, 2, 4, 4, 8, 8 times ``width``, each convolution followed by batch
    normalisation.

    Args:
        num_classes: Number of logits, at least 1.
        in_channels: Colour channels of the images.
        width: Channels of the first convolution.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, num_classes)``, any H and W.

    Raises:
        ValueError: If an argument is below 1.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 32) -> None:
        super().__init__()
        check_least(num_classes=num_classes, in_channels=in_channels, width=width)
        channels = [in_channels, *(width * 2 ** (layer // 2) for layer in range(8))]
        layers: list[nn.Module] = []
        for layer, (inputs, outputs) in enumerate(pairwise(channels)):
            # The bias would be taken out again by the normalisation that follows.
            convolution = nn.Conv2d(
                inputs, outputs, kernel_size=3, stride=1 + layer % 2, padding=1, bias=False
            )
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(channels[-1], num_classes)


class SVHNConv2(ImageNetwork):
    """Two convolutions and two linear layers for SVHN.

    Chen, Huang & Wang, "Machine unlearning via GAN", 2021, table 1, which gives no sizes: here 5x5
    convolutions of ``width`` and ``2 * width`` channels, each followed by 2x2 max-pooling, and ``8 * width``
    hidden units. See :class:`SVHNConv8` for what the other papers take.

    Args:
        num_classes: Number of logits, at least 1.
        in_channels: Colour channels of the images.
        image_size: Height and width of the images in pixels, at least 4.
        width: Channels of the first convolution.

    Shape:
        ``(B, in_channels, image_size, image_size)`` to ``(B, num_classes)``.

    Raises:
        ValueError: If an argument is too small, or if the images have another shape than announced.
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, width: int = 32
    ) -> None:
        super().__init__()
        check_least(num_classes=num_classes, in_channels=in_channels, width=width)
        check_least(4, image_size=image_size)  # it is halved twice
        self.image_shape = (in_channels, image_size, image_size)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        pooled = image_size // 4
        self.classifier = nn.Sequential(
            nn.Linear(2 * width * pooled * pooled, 8 * width),
            nn.ReLU(),
            nn.Linear(8 * width, num_classes),
        )
