"""Reference-model unlearning of Chen et al., 2024 and 2021: λ·KL + (1−λ)·CE."""

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import lightning as L
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.data.splits import some_of
from lightning_unlearn.engine.own_steps import own_loss
from lightning_unlearn.engine.train import default_optimizer
from lightning_unlearn.ensembles import Runtime, isolated_rng, predict, train_classifier
from lightning_unlearn.methods.base import Declared, Range, Source, Teacher, UnlearningModule
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.models import Classifier, fresh_copy

_ON = {"train": "what it was trained on", "test": "the test set", "forget": "D_f, which it never saw"}


class ReferenceKL(UnlearningModule):
    r"""Pulls the posteriors on the forget set to those of a model that never saw it.

    A reference model of the same architecture is trained on a small subset D_s of the retain set; then, with
    P the posteriors,

    .. math:: L = \lambda \, KL(P_{ref}(D_f) \| P(D_f)) + (1 - \lambda) \, CE(P(D_r), Y_r)

    One epoch is one pass over the forget set with as many retain samples beside it, which is what makes the
    method cheap. Source: Chen et al., "Private Data Protection with Machine Unlearning for Next-Generation
    Networks", 2024, eq. 1-4, and Chen, Wang & Huang, "Lightweight machine unlearning in neural network", 2021,
    algorithm 1. Eq. 2 prints the cross-entropy of two classes with prediction and label exchanged; meant, and
    used here, is the cross-entropy of the label under the prediction. The papers name a KL distance without its
    direction; here it is KL(P_ref‖P), whose gradient in the logits is P − P_ref.

    Args:
        source: The source model.
        lambda_: Weight λ of the KL term in [0, 1]; the papers use 0.01.
        reference: A model that never saw the forget set; ``None`` trains one inside ``fit``.
        reference_fraction: Size of D_s, as a fraction of the retain set in (0, 1]; the papers use 0.1.
        reference_epochs: Passes over D_s.
        reference_optimizer: Makes the reference model's optimizer; ``None`` for Adam with learning rate 1e-3.
        fresh: Builds the untrained reference model; ``None`` draws as :func:`~lightning_unlearn.models.fresh_copy`
            says.
        kl_tolerance: Stop when the mean KL on the forget set after an epoch, in nats, is below this (eq. 4), the
            model being asked as it would be exported; ``None`` trains for the trainer's ``max_epochs``.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> ReferenceKL(MLP(in_features=4, hidden=(3,), num_classes=2), lambda_=2.0)
        Traceback (most recent call last):
        ValueError: lambda_ must lie in [0, 1], got 2.0: it weighs the KL term against the cross-entropy
    """

    streams = ("forget", "retain")
    epoch_stream = "forget"
    indexed_streams = ("forget",)
    searched: ClassVar[SearchSpace] = {
        "lambda_": Search(1e-2, 1.0, log=True),
        "reference_fraction": Search(0.02, 0.3, log=True),
        "reference_epochs": Search(2, 20, whole=True),
    }
    declared: ClassVar[Declared] = {
        "lambda_": Range("[0, 1]", ": it weighs the KL term against the cross-entropy"),
        "reference_fraction": Range("(0, 1]"),
        "reference_epochs": Range("[1, inf)", whole=True),
        "kl_tolerance": Range("(0, inf]", "; None never stops early", none=True),
    }
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        **{
            f"reference/accuracy_{part}": DeclaredMetric(
                f"Reference model: accuracy on {words}",
                f"reference, {part}",
                f"Share of right answers of the reference model on {words}; of more than 2,000 samples on as many.",
                unit="%",
            )
            for part, words in _ON.items()
        },
        "time/reference_s": DeclaredMetric(
            "Reference model: time to train",
            "reference time",
            "Wall-clock time of training the reference model, a part of the time to prepare.",
            unit="s",
        ),
    }

    def __init__(
        self,
        source: Source,
        lambda_: float = 0.01,
        reference: nn.Module | None = None,
        reference_fraction: float = 0.1,
        *,
        reference_epochs: int = 20,
        reference_optimizer: OptimizerCallable | None = None,
        fresh: Callable[[], nn.Module] | None = None,
        kl_tolerance: float | None = None,
        **method: Any,
    ) -> None:
        super().__init__(source, **method)
        self.lambda_ = lambda_
        self.reference_fraction = reference_fraction
        self.reference_epochs = reference_epochs
        self.kl_tolerance = kl_tolerance
        self._reference_optimizer = reference_optimizer
        self._fresh = fresh
        self._reference = None if reference is None else Teacher(reference)

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Train the reference model on D_s, and ask it once where the forget set is not augmented."""
        if self._reference is None:
            self._reference = Teacher(self._train_reference(data, runtime))
        self._reference.ask(data, runtime, self.adapter)

    def prepare_resumed(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Ask the reference model again, unless its answers came with the checkpoint."""
        if self._reference is not None:
            self._reference.ask(data, runtime, self.adapter)

    def _train_reference(self, data: UnlearningDataModule, runtime: Runtime) -> nn.Module:
        seed = derive_seed(data.order_seed, "reference")
        with isolated_rng(seed):
            reference = fresh_copy(self.source, self._fresh)
        runtime.place(reference)
        own = self.step == "source"
        if own and isinstance(reference, L.LightningModule):
            reference.trainer = self.trainer
        size = max(1, round(self.reference_fraction * len(data.split.retain)))
        positions = data.split.draw_reference(size)
        if own and isinstance(reference, Classifier):
            reference.balance(data.loader("retain", positions=positions))
        start = time.perf_counter()
        train_classifier(
            reference,
            data.loader("retain", train=True, positions=positions, seed=seed, least=1),
            epochs=self.reference_epochs,
            optimizer=self._reference_optimizer or default_optimizer,
            runtime=runtime,
            loss=self.loss,
            step=_own_step if own else None,
            adapter=self.adapter,
            seed=seed,
        )
        runtime.synchronize()
        self.measured["time/reference_s"] = time.perf_counter() - start
        if "correct" in self.task.offers:
            for part, stream in {"train": "retain", "test": "test", "forget": "forget"}.items():
                if data.stream_size(stream):
                    chosen = some_of(positions, seed) if part == "train" else data.looked_at(stream)
                    loader = data.loader(stream, positions=chosen, indexed=True)
                    answers = predict(reference, loader, runtime, self.adapter)
                    self.measured[f"reference/accuracy_{part}"] = answers.accuracy
        return reference

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Eq. 3: λ·KL on the forget set + (1−λ)·CE on as many retain samples."""
        assert self._reference is not None  # prepare() made it
        (forget, targets), retain = self.stream_logits(batch["forget"], batch["retain"])
        ce = self.retain_loss(batch["retain"], batch_idx, retain)
        kl = self.task.kl(self._reference.logits(batch["forget"]), forget, targets).mean()
        loss = self.lambda_ * kl + (1.0 - self.lambda_) * ce
        self.log_terms(loss=loss, kl=kl, ce=ce)
        return loss

    def on_train_epoch_end(self) -> None:
        """Stop as soon as the two distributions on the forget set agree (eq. 4), as the exported model gives them."""
        if self.kl_tolerance is None:
            return
        assert self._reference is not None  # prepare() made it
        reference = self._reference.answers(self.data, Runtime(self.trainer)).cpu()
        ours = self.forget_answers()
        if float(ours.task.kl(reference, ours.logits, ours.targets).mean()) < self.kl_tolerance:
            self.end_fit()

    def preparation_state(self) -> dict[str, Any]:
        """Return the reference model, which never saw the forget set."""
        return {} if self._reference is None else {"reference": self._reference.state()}

    def load_preparation_state(self, state: Mapping[str, Any]) -> None:
        """Take back the reference model's answers, or the model itself where they cannot be kept."""
        self._reference = self._reference or Teacher(self.source)
        self._reference.load_state(state["reference"])


def _own_step(module: nn.Module, batch: Any) -> Tensor:
    return own_loss(cast(L.LightningModule, module), batch, 0)
