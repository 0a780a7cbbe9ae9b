"""Refuse a Trainer that asks for what a method cannot do, before anything runs."""

import math
from collections.abc import Iterator

import lightning as L
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_unlearn.methods.base.curves import GAP


def refuse_impossible(method: L.LightningModule, trainer: L.Trainer) -> None:
    """Refuse a Trainer whose options the method cannot follow.

    Args:
        method: The unlearning method.
        trainer: The Trainer that is about to fit it.

    Raises:
        ValueError: Naming the method, the option and what to write instead.
    """
    if (reason := next(_impossible(method, trainer), None)) is not None:
        raise ValueError(f"{type(method).__name__}: {reason}")


def _impossible(method: L.LightningModule, trainer: L.Trainer) -> Iterator[str]:
    strategy, spread = type(trainer.strategy).__name__, isinstance(trainer.strategy, ModelParallelStrategy)
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    averages = [c for c in callbacks if isinstance(c, StochasticWeightAveraging | WeightAveraging)]
    average = type(averages[0]).__name__ if averages else ""
    if getattr(method, "one_shot", False) and trainer.max_epochs != 0:
        yield (
            f"it edits the weights once, before any step, and trains nothing, so max_epochs={trainer.max_epochs} would "
            "be steps without a purpose; write Trainer(max_epochs=0), in a comparison trainer={'max_epochs': 0} beside "
            "the method"
        )
    if overfit := trainer.overfit_batches:  # type: ignore[attr-defined]
        yield (
            f"overfit_batches={overfit} puts another order in place of the streams'; use limit_train_batches for a "
            "short run, or give UnlearningDataModule fewer samples"
        )
    if any(isinstance(callback, BatchSizeFinder) for callback in callbacks):
        yield (
            "BatchSizeFinder trains before the method is prepared; remove it and set "
            "UnlearningDataModule(batch_size=...)"
        )
    if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy):
        yield (
            f"strategy {strategy} hides the model's parameters from the method; use "
            "ModelParallelStrategy(data_parallel_size=..., tensor_parallel_size=1), or 'ddp'"
        )
    if averages and spread:
        yield (
            f"{average} cannot average a model that {strategy} spreads over processes; remove the callback, or use "
            "strategy='ddp'"
        )
    if method.automatic_optimization:
        return
    if spread and trainer.checkpoint_callbacks:
        yield (
            f"{strategy} cannot put the second optimizer into a checkpoint (its parameters are not the model's); set "
            "enable_checkpointing=False, or use strategy='ddp'"
        )
    why = (
        f"a Trainer's own step, and {type(method).__name__} steps two optimizers itself (manual optimization)"
    )
    if trainer.gradient_clip_val:
        yield f"gradient_clip_val clips the gradients of {why}; remove it from the Trainer"
    if trainer.accumulate_grad_batches != 1:
        yield f"accumulate_grad_batches delays {why}; set it to 1 and raise the datamodule's batch_size"
    if averages:
        yield f"{average} follows the one optimizer of {why}; remove the callback"


def refuse_idle_averaging(trainer: L.Trainer, *, planned: bool) -> None:
    """Refuse an average of weights that is never updated: training would end in the weights of before, the source's.

    Args:
        trainer: The Trainer.
        planned: Whether to ask about the steps that are planned, not those that were taken.

    Raises:
        ValueError: Naming the callback and what to write instead.
    """
    averages = [c for c in trainer.callbacks if isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
    if not averages:
        return
    steps = trainer.estimated_stepping_batches if planned else trainer.global_step
    epochs = (trainer.max_epochs or 0) if planned else trainer.current_epoch
    if math.isinf(steps):  # stopped by time or a callback
        return
    for average in averages:
        by_step = any(average.should_update(step_idx=step) for step in range(int(steps)))
        if not by_step and not any(average.should_update(epoch_idx=epoch) for epoch in range(epochs)):
            raise ValueError(
                f"{type(average).__name__} updates its average in none of {int(steps)} steps and {epochs} epochs, so "
                "the model would end as it was before the first step; let the average start earlier, or remove it"
            )


def accumulated_in(trainer: L.Trainer, epoch: int) -> int:
    """Return how many batches make a step of an epoch, which a callback may say for each."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler):
            return int(callback.get_accumulate_grad_batches(epoch))
    return trainer.accumulate_grad_batches


def refuse_no_gap(trainer: L.Trainer, reason: str) -> None:
    """Refuse a callback that watches the gap between forget set and non-members, where these are not comparable.

    Args:
        trainer: The Trainer.
        reason: Why they are not; empty where they are.

    Raises:
        ValueError: Naming the callback, the reason and what to watch instead.
    """
    watching = [c for c in trainer.callbacks if getattr(c, "monitor", None) == GAP]  # type: ignore[attr-defined]
    if watching and reason:
        raise ValueError(
            f"{type(watching[0]).__name__}(monitor={GAP!r}): {reason}, so what a model that never saw the forget set "
            "answers on it is not what it answers on non-members; watch accuracy/forget, against a bound of your own"
        )


def warn_without_a_class(
    method: L.LightningModule,
    *,
    forgets_a_class: bool,
    does: str = "makes the model wrong about all of the forget set, while a retrained model is right about much of it",
) -> None:
    """Warn of a method that is right for a class, where none is forgotten.

    Args:
        method: The unlearning method.
        forgets_a_class: Whether that is what is asked for.
        does: What it does to other samples.
    """
    if not forgets_a_class:
        rank_zero_warn(
            f"{type(method).__name__} is made for whole classes, and none is forgotten: it {does}; NegGradPlus, Rewind "
            "or ReferenceKL is the better choice, unless the labels are wrong or poisoned"
        )


def refuse_without_a_class(method: L.LightningModule, *, forgets_a_class: bool) -> None:
    """Refuse a request that is no class.

    Args:
        method: An unlearning method that edits what belongs to a class.
        forgets_a_class: Whether that is what is asked for.

    Raises:
        ValueError: Naming the method and what to take instead.
    """
    if not forgets_a_class:
        raise ValueError(
            f"{type(method).__name__} edits what belongs to a class, and the request forgets none whole; give "
            "UnlearningDataModule(forget=Classes(...)), or take NegGradPlus or Rewind"
        )


OF_ITS_OWN = "edits the weights that the forget set has for itself, and random samples have none"


def require_data_parallel(method: L.LightningModule, processes: int, data_parallel: int) -> None:
    """Refuse tensor parallelism: every process must hold other samples and the same computation.

    Args:
        method: The unlearning method.
        processes: Number of processes.
        data_parallel: Number of them over which the data is spread.

    Raises:
        ValueError: If they differ.
    """
    if data_parallel != processes:
        raise ValueError(
            f"{type(method).__name__}: ModelParallelStrategy spreads the data over {data_parallel} of {processes} "
            "processes, and tensor parallelism is not supported; write "
            f"ModelParallelStrategy(data_parallel_size={processes}, tensor_parallel_size=1)"
        )
