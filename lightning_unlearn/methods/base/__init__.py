"""What the methods share; a method of one's own builds on :class:`UnlearningModule`."""

from lightning_unlearn.core.checks import Choice, Declared, Range
from lightning_unlearn.methods.base.ascent import AscendingModule
from lightning_unlearn.methods.base.masked import MaskedModule
from lightning_unlearn.methods.base.module import Step, UnlearningModule
from lightning_unlearn.methods.base.one_shot import OneShotModule
from lightning_unlearn.methods.base.source import Source
from lightning_unlearn.methods.base.teacher import Teacher

__all__ = [
    "AscendingModule",
    "Choice",
    "Declared",
    "MaskedModule",
    "OneShotModule",
    "Range",
    "Source",
    "Step",
    "Teacher",
    "UnlearningModule",
]
