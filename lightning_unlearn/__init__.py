"""Make a trained Lightning model forget chosen training samples, and show by measurement that it did."""

from lightning_unlearn.__about__ import __version__
from lightning_unlearn.callbacks import ForgettingMetrics, MembershipInference
from lightning_unlearn.compare import MethodRun, SourceRun, compare
from lightning_unlearn.data import Adapter, Digits, UnlearningDataModule
from lightning_unlearn.methods import ReferenceKL, Retrain, SourceCheckpoint, UnlearningModule
from lightning_unlearn.models import Classifier

__all__ = [
    "Adapter",
    "Classifier",
    "Digits",
    "ForgettingMetrics",
    "MembershipInference",
    "MethodRun",
    "ReferenceKL",
    "Retrain",
    "SourceCheckpoint",
    "SourceRun",
    "UnlearningDataModule",
    "UnlearningModule",
    "__version__",
    "compare",
]
