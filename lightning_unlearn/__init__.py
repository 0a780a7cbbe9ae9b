"""Make a trained Lightning model forget chosen training samples, and show by measurement that it did."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_unlearn.__about__ import __version__

if TYPE_CHECKING:
    from lightning_unlearn.callbacks import (
        KLOM,
        RMIA,
        Backdoor,
        Evaluator,
        ForgettingMetrics,
        ForgettingQuality,
        LinearProbe,
        LiRA,
        MembershipInference,
        NearCopies,
        PopulationAttack,
        RelearnTime,
        ULiRA,
        UnlearningDegree,
    )
    from lightning_unlearn.comparison.api import compare
    from lightning_unlearn.comparison.request import forget
    from lightning_unlearn.comparison.runs import MethodRun, SourceRun
    from lightning_unlearn.data import (
        Adapter,
        Classes,
        Digits,
        Groups,
        Ids,
        RandomFraction,
        StreamRule,
        UnlearningDataModule,
    )
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
    "LinearProbe",
    "MembershipInference",
    "MethodRun",
    "NearCopies",
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
    "StreamRule",
    "TopK",
    "ULiRA",
    "UnlearningDataModule",
    "UnlearningDegree",
    "UnlearningModule",
    "__version__",
    "compare",
    "forget",
]

_HOMES = ("data", "models", "methods", "callbacks", "comparison.runs", "comparison.api", "comparison.request")


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: the command's help needs no PyTorch."""
    if name in __all__:
        for home in _HOMES:
            if hasattr(module := import_module(f"{__name__}.{home}"), name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
