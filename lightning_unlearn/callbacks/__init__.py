"""Evaluators: callbacks that measure once when fit ends, and at the end of ``Trainer.test``.

Each module of this package holds one evaluator. ``python docs/doc_tables.py`` lists them here, for type checkers.
"""

from lightning_unlearn.callbacks.backdoor import Backdoor
from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.evaluator import Evaluator
from lightning_unlearn.callbacks.base.export import Export
from lightning_unlearn.callbacks.base.guard import CollapseGuard
from lightning_unlearn.callbacks.base.many_models import ManyModels
from lightning_unlearn.callbacks.base.watching import Watcher
from lightning_unlearn.callbacks.forgetting import ForgettingMetrics
from lightning_unlearn.callbacks.forgetting_quality import ForgettingQuality
from lightning_unlearn.callbacks.klom import KLOM
from lightning_unlearn.callbacks.linear_probe import LinearProbe
from lightning_unlearn.callbacks.lira import LiRA
from lightning_unlearn.callbacks.membership_inference import MembershipInference
from lightning_unlearn.callbacks.near_copies import NearCopies
from lightning_unlearn.callbacks.population_attack import PopulationAttack
from lightning_unlearn.callbacks.relearn_time import RelearnTime
from lightning_unlearn.callbacks.rmia import RMIA
from lightning_unlearn.callbacks.u_lira import ULiRA
from lightning_unlearn.callbacks.unlearning_degree import UnlearningDegree

__all__ = [
    "KLOM",
    "RMIA",
    "Audit",
    "Backdoor",
    "CollapseGuard",
    "Evaluator",
    "Export",
    "ForgettingMetrics",
    "ForgettingQuality",
    "LiRA",
    "LinearProbe",
    "ManyModels",
    "MembershipInference",
    "NearCopies",
    "PopulationAttack",
    "RelearnTime",
    "ULiRA",
    "UnlearningDegree",
    "Watcher",
]
