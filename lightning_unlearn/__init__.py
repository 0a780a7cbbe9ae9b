"""Make a trained Lightning model forget chosen training samples, and show by measurement that it did."""

from lightning_unlearn.__about__ import __version__
from lightning_unlearn.callbacks import (
    Backdoor,
    Evaluator,
    ForgettingMetrics,
    MembershipInference,
    UnlearningDegree,
)
from lightning_unlearn.compare import compare
from lightning_unlearn.data import Adapter, Classes, Digits, Groups, Ids, RandomFraction, UnlearningDataModule
from lightning_unlearn.methods import (
    WGAN,
    CFk,
    EUk,
    RandomK,
    RandomTopK,
    ReferenceKL,
    Retrain,
    SourceCheckpoint,
    TopK,
    UnlearningModule,
)
from lightning_unlearn.models import Classifier
from lightning_unlearn.runs import MethodRun, SourceRun

__all__ = [
    "WGAN",
    "Adapter",
    "Backdoor",
    "CFk",
    "Classes",
    "Classifier",
    "Digits",
    "EUk",
    "Evaluator",
    "ForgettingMetrics",
    "Groups",
    "Ids",
    "MembershipInference",
    "MethodRun",
    "RandomFraction",
    "RandomK",
    "RandomTopK",
    "ReferenceKL",
    "Retrain",
    "SourceCheckpoint",
    "SourceRun",
    "TopK",
    "UnlearningDataModule",
    "UnlearningDegree",
    "UnlearningModule",
    "__version__",
    "compare",
]
