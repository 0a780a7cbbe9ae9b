"""A LightningModule around any network, for the ordinary training of a source model."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, cast

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_unlearn.core.seeds import isolated_rng
from lightning_unlearn.models.hparams import restore_hyperparameters, save_primitive_hyperparameters
from lightning_unlearn.models.schedules import scheduled
from lightning_unlearn.models.surgery import evaluating

_DEFAULT_LEARNING_RATE = 1e-3


class _Scores(nn.Module):
    """Loss and accuracy over one dataloader, summed up per sample and so exact for uneven batches and ranks.

    Logged as plain numbers they would not be: Lightning averages the batch sizes of the ranks as integers.
    """

    def __init__(self) -> None:
        super().__init__()
        # "disable" lets a NaN loss show as NaN, and saves the check's wait for the device in every batch.
        self.loss = MeanMetric(nan_strategy="disable")
        self.accuracy = MeanMetric(nan_strategy="disable")


class Classifier(L.LightningModule):
    """A classifier to be trained in the ordinary way, with cross-entropy.

    Batches are tuples ``(inputs, targets, ...)``, with targets as class numbers of dtype int64 and shape
    ``(B,)``. Logged are ``train/loss`` per step, and ``val/loss``, ``val/accuracy``, ``test/loss``,
    ``test/accuracy`` per epoch as means over samples (with ``/dataloader_idx_<i>`` behind the name if there
    are several dataloaders).

    Checkpoints hold plain values and tensors only and load with ``weights_only=True``: a checkpoint written
    under LightningCLI by ``Classifier.load_from_checkpoint(path)``, one written in plain Python by
    ``Classifier.load_from_checkpoint(path, net=...)``, to which a special optimizer must be given again as
    well.

    Args:
        net: The network; ``net(inputs)`` gives logits of shape ``(B, classes)``.
        optimizer: Builds the optimizer from the parameters. ``None``: Adam with learning rate 0.001.
        lr_scheduler: Builds a scheduler from the optimizer, stepped once an epoch. One that watches a metric
            must be :class:`lightning.pytorch.cli.ReduceLROnPlateau`, which names it as ``monitor``.
        label_smoothing: Share of the target spread evenly over all classes in training, in [0, 1].
        class_weight: Weight of each class in the training loss, above 0, one a class; or ``"balanced"``, which gives
            classes the same weight altogether: number of samples / (classes * samples of the class), counted in one
            pass over the training data before the first step. Checkpoints keep the numbers. Methods, retraining among
            them, weigh with ``step="source"``. ``None`` weighs none.

    Raises:
        ValueError: If ``label_smoothing`` or a weight is outside its range.

    Example:
        >>> classifier = Classifier(nn.Linear(4, 3))
        >>> classifier.predict_step((torch.zeros(2, 4), torch.tensor([0, 1])), 0).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        label_smoothing: float = 0.0,
        class_weight: list[float] | Literal["balanced"] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
        weights = class_weight if isinstance(class_weight, list) else []
        if not (weights or class_weight in (None, "balanced")) or not all(0 < w < math.inf for w in weights):
            raise ValueError(
                f"class_weight must hold one positive number a class, or be 'balanced', got {class_weight!r}"
            )
        save_primitive_hyperparameters(self)
        self.net = net
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        self.register_buffer("_weight", None, persistent=False)
        if weights:
            self._weigh(weights)
        self.scores = nn.ModuleList()

    def forward(self, x: Any) -> Tensor:
        """Return the network's logits."""
        logits: Tensor = self.net(x)
        return logits

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and the scheduler from their factories."""
        make = self.optimizer or partial(torch.optim.Adam, lr=_DEFAULT_LEARNING_RATE)
        return scheduled(make(self.parameters()), self.lr_scheduler, self._steps)

    def _steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError(
                "lr_scheduler: Annealed goes by the number of steps; give the Trainer max_epochs=... or max_steps=..."
            )
        return int(steps)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what makes the next checkpoint as complete as the one being loaded."""
        restore_hyperparameters(self, checkpoint)
        recorded = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {}).get("class_weight")
        if self.class_weight == "balanced" and isinstance(recorded, list):  # training that resumes
            self._weigh(recorded)

    def on_train_start(self) -> None:
        """Count the classes, where their weights are to be balanced and are not known yet."""
        self.balance(self.trainer.train_dataloader or ())

    def balance(self, batches: Iterable[Any]) -> None:
        """Count the classes in batches, where their weights are to be balanced and are not known yet.

        Args:
            batches: What is trained on; of several processes, each may give its own part or all.
        """
        if self.class_weight == "balanced":
            self._weigh(self._balanced(batches))

    def criterion(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss of logits and targets that is trained with.

        Raises:
            ValueError: If the classes are yet to be counted.
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is counted when training begins, and this Classifier was not trained; "
                "give the weights as a list"
            )
        return partial(F.cross_entropy, weight=self._weight, label_smoothing=self.label_smoothing)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the cross-entropy of a batch, weighted and smoothed as asked for."""
        inputs, targets = _split(batch)
        loss = self.criterion()(self._logits(inputs, targets), targets)
        self.log("train/loss", loss)
        return loss

    def on_validation_start(self) -> None:
        """Set up a score for each dataloader."""
        self._set_up_scores(len(self.trainer.num_val_batches))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the scores of its dataloader."""
        inputs, targets = _split(batch)
        logits = self._logits(inputs, targets)
        scores = cast(_Scores, self.scores[dataloader_idx])
        scores.loss.update(F.cross_entropy(logits, targets, reduction="none"))
        scores.accuracy.update((logits.argmax(-1) == targets).float())

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("val")

    def on_test_start(self) -> None:
        """Set up a score for each dataloader."""
        self._set_up_scores(len(self.trainer.num_test_batches))

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the posteriors, shape ``(B, classes)``, of a batch or of bare inputs; at least float32."""
        logits = self(_split(batch)[0] if isinstance(batch, tuple | list) else batch)
        posteriors: Tensor = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        return posteriors

    def _weigh(self, weights: list[float]) -> None:
        self.class_weight = weights
        if "class_weight" in self.hparams:
            self.hparams["class_weight"] = weights
        self._weight = torch.tensor(weights, dtype=torch.get_default_dtype(), device=self.device)

    def _balanced(self, batches: Iterable[Any]) -> list[float]:
        """Return number of samples / (classes * samples of the class), over all processes; 1 for a class without."""
        strategy = self.trainer.strategy
        counts: Tensor | None = None
        with isolated_rng(), evaluating(self), torch.no_grad():
            for batch in batches:
                targets = _split(batch)[1]
                if counts is None:
                    classes = self(_split(strategy.batch_to_device(batch))[0]).shape[-1]
                    counts = torch.zeros(classes, dtype=torch.int64)
                counts += torch.bincount(targets.cpu(), minlength=len(counts))
        assert counts is not None  # or training would not have started
        total = strategy.reduce(counts.to(self.device), reduce_op="sum").cpu().double()
        balanced = total.sum() / ((total > 0).sum() * total)
        return torch.where(total > 0, balanced, 1.0).tolist()

    def _logits(self, inputs: Any, targets: Tensor) -> Tensor:
        logits = self(inputs)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or targets.shape != logits.shape[:1]:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"net must give logits of shape (B, classes) for targets of shape (B,), got {shape} for "
                f"targets of shape {tuple(targets.shape)}"
            )
        return logits

    def _set_up_scores(self, dataloaders: int) -> None:
        self.scores = nn.ModuleList(_Scores() for _ in range(dataloaders)).to(self.device)

    def _log_scores(self, stage: str) -> None:
        for index, part in enumerate(cast(list[_Scores], list(self.scores))):
            # Lightning knows the dataloader only inside a step, where logging costs time for every batch.
            suffix = f"/dataloader_idx_{index}" if len(self.scores) > 1 else ""
            for name, metric in (("loss", part.loss), ("accuracy", part.accuracy)):
                place = f"scores.{index}.{name}"
                self.log(f"{stage}/{name}{suffix}", metric, metric_attribute=place, add_dataloader_idx=False)


def _split(batch: Any) -> tuple[Any, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) < 2 or not isinstance(batch[1], Tensor):
        raise TypeError(
            f"a batch must be a tuple (inputs, targets, ...) with the targets as a tensor, got "
            f"{type(batch).__name__}; for batches of another form, use a LightningModule of your own"
        )
    return batch[0], batch[1]
