"""BadTeacher: answer on the forget set as an untrained network does, and on the retain set as the source."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime, isolated_rng
from lightning_unlearn.methods.base import Declared, Range, Source, Teacher, UnlearningModule
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.models import fresh_copy


class BadTeacher(UnlearningModule):
    r"""Learns an untrained network's answers on the forget set, and the source's on part of the retain set.

    .. math:: L = \frac{1}{|D_s|} \Big( \sum_{D_s} D_T(P_{source} \| P) + \sum_{D_f} D_T(P_{fresh} \| P) \Big), \quad
        D_T = T^2 \, KL

    Source: Chundawat, Tarun, Mandal & Kankanhalli, "Can Bad Teaching Induce Forgetting? Unlearning in Deep Neural
    Networks using an Incompetent Teacher", 2023, eq. 3. Public code divides the divergence by the number of classes as
    well, which is no mean over samples. An untrained network's answers are nearly the same for every sample, so the
    forget set can be told by them: its answers are not those of a retrained model.

    One epoch is one pass over the part D_s of the retain set and one over the forget set, spread evenly beside it. No
    label is read. Unless ``lr_scheduler`` is given, the rate rises for a fifth of the steps and then falls to a
    fiftieth of its peak.

    Args:
        source: The source model.
        retain_fraction: Size of D_s, as a fraction of the retain set in (0, 1]; the paper has 0.3.
        temperature: Temperature T, > 0.
        fresh: Builds the untrained network; ``None`` for :func:`~lightning_unlearn.models.fresh_copy`.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> BadTeacher(MLP(in_features=4, hidden=(3,), num_classes=2), retain_fraction=0.0)
        Traceback (most recent call last):
        ValueError: retain_fraction must lie in (0, 1], got 0.0; 0.3 is the paper's
    """

    side_by_side = True
    epoch_stream = "retain"
    once = ("forget",)
    indexed_streams = ("forget", "retain")
    prepares_again = True
    needs = ()
    default_lr = 3e-3
    anneals = True
    searched: ClassVar[SearchSpace] = {"retain_fraction": Search(0.1, 1.0), "temperature": (1.0, 2.0, 4.0)}
    declared: ClassVar[Declared] = {
        "retain_fraction": Range("(0, 1]", "; 0.3 is the paper's"),
        "temperature": Range("(0, inf)", "; 1 is the paper's"),
    }

    def __init__(
        self,
        source: Source,
        retain_fraction: float = 0.3,
        *,
        temperature: float = 1.0,
        fresh: Callable[[], nn.Module] | None = None,
        **method: Any,
    ) -> None:
        super().__init__(source, **method)
        self.retain_fraction = retain_fraction
        self.temperature = temperature
        self._fresh = fresh
        self._teachers: dict[str, Teacher] = {}

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Draw the untrained network, and ask both teachers once where their set is not augmented."""
        with isolated_rng(derive_seed(data.order_seed, "bad teacher")):
            fresh = fresh_copy(self.source, self._fresh)
        kept = self.stream_positions("retain", data.split)
        self._teachers = {
            "forget": Teacher(fresh),
            "retain": Teacher(self.source, "retain", kept),
        }
        for teacher in self._teachers.values():
            teacher.ask(data, runtime, self.adapter)

    def given(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return what the teachers answer, each on its stream."""
        return {name: teacher.logits(batch[name]) for name, teacher in self._teachers.items()}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Follow the untrained network on D_f and the source on D_s."""
        answers = self.stream_logits(batch["forget"], batch["retain"])
        bad, good = (
            self.task.distillation(teacher, logits, self.temperature, targets)
            for teacher, (logits, targets) in zip(self.given(batch).values(), answers, strict=True)
        )
        loss = good + self.samples_beside("forget") * bad
        self.log_terms(loss=loss, good=good, bad=bad)
        return loss
