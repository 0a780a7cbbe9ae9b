"""NPO: push down the true class on the forget set, ever less as it becomes unlikely, and train the retain set."""

from typing import Any, ClassVar

from torch import Tensor

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.functional import preference_loss
from lightning_unlearn.methods.base import Declared, Range, Source, Teacher, UnlearningModule
from lightning_unlearn.methods.base.searched import Search, SearchSpace


class NPO(UnlearningModule):
    r"""Negative preference optimization, a gradient ascent that bounds itself.

    .. math:: L = \frac{2}{\beta}\,E_{D_f} \log\big(1 + (p_y / p_{source,y})^\beta\big) + \alpha\, CE(D_r)

    Source: Zhang et al., "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning", 2024;
    ``simple`` is SimNPO, Fan et al., "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM
    Unlearning", 2024, which does without the source's answers. Both are written for language models; here an answer is
    a class. One epoch is one pass over the forget set beside as many samples of the retain set. Unless ``lr_scheduler``
    is given, the rate rises for a fifth of the steps and then falls to a fiftieth of its peak.

    Args:
        source: The source model.
        beta: How sharply the push fades, > 0; 0.1 in the papers.
        alpha: Weight of the retain set, >= 0.
        simple: Whether to leave out the source's answers (SimNPO).
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> NPO(MLP(in_features=4, hidden=(3,), num_classes=2), beta=0.0)
        Traceback (most recent call last):
        ValueError: beta must be above 0, got 0.0; 0.1 is the papers'
    """

    side_by_side = True
    indexed_streams = ("forget",)
    prepares_again = True
    needs = ("loss", "losses")
    default_lr = 3e-3
    anneals = True
    searched: ClassVar[SearchSpace] = {
        "beta": Search(0.03, 1.0, log=True),
        "alpha": Search(0.3, 10.0, log=True),
    }
    declared: ClassVar[Declared] = {
        "beta": Range("(0, inf)", "; 0.1 is the papers'"),
        "alpha": Range("[0, inf)", ": it weighs the retain set"),
    }

    def __init__(
        self, source: Source, beta: float = 0.1, *, alpha: float = 1.0, simple: bool = False, **method: Any
    ) -> None:
        super().__init__(source, **method)
        self.beta = beta
        self.alpha = alpha
        self.simple = simple
        self._teacher: Teacher | None = None

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Ask the source once where the forget set is not augmented."""
        if not self.simple:
            self._teacher = Teacher(self.source)
            self._teacher.ask(data, runtime, self.adapter)

    def given(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the source's answers on D_f."""
        return {} if self._teacher is None else {"source": self._teacher.logits(batch["forget"])}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Push down the true classes of D_f, and keep D_r."""
        (forget, labels), answered = self.stream_logits(batch["forget"], batch["retain"])
        reference = self.given(batch).get("source")
        known = None if reference is None else -self.task.loss(reference, labels)
        push = preference_loss(-self.task.loss(forget, labels), known, beta=self.beta)
        ce = self.retain_loss(batch["retain"], batch_idx, answered)
        loss = push + self.alpha * ce
        self.log_terms(loss=loss, push=push, ce=ce)
        return loss
