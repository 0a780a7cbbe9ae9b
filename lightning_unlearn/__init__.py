"""Make a trained Lightning model forget chosen training samples, and show by measurement that it did."""

from lightning_unlearn.__about__ import __version__
from lightning_unlearn.callbacks import (
    KLOM,
    RMIA,
    Backdoor,
    Evaluator,
    ForgettingMetrics,
    ForgettingQuality,
    LiRA,
    MembershipInference,
    PopulationAttack,
    RelearnTime,
    ULiRA,
    UnlearningDegree,
)
from lightning_unlearn.comparison.api import compare
from lightning_unlearn.comparison.runs import MethodRun, SourceRun
from lightning_unlearn.data import Adapter, Classes, Digits, Groups, Ids, RandomFraction, UnlearningDataModule
from lightning_unlearn.methods import (
    WGAN,
    CFk,
    EUk,
    FineTune,
    NegGradPlus,
    RandomK,
    RandomTopK,
    ReferenceKL,
    Retrain,
    SourceCheckpoint,
    TopK,
    UnlearningModule,
)
from lightning_unlearn.models import Classifier

__all__ = [
    "KLOM",
    "RMIA",
    "WGAN",
    "Adapter",
    "Backdoor",
    "CFk",
    "Classes",
    "Classifier",
    "Digits",
    "EUk",
    "Evaluator",
    "FineTune",
    "ForgettingMetrics",
    "ForgettingQuality",
    "Groups",
    "Ids",
    "LiRA",
    "MembershipInference",
    "MethodRun",
    "NegGradPlus",
    "PopulationAttack",
    "RandomFraction",
    "RandomK",
    "RandomTopK",
    "ReferenceKL",
    "RelearnTime",
    "Retrain",
    "SourceCheckpoint",
    "SourceRun",
    "TopK",
    "ULiRA",
    "UnlearningDataModule",
    "UnlearningDegree",
    "UnlearningModule",
    "__version__",
    "compare",
]
