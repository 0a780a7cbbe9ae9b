"""What benchmarks work on: images in the shape of MNIST and CIFAR-10, made here, so that no file is needed."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from lightning_unlearn.data import TensorData
from lightning_unlearn.data.transforms import Normalize, RandomCropFlip
from lightning_unlearn.models import LeNet5

__all__ = ["cifar_like", "linear", "mnist_like", "seeded_lenet"]


def mnist_like(count: int) -> TensorData:
    """scikit-learn's handwritten digits, enlarged to 28x28 and repeated; ``uint8``, normalised when served."""
    bunch = load_digits()
    small = torch.as_tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    images = F.interpolate(small, size=28, mode="bilinear").mul(255).to(torch.uint8)
    places = torch.arange(count) % len(images)
    return TensorData(
        images[places],
        torch.as_tensor(bunch.target)[places],
        num_classes=10,
        transform=Normalize((0.1307,), (0.3081,)),
    )


def cifar_like(count: int) -> TensorData:
    """Noise in the shape of CIFAR-10, with its augmentation: what it shows costs nothing to serve."""
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))
    return TensorData(
        images,
        torch.arange(count) % 10,
        num_classes=10,
        transform=Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        augment=RandomCropFlip(padding=4, flip=True),
    )


def seeded_lenet(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return LeNet5()


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))
