"""Unlearning methods: each is a LightningModule whose ``training_step`` is the loss."""

from lightning_unlearn.methods.base import UnlearningModule
from lightning_unlearn.methods.reference_kl import ReferenceKL
from lightning_unlearn.methods.retrain import Retrain
from lightning_unlearn.methods.source import SourceCheckpoint

__all__ = ["ReferenceKL", "Retrain", "SourceCheckpoint", "UnlearningModule"]
