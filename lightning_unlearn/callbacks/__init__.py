"""Evaluators: callbacks that measure once when fit ends, and at the end of ``Trainer.test``."""

from lightning_unlearn.callbacks.audit import Audit
from lightning_unlearn.callbacks.backdoor import Backdoor
from lightning_unlearn.callbacks.base import Evaluator
from lightning_unlearn.callbacks.forgetting import ForgettingMetrics
from lightning_unlearn.callbacks.membership_inference import MembershipInference
from lightning_unlearn.callbacks.unlearning_degree import UnlearningDegree

__all__ = ["Audit", "Backdoor", "Evaluator", "ForgettingMetrics", "MembershipInference", "UnlearningDegree"]
