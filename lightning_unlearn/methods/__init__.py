"""Unlearning methods: each is a LightningModule whose ``training_step`` is the loss."""

from lightning_unlearn.methods.bad_teacher import BadTeacher
from lightning_unlearn.methods.base.module import UnlearningModule
from lightning_unlearn.methods.base.perturbation import Perturbation
from lightning_unlearn.methods.base.source import SourceCheckpoint
from lightning_unlearn.methods.boundary_expand import BoundaryExpand
from lightning_unlearn.methods.boundary_shrink import BoundaryShrink
from lightning_unlearn.methods.certified_head import CertifiedHead
from lightning_unlearn.methods.cf_k import CFk
from lightning_unlearn.methods.ct import CT
from lightning_unlearn.methods.delete import DELETE
from lightning_unlearn.methods.eu_k import EUk
from lightning_unlearn.methods.fcs import FCS
from lightning_unlearn.methods.fine_tune import FineTune
from lightning_unlearn.methods.fisher import Fisher
from lightning_unlearn.methods.influence import Influence
from lightning_unlearn.methods.l1_sparse import L1Sparse
from lightning_unlearn.methods.linear_filtration import LinearFiltration
from lightning_unlearn.methods.msg import MSG
from lightning_unlearn.methods.neg_grad_plus import NegGradPlus
from lightning_unlearn.methods.npo import NPO
from lightning_unlearn.methods.prune_redraw import PruneRedraw
from lightning_unlearn.methods.random_k import RandomK
from lightning_unlearn.methods.random_label import RandomLabel
from lightning_unlearn.methods.random_top_k import RandomTopK
from lightning_unlearn.methods.reference_kl import ReferenceKL
from lightning_unlearn.methods.regun import ReGUn
from lightning_unlearn.methods.retrain import Retrain
from lightning_unlearn.methods.rewind import Rewind
from lightning_unlearn.methods.rewind_kl import RewindKL
from lightning_unlearn.methods.rum import RUM
from lightning_unlearn.methods.sal_un import SalUn
from lightning_unlearn.methods.scrub import SCRUB
from lightning_unlearn.methods.shrink_perturb import ShrinkPerturb
from lightning_unlearn.methods.sisa import SISA
from lightning_unlearn.methods.ssd import SSD
from lightning_unlearn.methods.task_negation import TaskNegation
from lightning_unlearn.methods.top_k import TopK
from lightning_unlearn.methods.unsir import UNSIR
from lightning_unlearn.methods.wgan import WGAN

__all__ = [
    "CT",
    "DELETE",
    "FCS",
    "MSG",
    "NPO",
    "RUM",
    "SCRUB",
    "SISA",
    "SSD",
    "UNSIR",
    "WGAN",
    "BadTeacher",
    "BoundaryExpand",
    "BoundaryShrink",
    "CFk",
    "CertifiedHead",
    "EUk",
    "FineTune",
    "Fisher",
    "Influence",
    "L1Sparse",
    "LinearFiltration",
    "NegGradPlus",
    "Perturbation",
    "PruneRedraw",
    "RandomK",
    "RandomLabel",
    "RandomTopK",
    "ReGUn",
    "ReferenceKL",
    "Retrain",
    "Rewind",
    "RewindKL",
    "SalUn",
    "ShrinkPerturb",
    "SourceCheckpoint",
    "TaskNegation",
    "TopK",
    "UnlearningModule",
]
