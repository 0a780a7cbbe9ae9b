"""Ask a model about samples that carry the trigger of the forget set."""

from collections.abc import Mapping
from typing import Any, ClassVar

import lightning as L
import torch
from torch import nn

from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.evaluator import Evaluator
from lightning_unlearn.callbacks.base.watching import Curve, Watcher
from lightning_unlearn.core.checks import in_range
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.data.poisoning import Poison, triggered_loader
from lightning_unlearn.ensembles import Runtime, predict
from lightning_unlearn.metrics.declared import DeclaredMetric, near_share

_CURVE_KEY = "lightning_unlearn_backdoor_curve"
_WEIGHT = 0.5  # of either factor: Chen et al., 2024, section V-E


class Backdoor(Evaluator):
    """Asks the model about samples that carry the trigger, which it can only know from the forget set.

    The data must have been poisoned for it: ``UnlearningDataModule(..., backdoor=Poison(PatchTrigger()))``
    marks and relabels the forget set, and a source that is trained through that object learns the trigger. A
    model that never saw the forget set scores a success rate near 0. Samples whose true label is the target
    label are left out of all rates of triggered samples, since for them knowing and not knowing the trigger
    look alike.

    - ``<name>/success_rate_forget``: share of the poisoned forget set that is given the target label.
    - ``<name>/recovered_accuracy``: share of it that is given its true label.
    - ``<name>/success_rate_test``: share of the test set that is given the target label when it carries the
      trigger.
    - ``<name>/clean_accuracy``: accuracy on the test set as it is.
    - ``<name>/combined``: :func:`combined_score` of the clean accuracy and the success rate on the forget
      set.

    The last three need a test set. The results' file also holds trigger, target label, the numbers of samples
    that were counted, and the curve. Source: Chen et al., "Private Data Protection with Machine Unlearning
    for Next-Generation Networks", 2024, sections IV-B and V-E, and Chen, Wang & Huang, "Lightweight machine
    unlearning in neural network", 2021, definition 4.

    Args:
        every_n_epochs: Measure the same also before training and after every so many epochs of it, for a
            curve as in figures 8 and 9 of the paper of 2024: in the results' file, the loggers and
            ``trainer.callback_metrics``. ``None`` measures at the end only. A comparison takes the time of it
            off the method's; in a Trainer of your own the method's time counts it in.
        **evaluator: Arguments of :class:`~lightning_unlearn.callbacks.base.evaluator.Evaluator`.

    Raises:
        ValueError: If ``every_n_epochs`` is less than 1, or, when the run starts, the data has no backdoor.
    """

    needs = ("classes",)
    default_name: ClassVar[str] = "backdoor"
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "backdoor/success_rate_forget": near_share(
            "Backdoor: success rate on D_f",
            "backdoor on D_f",
            "Share of the poisoned forget samples that still get the label of the trigger.",
            decides="forgetting",
        ),
        "backdoor/success_rate_test": near_share(
            "Backdoor: success rate on the test set",
            "backdoor on test",
            "Share of the test samples with the trigger that get its label, samples of that label left out.",
        ),
        "backdoor/recovered_accuracy": near_share(
            "Backdoor: recovered accuracy",
            "recovered accuracy",
            "Share of the poisoned forget samples that get their true label again.",
        ),
        "backdoor/clean_accuracy": DeclaredMetric(
            "Accuracy on the test set without the trigger",
            "clean accuracy",
            "Share of the test set as it is that the model classifies correctly.",
            unit="%",
            direction="higher",
        ),
        "backdoor/combined": DeclaredMetric(
            "Backdoor: combined score",
            "backdoor combined",
            "Half the clean accuracy plus half the share of triggered forget samples on which the backdoor fails: "
            "1 keeps everything and forgets the trigger.",
            direction="higher",
            digits=3,
            ideal=1.0,
        ),
    }

    def __init__(self, every_n_epochs: int | None = None, **evaluator: Any) -> None:
        in_range(
            "every_n_epochs",
            every_n_epochs,
            "[1, inf)",
            "; None measures at the end only",
            whole=True,
            none=True,
        )
        super().__init__(**evaluator)
        self.every_n_epochs = every_n_epochs
        self._curve = self._new_curve()

    def _new_curve(self) -> Curve:
        every = self.every_n_epochs or 1
        return Curve(self, every, self._scores, prefix=f"{self.name}/", record=True)

    def watching(self) -> Watcher | None:
        """Return what measures the curve, where one was asked for."""
        return None if self.every_n_epochs is None else self._new_curve()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the curve so far, so that a resumed run goes on with it.

        Not in ``state_dict``, for whose key Lightning would refuse two evaluators of one name before
        :meth:`setup` can say what to do.
        """
        if self._curve.record:
            checkpoint[f"{_CURVE_KEY}/{self.name}"] = self._curve.record

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up the curve of the run that is resumed."""
        self._curve.record = checkpoint.get(f"{_CURVE_KEY}/{self.name}", {})

    def require(self, data: UnlearningDataModule) -> None:
        """Refuse data without a trigger to ask for."""
        _backdoor_of(data)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check, and begin the curve."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._curve = self._new_curve()

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Ask the model about the forget set and the test set with the trigger."""
        clean = audit.outputs(model, "test").accuracy if audit.data.stream_size("test") else None
        scores, counted = self._asked(model, audit.data, audit.runtime, audit.adapter, clean)
        backdoor = _backdoor_of(audit.data)
        audit.details.update(
            {"trigger": repr(backdoor.trigger), "target_label": backdoor.target_label, "counted": counted}
        )
        audit.details.update(self._curve.record)
        return {f"{self.name}/{score}": value for score, value in scores.items()}

    # ------------------------------------------------------------------ the curve

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the model that training starts from."""
        if self.every_n_epochs is not None:
            self._curve.on_train_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the model as it is after this epoch."""
        if self.every_n_epochs is not None:
            self._curve.on_train_epoch_end(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure a model that took no step for the curve, and evaluate."""
        if self.every_n_epochs is not None:
            self._curve.on_fit_end(trainer, pl_module)
        super().on_fit_end(trainer, pl_module)

    # ------------------------------------------------------------------ what is measured

    def _scores(
        self, model: nn.Module, data: UnlearningDataModule, runtime: Runtime, adapter: Adapter
    ) -> dict[str, float]:
        """Return the scores of a model in training."""
        clean = None
        if data.stream_size("test"):
            clean = predict(model, data.loader("test", indexed=True), runtime, adapter).accuracy
        return self._asked(model, data, runtime, adapter, clean)[0]

    def _asked(
        self,
        model: nn.Module,
        data: UnlearningDataModule,
        runtime: Runtime,
        adapter: Adapter,
        clean: float | None,
    ) -> tuple[dict[str, float], dict[str, int]]:
        """Return the scores, and from how many samples each rate of triggered samples was counted."""
        backdoor = _backdoor_of(data)
        scores: dict[str, float] = {}
        counted: dict[str, int] = {}
        for stream in ("forget", "test") if clean is not None else ("forget",):
            loader = triggered_loader(data.loader(stream, indexed=True), backdoor.trigger, data.adapter)
            outputs = predict(model, loader, runtime, adapter)
            telling = outputs.targets != backdoor.target_label
            counted[stream] = int(telling.sum())
            if not counted[stream]:
                continue
            predicted, true = outputs.task.answers(outputs.logits)[telling], outputs.targets[telling]
            scores[f"success_rate_{stream}"] = _share(predicted == backdoor.target_label)
            if stream == "forget":
                scores["recovered_accuracy"] = _share(predicted == true)
        if not counted["forget"]:
            raise ValueError(
                f"target_label={backdoor.target_label} is the true label of every forget sample, so nothing "
                "tells whether the trigger is known; give Poison another target_label"
            )
        if clean is not None:
            scores["clean_accuracy"] = clean
            scores["combined"] = combined_score(clean, scores["success_rate_forget"])
        return scores, counted


def combined_score(accuracy: float, success_rate: float) -> float:
    """Weigh what a model still can against what it forgot: ``0.5·accuracy + 0.5·(1 − success_rate)``.

    Chen et al., "Private Data Protection with Machine Unlearning for Next-Generation Networks", 2024, section
    V-E and figure 8, give both factors the weight 0.5 and call a higher score better. They do not print how
    the success rate, of which less is better, becomes a factor of which more is; here it is the share of the
    triggered samples on which the backdoor fails.

    Args:
        accuracy: Accuracy on the clean test set, in [0, 1].
        success_rate: Success rate of the backdoor on the forget set, in [0, 1].

    Returns:
        The score in [0, 1].

    Example:
        >>> combined_score(accuracy=0.98, success_rate=0.2)
        0.89
    """
    return _WEIGHT * accuracy + (1 - _WEIGHT) * (1 - success_rate)


def _backdoor_of(data: UnlearningDataModule) -> Poison:
    if data.backdoor is None:
        raise ValueError(
            "the data has no backdoor to ask for: give UnlearningDataModule(backdoor=Poison(PatchTrigger(), "
            "target_label=0)), and train the source through it so that it learns the trigger"
        )
    return data.backdoor


def _share(hits: torch.Tensor) -> float:
    return float(hits.double().mean())
