"""SCRUB: leave the source's answers on the forget set and keep to them on the retain set, in turn."""

from typing import Any, ClassVar

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_unlearn.data import Phase, UnlearningDataModule
from lightning_unlearn.ensembles import Runtime, predict
from lightning_unlearn.functional import bounded_ascent
from lightning_unlearn.methods.base import Declared, Range, Source, Teacher, UnlearningModule
from lightning_unlearn.methods.base.searched import Search, SearchSpace

_LEAST_EPOCHS = 3


class SCRUB(UnlearningModule):
    r"""Moves away from the source's answers on the forget set and stays with them on the retain set, an epoch each.

    .. math:: L_{max} = -\min(D_T(D_f), clamp), \quad L_{min} = \gamma \, CE(D_r) + \alpha \, D_T(D_r), \quad
        D_T = T^2 \, KL(P_{source} \| P)

    Source: Kurmanji, Triantafillou, Hayes & Triantafillou, "Towards Unbounded Machine Unlearning", 2023, eq. 3 and
    algorithm 1. An epoch of the Trainer is one pass over one of the sets: the retain set, then ``msteps`` times the
    forget set and the retain set, then the retain set for what is left of ``max_epochs``. The paper begins with the
    forget set; but at the source the divergence and its gradient are 0, so that a pass over it would do nothing on a
    network whose answers in training are those in evaluation. The bound and the annealed rate are ours as well.

    Args:
        source: The source model.
        msteps: Passes over the forget set, >= 1; the paper has 2 to 3.
        alpha: Weight α of the source's answers on the retain set, >= 0.
        gamma: Weight γ of the loss on the retain set, >= 0.
        temperature: Temperature T of both divergences, > 0. The paper has 4; but softened, a confident answer leaves
            the source's as well by becoming more confident, and nothing is forgotten.
        clamp: Mean divergence on a batch of D_f beyond which nothing ascends, > 0.
        rewind: End with the weights of that pass over the retain set after which the accuracy on the forget set is
            nearest to that on non-members (SCRUB+R): for privacy. Not for a class, nor for wrong labels, where the two
            are not to agree.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Raises:
        ValueError: If an argument is outside its range; in ``fit``, if the Trainer has no ``max_epochs``, or ``rewind``
            has no non-members to go by.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> SCRUB(MLP(in_features=4, hidden=(3,), num_classes=2), msteps=0)
        Traceback (most recent call last):
        ValueError: msteps must be at least 1, got 0; the paper has 2 or 3
    """

    epoch_stream = "retain"
    indexed_streams = ("forget", "retain")
    prepares_again = True
    default_lr = 3e-3
    anneals = True
    may_collapse = True
    searched: ClassVar[SearchSpace] = {
        "msteps": Search(1, 4, whole=True),
        "alpha": Search(1e-3, 1.0, log=True),
        "temperature": (1.0, 2.0, 4.0),
    }
    saved = ("_kept",)
    declared: ClassVar[Declared] = {
        "msteps": Range("[1, inf)", "; the paper has 2 or 3", whole=True),
        "alpha": Range("[0, inf)", ": it weighs the source's answers on the retain set"),
        "gamma": Range("[0, inf)", ": it weighs the loss on the retain set"),
        "temperature": Range("(0, inf)", "; 1 is usual, the paper has 4"),
        "clamp": Range("(0, inf)", "; 6 is a usual bound"),
    }

    def __init__(
        self,
        source: Source,
        msteps: int = 2,
        *,
        alpha: float = 0.1,
        gamma: float = 1.0,
        temperature: float = 1.0,
        clamp: float = 6.0,
        rewind: bool = False,
        **method: Any,
    ) -> None:
        super().__init__(source, **method)
        self.msteps = msteps
        self.alpha = alpha
        self.gamma = gamma
        self.temperature = temperature
        self.clamp = clamp
        self.rewind = rewind
        self._teachers: dict[str, Teacher] = {}
        self._kept: dict[str, Any] = {}

    def phase(self, epoch: int) -> Phase:
        """Return which set an epoch passes over."""
        epochs = self.known_epochs
        first = int(epochs >= _LEAST_EPOCHS)
        forgets = epoch % 2 == first and epoch < min(2 * self.msteps, epochs - 1)
        return Phase(self.forget_alone, "forget") if forgets else Phase(("retain",), "retain")

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Ask the source once where a set is not augmented."""
        self._teachers = {stream: Teacher(self.source, stream) for stream in self.streams}
        for teacher in self._teachers.values():
            teacher.ask(data, runtime, self.adapter)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Leave the source's answers on D_f, or keep to them, and to the labels, on D_r."""
        stream, part = next(iter(batch.items()))
        answered = self.stream_logits(*batch.values())[0]
        teacher = self._teachers[stream].logits(part)
        divergence = self.task.distillation(teacher, answered[0], self.temperature, answered[1])
        if stream == "forget":
            loss = bounded_ascent(divergence, self.clamp)
            self.log_terms(loss=loss, forget_kl=divergence)
            return loss
        ce = self.retain_loss(part, batch_idx, answered)
        loss = self.gamma * ce + self.alpha * divergence
        self.log_terms(loss=loss, ce=ce, kl=divergence)
        return loss

    # ------------------------------------------------------------------ what it can do, and the rewind

    def on_fit_start(self) -> None:
        """Say if the forget set is not read, and refuse a rewind that has nothing to go by."""
        super().on_fit_start()
        epochs = self.known_epochs
        if epochs < _LEAST_EPOCHS and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            rank_zero_warn(
                f"SCRUB passes over the retain set, the forget set and the retain set again, an epoch each, and "
                f"max_epochs={epochs} is too few; give at least {_LEAST_EPOCHS}, better {2 * self.msteps + 1}"
            )
        if self.rewind and (reason := self.data.unlike_nonmembers):
            raise ValueError(
                f"rewind=True goes by the accuracy on non-members, and {reason}; give rewind=False"
            )
        if self.rewind and self._whole:
            raise ValueError("rewind=True keeps whole weights; use strategy='ddp', or rewind=False")

    def on_train_epoch_end(self) -> None:
        """Keep the weights that are nearest so far, as the exported model answers."""
        if not self.rewind or self.phase(self.current_epoch).epoch_stream == "forget":
            return
        with self.looked_at():
            runtime = Runtime(self.trainer)
            loaders = [self.data.loader(stream, indexed=True) for stream in ("forget", "nonmember")]
            known, unknown = (
                predict(self.model, loader, runtime, self.adapter).measured for loader in loaders
            )
        gap = abs(known - unknown)
        if not self._kept or gap < self._kept["gap"]:
            weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            self._kept = {"gap": gap, "weights": weights}

    def on_train_end(self) -> None:
        """Go back to the weights that were kept."""
        if self._kept:
            self.model.load_state_dict(self._kept["weights"])
            self._statistics.settled = False
        super().on_train_end()
