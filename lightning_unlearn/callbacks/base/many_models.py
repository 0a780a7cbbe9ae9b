"""The base of evaluators that compare populations of models."""

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.evaluator import Evaluator
from lightning_unlearn.callbacks.base.populations import Kinds, Population, Populations, Sources
from lightning_unlearn.callbacks.base.repeating import fit_again, warn_of_callbacks
from lightning_unlearn.core.checks import in_range, one_of
from lightning_unlearn.core.files import atomic_path
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.ensembles.fingerprint import fingerprint
from lightning_unlearn.functional import u_lira_intervals, u_lira_rates
from lightning_unlearn.methods.base.again import (
    Procedure,
    TrainAnew,
    repeated,
    trainer_arguments,
)
from lightning_unlearn.methods.base.module import UnlearningModule
from lightning_unlearn.methods.base.recording import describe
from lightning_unlearn.methods.retrain import Retrain
from lightning_unlearn.metrics.declared import DeclaredMetric, near_score


def confidence_metrics(prefix: str, short: str, **matched: Any) -> dict[str, DeclaredMetric]:
    """Declare what :meth:`ManyModels.beside_unseen` gives.

    Args:
        prefix: What the names begin with.
        short: The score in a few words.
        **matched: What else is declared of the score with matched confidence.
    """
    found = {
        "nonmember": near_score(
            f"{short} on non-members",
            f"{short}, non-members",
            f"{short} on samples that no model was trained on (non-members, or else the test set): what is seen there "
            "is no memory of D_f but how sure the models are, and what the method did to all samples.",
        ),
        "difference": near_score(
            f"{short} on D_f less that on non-members",
            f"{short}, D_f - non-members",
            f"{short} on D_f minus that on non-members: what is seen of D_f alone. Where both are as large as they can "
            "be it is 0 and says nothing.",
        ),
        "matched": near_score(
            f"{short} at matched confidence",
            f"{short}, matched",
            f"{short} on D_f after each model's confidence was shifted and scaled to that of retrained models on "
            "non-members: a temperature neither looks like memory nor hides it.",
            **matched,
        ),
    }
    return {f"{prefix}/{name}": metric for name, metric in found.items()}


@dataclass
class _Run:
    """What the evaluators of one Trainer share.

    Attributes:
        build: Makes untouched copies of what was fitted; ``None`` where nothing was.
        identity: What was fitted.
        settings: The Trainer's arguments before the fit, since callbacks may change them.
        warned: Whether was said what a repetition lacks.
        populations: What was made so far.
    """

    build: Callable[[nn.Module], L.LightningModule] | None = None
    identity: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    warned: bool = False
    populations: Populations = field(default_factory=Populations)


_RUNS: weakref.WeakKeyDictionary[L.Trainer, _Run] = weakref.WeakKeyDictionary()


class ManyModels(Evaluator):
    """Base of the evaluators that look at K models of each kind and not at the audited one alone.

    What is fitted under the Trainer, a method of this package or of anybody's, is untouched copied before its first
    step and carried out K times more when fit ends, each from a seed of its own, on one device each and, with
    several processes, shared out over them. Beside these there are K retrained models, and K more, whose score is the
    null: what a perfect unlearner gets. Plain retraining is done as one computation
    (:func:`~lightning_unlearn.ensembles.train_ensemble`), and so are methods whose class says ``side_by_side``.

    Callbacks of the Trainer have no part in these repetitions; where one may have decided what was trained, as averages
    of weights do, a warning names it. A fit that ended early (EarlyStopping, Timer) is repeated for as many steps.

    How sure a model is of itself is no memory, and moves every such score. So beside the score on the forget set there
    is the same on samples that no model was trained on (the non-members, or else the test set) with their difference,
    and the score once more with each model's confidence matched on those samples
    (:func:`~lightning_unlearn.functional.match_confidence`).

    A comparison passes its own ways of unlearning and retraining, and shares all models between evaluators and
    methods. Under ``Trainer.test``, and for a control, it is not known how the model came to be; it is then taken K
    times as it is, which no statistic over models takes for forgetting, unless it is the retrained model (for which a
    third K are retrained, since compared with themselves the others would have no width) or, with ``sources="many"``,
    the source (for which K are trained).

    Args:
        models: K, the number of models of each kind.
        sources: ``"one"`` unlearns K times from the one source, as the competition did; ``"many"`` trains K sources
            anew and unlearns from each, which includes how sources differ. Needed for a source control that
            means something: one source is K times the same model.
        retrain_epochs: Passes of retraining (and of training sources anew); train as far as the source was trained.
        retrain_optimizer: Makes the optimizer of these; ``None`` for the source's own recipe, or Adam with
            learning rate 1e-3.
        retrain_lr_scheduler: Makes the schedule that goes with ``retrain_optimizer``.
        cache: Folder in which the models' answers are kept, so that a later or resumed run takes them from there;
            a comparison has one of its own.
        **evaluator: Arguments of :class:`~lightning_unlearn.callbacks.base.evaluator.Evaluator`.

    Attributes:
        kinds: How models come to be, where a comparison says so.
        shared: Populations made so far, where a comparison shares them.

    Raises:
        ValueError: If an argument is outside its range.
    """

    of_streams = True
    least_models: ClassVar[int]
    keeps: ClassVar[str | None] = "populations"

    def __init__(
        self,
        models: int = 64,
        *,
        sources: Sources = "one",
        retrain_epochs: int = 20,
        retrain_optimizer: OptimizerCallable | None = None,
        retrain_lr_scheduler: LRSchedulerCallable | None = None,
        cache: str | Path | None = None,
        **evaluator: Any,
    ) -> None:
        usable = f"; {type(self).__name__} needs as many, and 64 give a usable score"
        in_range("models", models, f"[{self.least_models}, inf)", usable, whole=True)
        one_of("sources", sources, "one", "many")
        in_range("retrain_epochs", retrain_epochs, "[1, inf)", whole=True)
        super().__init__(**evaluator)
        self.models = models
        self.sources = sources
        self.retrain_epochs = retrain_epochs
        self.retrain_optimizer = retrain_optimizer
        self.retrain_lr_scheduler = retrain_lr_scheduler
        self.cache = None if cache is None else Path(cache)
        self.kinds: Kinds | None = None
        self.shared: Populations | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check, and copy what is about to be fitted, once for all evaluators of the Trainer."""
        super().setup(trainer, pl_module, stage)
        if stage not in ("fit", "test") or self.kinds is not None or trainer in _RUNS:
            return
        run = _RUNS[trainer] = _Run()
        repeatable = isinstance(pl_module, UnlearningModule) or trainer.datamodule is not None  # type: ignore[attr-defined]
        if stage == "fit" and repeatable:
            run.build, run.settings = repeated(pl_module), trainer_arguments(trainer)
            try:
                run.identity = fingerprint(run.build)
            except TypeError:  # it is needed only where answers outlive the run
                if self.cache is not None:
                    raise

    def require(self, data: UnlearningDataModule) -> None:
        """Name data without samples that no model was trained on, where nothing tells memory from confidence."""
        if max(data.stream_size("nonmember"), data.stream_size("test")) < 2:
            rank_zero_warn(
                f"the evaluator {self.name!r} has neither non-members nor a test set, so confidence cannot be told "
                f"from memory: '{self.name}/matched', which decides, is not measured; give the data a test set"
            )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let go of copies and populations."""
        super().teardown(trainer, pl_module, stage)
        _RUNS.pop(trainer, None)

    # ------------------------------------------------------------------ what an evaluator asks for

    def populations_of(self, audit: Audit) -> Populations:
        """Return what the evaluators of a run, or of a seed of a comparison, share."""
        if self.shared is not None:
            return self.shared
        assert audit.runtime.trainer is not None
        return _RUNS[audit.runtime.trainer].populations

    def audited_population(self, model: nn.Module, audit: Audit) -> Population:
        """Return K models of the audited model's kind."""
        return self.populations_of(audit).audited(
            self._kinds(model, audit), model, self.models, self.sources, audit
        )

    def retrained_population(self, model: nn.Module, audit: Audit, *, second: bool = False) -> Population:
        """Return K retrained models, or K others, which give the null."""
        return self.populations_of(audit).retrained(
            self._kinds(model, audit), self.models, audit, second=second
        )

    def half_trained_population(self, model: nn.Module, audit: Audit) -> tuple[Population, Tensor]:
        """Return 2K models trained on the retain set and half of the forget set each, and on which half."""
        return self.populations_of(audit).half_trained(self._kinds(model, audit), self.models, audit)

    def beside_unseen(
        self,
        own: float,
        statistic: Callable[[Sequence[Population], str], float],
        populations: Sequence[Population],
        audit: Audit,
        *,
        unseen: bool = True,
    ) -> dict[str, float]:
        """Return what tells memory from confidence, under the names of :func:`confidence_metrics`.

        Args:
            own: The score on the forget set.
            statistic: The score of populations on a stream; NaN where it has none.
            populations: The audited models' and all others that the score needs, the last of them retrained.
            audit: The audit, whose details name the unseen stream.
            unseen: Whether the score has a meaning on unseen samples.
        """
        stream = populations[-1].unseen
        if stream is None:
            return {}
        audit.details["unseen"] = stream
        matched = [population.as_sure_as(populations[-1]) for population in populations]
        scores = {"matched": statistic(matched, "forget")}
        if unseen:
            scores["nonmember"] = statistic(populations, stream)
            scores["difference"] = own - scores["nonmember"]
        return {name: score for name, score in scores.items() if math.isfinite(score)}

    def save_samples(self, model: nn.Module, audit: Audit, **scores: Tensor) -> None:
        """Write scores of single samples next to the results' file, in the order of the stream; no sample is named."""
        path = self.file_for(model, audit, "_samples.npz")
        if path is None:
            return
        arrays: dict[str, Any] = {name: value.numpy() for name, value in scores.items()}
        with atomic_path(path) as unfinished:
            np.savez_compressed(unfinished, **arrays)
        audit.details["samples"] = path.name

    def attack_rates(
        self,
        model: nn.Module,
        audit: Audit,
        unlearned: Tensor,
        retrained: Tensor,
        resamples: int,
        *,
        threshold: bool = True,
        **details: Any,
    ) -> dict[str, float]:
        """Return the rates of an attack, and note its intervals and the scores of samples.

        Args:
            model: The audited model.
            audit: The audit.
            unlearned: Scores of the unlearned models on D_f, ``(K, n)``.
            retrained: Scores of the retrained models.
            resamples: Resamples for the intervals.
            threshold: Whether the scores have a natural threshold, and so an accuracy.
            **details: What else the results' file holds.
        """
        generator = torch.Generator().manual_seed(audit.seed)
        rates = u_lira_rates(unlearned, retrained)
        intervals = u_lira_intervals(unlearned, retrained, generator, resamples=resamples)
        if not threshold:
            del rates["accuracy"], intervals["accuracy"]
        ends = {name: list(bounds) for name, bounds in intervals.items()}
        audit.details.update({**self.counted(), **details, "ci95": ends})
        self.save_samples(model, audit, unlearned=unlearned, retrained=retrained)
        return rates

    def counted(self) -> dict[str, Any]:
        """Return what every score over models must be read with."""
        return {"models": self.models, "sources": self.sources}

    # ------------------------------------------------------------------ within

    def _kinds(self, model: nn.Module, audit: Audit) -> Kinds:
        kinds = self.kinds or self._own_kinds(model, audit)
        if model is audit.source:
            return replace(kinds, audited="source")
        return replace(kinds, audited="retrained") if model is audit.retrained else kinds

    def _own_kinds(self, model: nn.Module, audit: Audit) -> Kinds:
        """Return how models come to be under a Trainer of the user's own."""
        trainer = audit.runtime.trainer
        assert trainer is not None
        run, data = _RUNS[trainer], trainer.datamodule  # type: ignore[attr-defined]
        source = audit.source or (model.model if isinstance(model, UnlearningModule) else model)
        method = None
        if run.build is not None:
            if not run.warned:
                warn_of_callbacks(self.name, trainer)
                run.warned = True
            own_data = None if data is audit.data else data
            method = fit_again(run.build, run.identity, run.settings, trainer, own_data)
        optimizer, schedule = self.retrain_optimizer, self.retrain_lr_scheduler

        def training(kind: type[Retrain]) -> Procedure:
            def build(architecture: nn.Module) -> Retrain:
                step = "loss" if "loss" in audit.adapter.kind.offers else "source"
                return kind(
                    architecture, optimizer=optimizer, lr_scheduler=schedule, adapter=audit.adapter, step=step
                )

            named = [kind.__name__, self.retrain_epochs, optimizer, schedule, _recipe(source)]
            return Procedure(build, lambda: {"max_epochs": self.retrain_epochs}, named)

        return Kinds(
            audited="as it is" if method is None else "unlearned",
            method=method,
            retrain=training(Retrain),
            anew=training(TrainAnew),
            source=source,
            seed=audit.data.order_seed if self.seed is None else self.seed,
            cache=self.cache,
        )


def _recipe(source: nn.Module) -> list[Any]:
    """Return what decides how a source is trained again: not its weights."""
    return [describe(source), getattr(source, "optimizer", None), getattr(source, "lr_scheduler", None)]
