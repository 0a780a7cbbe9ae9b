"""Retrain: the oracle that every unlearned model is measured against."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from lightning_unlearn.engine.own_steps import own_validation
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods.base import Declared, Range, Source, UnlearningModule
from lightning_unlearn.models import Classifier, fresh_copy

_OWN_METRICS = {"train/loss", "accuracy/forget", "accuracy/test"}


class Retrain(UnlearningModule):
    """Trains a fresh model of the source's architecture on the retain set alone.

    The baseline of all the papers. No weight and no running statistic of the source survives: every layer is
    drawn anew as its class draws it. Unless an optimizer is given, the source's own ``configure_optimizers`` is
    used; a schedule of it that watches a metric of the source's own validation gets that metric, measured by the
    source's ``validation_step`` on its owner's validation set after each epoch. Parameters that are frozen in
    the source among trainable ones (a pretrained backbone) were not trained on anybody's samples and are kept.
    One epoch is one pass over the retain set.

    Args:
        source: The source model; only its architecture (and recipe) is used.
        fresh: Builds an untrained model; ``None`` for :func:`~lightning_unlearn.models.fresh_copy`.
        retain_fraction: Share of the retain set to train on, in (0, 1]: with less than all it is the reference model of
            :class:`~lightning_unlearn.methods.ReferenceKL`, on the same samples, and no oracle.
        step: What is minimised: ``"loss"``, the argument ``loss``, or ``"source"``, what the source's own
            ``training_step`` returns (label smoothing, auxiliary losses, mixing of samples). A warning tells
            where the two differ: an oracle is to be trained as the source was.
        optimizer: Makes the optimizer; ``None`` for the source's own recipe, or Adam with learning rate 1e-3.
        lr_scheduler: Makes the schedule that goes with ``optimizer``.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Raises:
        ValueError: If the source's own steps are asked for and it has none, or optimizes manually.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> method = Retrain(MLP(in_features=4, hidden=(3,), num_classes=2))
        >>> method.epoch_stream
        'retain'
    """

    streams = ("retain",)
    epoch_stream = "retain"
    follows_source_recipe: ClassVar[bool] = True
    may_collapse = True  # its accuracy rises from nothing, by jumps
    declared: ClassVar[Declared] = {"retain_fraction": Range("(0, 1]")}

    def __init__(
        self,
        source: Source,
        *,
        fresh: Callable[[], nn.Module] | None = None,
        retain_fraction: float = 1.0,
        **method: Any,
    ) -> None:
        self._fresh = fresh
        self.retain_fraction = retain_fraction
        super().__init__(source, **method)
        self._watched: set[str] = set()
        recipe = self._recipe
        if recipe is not None and not recipe.automatic_optimization and self._optimizer is None:
            raise ValueError(
                f"Retrain: {type(recipe).__name__} steps its optimizers itself (manual optimization), which cannot "
                "be followed; use step='loss' and give optimizer=..."
            )

    @property
    def _recipe(self) -> L.LightningModule | None:
        return self.model if isinstance(self.model, L.LightningModule) else None

    def initial_model(self, source: nn.Module) -> nn.Module:
        """Return a model that shares the source's architecture and what is frozen in it, and nothing else."""
        return fresh_copy(source, self._fresh)

    def on_fit_start(self) -> None:
        """Look whether the source's recipe can be followed, before hours are spent."""
        super().on_fit_start()
        configs = self.trainer.lr_scheduler_configs
        watched = {config.monitor for config in configs if config.reduce_on_plateau and config.monitor}
        self._watched = watched - _OWN_METRICS
        if self._watched:
            self._own_validation_loader()

    def on_train_start(self) -> None:
        """Count the classes of what is trained on, where the recipe balances their weights."""
        super().on_train_start()
        if self.step == "source" and isinstance(self.model, Classifier):
            chosen = self.stream_positions(self.epoch_stream, self.data.split)
            self.model.balance(self.data.loader(self.epoch_stream, positions=chosen))

    def on_train_epoch_end(self) -> None:
        """Measure what the schedule watches, as the source does."""
        if not self._watched:
            return
        assert self._recipe is not None
        runtime = Runtime(self.trainer)
        measured = own_validation(self._recipe, self._own_validation_loader(), runtime, self.adapter)
        if missing := self._watched - measured.keys():
            raise ValueError(
                f"Retrain: the schedule watches {', '.join(sorted(missing))}, which the validation_step of "
                f"{type(self._recipe).__name__} does not log; it logs {sorted(measured)}"
            )
        for name in self._watched:
            self.log(name, measured[name])

    def _own_validation_loader(self) -> Iterable[Any]:
        """Return the owner's validation batches, or say why what the schedule watches cannot be measured."""
        inner = self.data.inner
        loader = inner.val_dataloader() if isinstance(inner, L.LightningDataModule) else None
        if isinstance(loader, list | tuple) and len(loader) == 1:
            loader = loader[0]
        if self._recipe is None or not is_overridden("validation_step", self._recipe):
            why = f"{type(self.model).__name__} has no validation_step that logs it"
        elif loader is None or isinstance(loader, list | tuple | dict):
            why = f"{self.data.data_name} has not the one validation loader to measure it on"
        else:
            return loader  # type: ignore[no-any-return]
        raise ValueError(
            f"Retrain: the schedule watches {', '.join(sorted(self._watched))}, and {why}; give optimizer=... and "
            f"lr_scheduler=..., with a monitor among {sorted(_OWN_METRICS)}"
        )
