"""Data: forget rules, splits, streams, and built-in datamodules."""

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.data.digits import Digits
from lightning_unlearn.data.loading import DatasetLoader, Indexed, TensorLoader
from lightning_unlearn.data.selection import Classes, ForgetRule, Groups, Ids, RandomFraction, SelectionData
from lightning_unlearn.data.splits import Split, make_split
from lightning_unlearn.data.tensors import TensorData

__all__ = [
    "Adapter",
    "Classes",
    "DatasetLoader",
    "Digits",
    "ForgetRule",
    "Groups",
    "Ids",
    "Indexed",
    "RandomFraction",
    "SelectionData",
    "Split",
    "TensorData",
    "TensorLoader",
    "UnlearningDataModule",
    "make_split",
]
