"""The generators of the slightly perturbed distribution GAN (SPD-GAN).

Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", section IV-C.1, name the
layers of an autoencoder, but no widths, kernels or strides.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from lightning_unlearn.models.small import check_least

_SMALLEST_IMAGE = 5  # pixels a side; halved twice, less leaves one pixel, which batch normalisation sets to 0


class ConvPerturber(nn.Module):
    """The autoencoder that makes a perturbation of an image, each value in (−1, 1).

    The paper's layers: two convolutions, batch normalisation, convolution, batch normalisation; then transposed
    convolution, batch normalisation, transposed convolution, convolution. LeakyReLU in the encoder and ReLU in
    the decoder follow every layer or its normalisation, except that only the tanh follows the last: a ReLU
    before it would leave no negative perturbation. The image is halved twice and doubled twice; what is beyond
    its own height and width is cut off.

    Args:
        channels: Channels of the images, at least 1.
        width: Channels of the first layers; the innermost has twice as many.

    Shape:
        ``(B, channels, H, W)`` to the same; H and W at least 5.

    Raises:
        ValueError: If an argument is below 1, or if the images have another shape than announced.

    Example:
        >>> import torch
        >>> ConvPerturber(channels=3)(torch.zeros(2, 3, 15, 10)).shape
        torch.Size([2, 3, 15, 10])
    """

    def __init__(self, channels: int, width: int = 8) -> None:
        super().__init__()
        check_least(channels=channels, width=width)
        self.channels = channels
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, kernel_size=3, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(),
            nn.Conv2d(width, 2 * width, kernel_size=3, stride=2, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, kernel_size=4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, channels, kernel_size=3, padding=1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the perturbations of a batch of images."""
        if x.ndim != 4 or x.shape[1] != self.channels or min(x.shape[2:]) < _SMALLEST_IMAGE:
            raise ValueError(
                f"{type(self).__name__} was built for images with {self.channels} channels and at least "
                f"{_SMALLEST_IMAGE} pixels a side, got a batch of shape {tuple(x.shape)}"
            )
        height, width = x.shape[2:]
        perturbation: Tensor = self.decoder(self.encoder(x))[..., :height, :width]
        return perturbation


class DensePerturber(nn.Module):
    """The same autoencoder with dense layers, for tables and whatever else is no image; each value in (−1, 1).

    Layer instead of batch normalisation: without pixels to average over, one could not train on a batch of one
    sample, and a deletion request may concern just one.

    Args:
        shape: Shape of a sample; its values are flattened.
        hidden: Width of the hidden layers; the innermost is half as wide.

    Shape:
        ``(B, *shape)`` to the same.

    Raises:
        ValueError: If an argument is out of range, or if the samples have another shape than announced.

    Example:
        >>> import torch
        >>> DensePerturber([6])(torch.zeros(1, 6)).shape
        torch.Size([1, 6])
    """

    def __init__(self, shape: Sequence[int], hidden: int = 128) -> None:
        super().__init__()
        if not shape or any(size < 1 for size in shape):
            raise ValueError(f"shape must hold sizes of at least 1, got {tuple(shape)}")
        if hidden < 2:
            raise ValueError(f"hidden must be at least 2 to be halved, got {hidden}")
        self.shape = tuple(shape)
        features, latent = math.prod(shape), hidden // 2
        self.encoder = nn.Sequential(
            nn.Linear(features, hidden),
            nn.LeakyReLU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.LeakyReLU(),
            nn.Linear(hidden, latent),
            nn.LayerNorm(latent),
            nn.LeakyReLU(),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, features),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the perturbations of a batch of samples."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"{type(self).__name__} was built for samples of shape {self.shape}, got a batch of shape "
                f"{tuple(x.shape)}"
            )
        perturbation: Tensor = self.decoder(self.encoder(x.flatten(1))).view_as(x)
        return perturbation


def perturber_for(shape: Sequence[int]) -> nn.Module:
    """Return an untrained generator that fits samples of a shape.

    Args:
        shape: Shape of one sample. Images, ``(C, H, W)`` of at least 5 x 5 pixels, get a
            :class:`ConvPerturber`, everything else a :class:`DensePerturber`.

    Example:
        >>> type(perturber_for((3, 32, 32))).__name__, type(perturber_for((446,))).__name__
        ('ConvPerturber', 'DensePerturber')
    """
    if len(shape) == 3 and min(shape[1:]) >= _SMALLEST_IMAGE:
        return ConvPerturber(shape[0])
    return DensePerturber(shape)
