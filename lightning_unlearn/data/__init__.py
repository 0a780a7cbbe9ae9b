"""Data: forget rules, splits, streams, and built-in datamodules."""

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.builtin.arrays import Arrays
from lightning_unlearn.data.builtin.base import TensorDataModule
from lightning_unlearn.data.builtin.celeba import CelebA
from lightning_unlearn.data.builtin.digits import Digits
from lightning_unlearn.data.builtin.folder import ImageFolder
from lightning_unlearn.data.builtin.tabular import Location, Purchase
from lightning_unlearn.data.builtin.vision import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST
from lightning_unlearn.data.datamodule import Phase, StreamConsumer, UnlearningDataModule
from lightning_unlearn.data.loading import DatasetLoader, Indexed, TensorLoader
from lightning_unlearn.data.poisoning import Poison
from lightning_unlearn.data.selection import Classes, ForgetRule, Groups, Ids, RandomFraction
from lightning_unlearn.data.selection_data import SelectionData
from lightning_unlearn.data.splits import Split, make_split
from lightning_unlearn.data.streaming import StreamRule
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.data.transforms import Normalize, RandomCropFlip
from lightning_unlearn.data.triggers import BlendTrigger, ColumnTrigger, PatchTrigger, Trigger

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "SVHN",
    "Adapter",
    "Arrays",
    "BlendTrigger",
    "CelebA",
    "Classes",
    "ColumnTrigger",
    "DatasetLoader",
    "Digits",
    "FashionMNIST",
    "ForgetRule",
    "Groups",
    "Ids",
    "ImageFolder",
    "Indexed",
    "Location",
    "Normalize",
    "PatchTrigger",
    "Phase",
    "Poison",
    "Purchase",
    "RandomCropFlip",
    "RandomFraction",
    "SelectionData",
    "Split",
    "StreamConsumer",
    "StreamRule",
    "TensorData",
    "TensorDataModule",
    "TensorLoader",
    "Trigger",
    "UnlearningDataModule",
    "make_split",
]
