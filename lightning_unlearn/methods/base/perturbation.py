"""Perturb chosen weights and fine-tune, by Zuo et al.: the base of Top-K and Random-k."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lightning_unlearn.core.checks import Choice, Declared, Range, in_range
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.functional import (
    perturb_mixed,
    perturb_scaled,
    selection_masks,
)
from lightning_unlearn.methods.base.masked import MaskedModule
from lightning_unlearn.methods.base.searched import SearchSpace
from lightning_unlearn.methods.base.source import Source, load_source
from lightning_unlearn.methods.base.teacher import Teacher
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.models import count_parameters
from lightning_unlearn.models.freezing import hold_statistics, trainable


class Perturbation(MaskedModule):
    r"""Perturbs the weights that :meth:`select` names, then fine-tunes; the base of Top-K and Random-k.

    Before the first step each chosen weight becomes :math:`\omega + \epsilon\,\omega` (eq. 7) or is mixed
    with another chosen one (algorithm 1, line 12). Then, with P the posteriors,

    .. math:: L = CE(P(D_r), Y_r) + \lambda \, JS(P(D_f) \| P_{teacher}(D_f))

    is minimised (eq. 10). Source: Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters
    Perturbation", section III-B. Their eq. 10 lacks the minus sign of the cross-entropy and their eq. 9 has
    the sign of log 2 reversed and lacks a factor; both are corrected here, and JS is in base 2, so that it
    lies in [0, 1] as they state. Eq. 7 leaves a weight of exactly 0 as it is. Unless ``lr_scheduler`` or
    ``similarity_threshold`` is given, the rate rises for a fifth of the steps and then falls to a fiftieth of its
    peak; the paper says nothing of it.

    Args:
        source: The source model.
        epsilon: Coefficient ε of the perturbation; finite and not 0, in (0, 1] with ``mix``. The paper asks
            for a small value and names none.
        mix: Whether chosen weights are mixed with one another rather than scaled.
        lambda_: Weight λ of the JS term, >= 0; at 0 the forget set is not read.
        teacher: Whose posteriors the JS term pulls to: ``"source"``, as the paper has it, or a model (or its
            checkpoint) that never saw the forget set, which the paper puts the source in place of.
        update: Which weights fine-tuning moves. ``"all"``, or ``"selected"``: the perturbed ones only, as the
            paper's theorem 1 reads; every other number of the model, running statistics included, then stays
            bit-identical to the source's. A step costs the same either way.
        similarity_threshold: Stop at the end of the epoch after which the mean of 1 − JS on the forget set
            reaches this value in (0, 1]; ``None`` trains for the trainer's ``max_epochs``.
        epoch: Which set an epoch is one pass over: ``"retain"`` (algorithm 1, line 15) or the smaller
            ``"forget"``, with as many samples of the other set beside it.
        step: ``"loss"``, or ``"source"`` for the source's own training step on the retain set (no sensitivity is taken
            of it).
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Attributes:
        perturbed: Flat row-major positions of the perturbed weights by parameter name, int64 and ascending;
            empty before ``fit``.

    Raises:
        ValueError: If an argument is outside its range.
    """

    epoch_stream = "retain"
    anneals = True
    indexed_streams = ("forget",)
    searched: ClassVar[SearchSpace] = {"epsilon": (-2.0, -1.0, 1.0, 10.0), "lambda_": (0.0, 0.1, 1.0)}
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "perturbed_parameters": DeclaredMetric(
            "Perturbed weights",
            "perturbed",
            "How many weights were perturbed before the first step.",
            digits=0,
        )
    }
    saved = ("perturbed",)  # which weights; they come perturbed out of a checkpoint
    declared: ClassVar[Declared] = {
        "epsilon": Range("(-inf, inf)"),
        "lambda_": Range("[0, inf)", "; 0 leaves out the JS term"),
        "similarity_threshold": Range("(0, 1]", "; None never stops early", none=True),
        "update": Choice(("all", "selected")),
        "epoch": Choice(("retain", "forget")),
        "fraction": Range("(0, 1]", "; 5% is 0.05"),
    }

    def __init__(
        self,
        source: Source,
        *,
        epsilon: float = 0.1,
        mix: bool = False,
        lambda_: float = 0.1,
        teacher: Source = "source",
        update: Literal["all", "selected"] = "all",
        similarity_threshold: float | None = None,
        epoch: Literal["retain", "forget"] = "retain",
        **method: Any,
    ) -> None:
        if epsilon == 0:
            raise ValueError(f"epsilon must be finite and not 0, got {epsilon}; 0 would perturb nothing")
        if mix and not 0 < epsilon <= 1:
            raise ValueError(f"epsilon must lie in (0, 1] with mix, got {epsilon}: it is the partner's share")
        self.update = update  # train() below asks for it
        super().__init__(source, **method)
        self.epsilon = epsilon
        self.mix = mix
        self.lambda_ = lambda_
        self.similarity_threshold = similarity_threshold
        self.epoch_stream = epoch
        self.anneals = similarity_threshold is None  # or nobody knows how many steps there will be
        if not lambda_ and similarity_threshold is None and epoch == "retain":
            self.streams = ("retain",)  # nothing asks for the forget set
        self.perturbed: dict[str, Tensor] = {}
        taught_by = self.source if teacher == "source" else load_source(teacher)
        if similarity_threshold is not None:
            self.needs = (*self.needs, "posteriors")
        self._teacher = Teacher(taught_by)
        self.train()

    # ------------------------------------------------------------------ what may be chosen

    @property
    def n_weights(self) -> int:
        """How many weights there are to choose from."""
        return count_parameters(self.model, list(trainable(self.model)))

    def require_k(self, k: int, most: int, what: str) -> None:
        """Raise unless ``k`` is an integer from 1 to ``most``, the number of ``what`` there are to choose."""
        in_range("k", k, f"[1, {most}]", f": {type(self.model).__name__} has {most} {what}", whole=True)

    def require_fraction(self, fraction: float) -> None:
        """Raise unless ``fraction`` is a share of the model's weights that chooses at least one."""
        if not round(fraction * self.n_weights):
            raise ValueError(
                f"fraction must lie in (0, 1] and choose at least one of {self.n_weights} weights, got {fraction}; "
                "5% is 0.05"
            )

    # ------------------------------------------------------------------ before the first step

    def select(
        self, data: UnlearningDataModule, runtime: Runtime, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Choose the weights to perturb.

        Args:
            data: The split data.
            runtime: Device, precision and ranks of the trainer.
            generator: Source of randomness, seeded alike on every rank.

        Returns:
            Flat row-major positions by parameter name, the same on every rank.
        """
        raise NotImplementedError(f"{type(self).__name__} must define select()")

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Ask the teacher, choose weights, and perturb them."""
        self.prepare_resumed(data, runtime)
        # last, so that a run that is stopped before has not perturbed anything, and one resumed not twice
        generator = torch.Generator().manual_seed(derive_seed(data.order_seed, "perturbation"))
        chosen = self.select(data, runtime, generator)
        self.perturbed = {name: positions.cpu() for name, positions in chosen.items()}
        self.measured["perturbed_parameters"] = float(self.n_perturbed)
        parameters = dict(self.model.named_parameters())
        if self.mix:
            perturb_mixed(parameters, self.perturbed, self.epsilon, generator)
        else:
            for name, positions in self.perturbed.items():
                perturb_scaled(parameters[name], positions, self.epsilon)

    @property
    def n_perturbed(self) -> int:
        """How many weights were perturbed."""
        return sum(len(positions) for positions in self.perturbed.values())

    def prepare_resumed(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Ask the teacher, where it is needed; the weights came perturbed with the checkpoint."""
        if "forget" in self.streams:
            self._teacher.ask(data, runtime, self.adapter)

    def step_scales(self) -> dict[str, Tensor]:
        """Return 1 for the perturbed weights and 0 for the others, where only these may move."""
        return selection_masks(self.perturbed, trainable(self.model)) if self.update == "selected" else {}

    # ------------------------------------------------------------------ fine-tuning

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Eq. 10: CE on the retain set + λ·JS on the forget set."""
        if "forget" not in self.streams:
            return super().training_step(batch, batch_idx)
        (forget, targets), retain = self.stream_logits(batch["forget"], batch["retain"])
        ce = self.retain_loss(batch["retain"], batch_idx, retain)
        js = self.task.js(forget, self._teacher.logits(batch["forget"]), targets).mean()
        loss = ce + self.lambda_ * js
        self.log_terms(loss=loss, js=js, ce=ce)
        return loss

    def train(self, mode: bool = True) -> "Perturbation":
        """Set the mode; running statistics do not follow the data where only selected weights may move."""
        super().train(mode)
        if mode and self.update == "selected":
            hold_statistics(self.model, everything=True)
        return self

    def on_train_epoch_end(self) -> None:
        """Log ``train/similarity`` and stop as soon as it reaches the threshold."""
        if self.similarity_threshold is None:
            return
        teacher = self._teacher.answers(self.data, Runtime(self.trainer)).cpu()
        ours = self.forget_answers()
        reached = ours.task.similarity(ours.logits, teacher, ours.targets).mean()
        self.log("train/similarity", reached, sync_dist=True)
        if float(reached) >= self.similarity_threshold:
            self.end_fit()
