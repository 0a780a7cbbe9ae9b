"""What a Trainer can be asked for that a method cannot do, said before anything runs; does nothing else."""

import math

import lightning as L
from lightning.pytorch.callbacks import BatchSizeFinder, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

__all__ = ["refuse_idle_averaging", "refuse_impossible", "require_data_parallel"]


def refuse_impossible(method: L.LightningModule, trainer: L.Trainer) -> None:
    """Refuse a Trainer whose options the method cannot follow.

    Args:
        method: The unlearning method.
        trainer: The Trainer that is about to fit it.

    Raises:
        ValueError: Naming the method, the option and what to write instead.
    """
    name = type(method).__name__
    strategy = type(trainer.strategy).__name__
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    averages = [
        type(c).__name__ for c in callbacks if isinstance(c, StochasticWeightAveraging | WeightAveraging)
    ]
    if trainer.overfit_batches:  # type: ignore[attr-defined]
        raise ValueError(
            f"{name}: overfit_batches={trainer.overfit_batches} puts another order in place of the streams'; use "  # type: ignore[attr-defined]
            "limit_train_batches for a short run, or give UnlearningDataModule fewer samples"
        )
    if any(isinstance(callback, BatchSizeFinder) for callback in callbacks):
        raise ValueError(
            f"{name}: BatchSizeFinder trains before the method is prepared; remove it and set "
            "UnlearningDataModule(batch_size=...)"
        )
    if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy):
        raise ValueError(
            f"{name}: strategy {strategy} hides the model's parameters from the method; use "
            "ModelParallelStrategy(data_parallel_size=..., tensor_parallel_size=1), or 'ddp'"
        )
    if averages and isinstance(trainer.strategy, ModelParallelStrategy):
        raise ValueError(
            f"{name}: {averages[0]} cannot average a model that {strategy} spreads over processes; "
            "remove the callback, or use strategy='ddp'"
        )
    if method.automatic_optimization:
        return
    if isinstance(trainer.strategy, ModelParallelStrategy) and trainer.checkpoint_callbacks:
        raise ValueError(
            f"{name}: {strategy} cannot put the second optimizer into a checkpoint (its parameters are not the "
            "model's); set enable_checkpointing=False, or use strategy='ddp'"
        )
    why = f"with {name} there is none: it steps two optimizers itself (manual optimization)"
    if trainer.gradient_clip_val:
        raise ValueError(
            f"gradient_clip_val clips the gradients of a Trainer's own step, and {why}; remove it from the Trainer"
        )
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"accumulate_grad_batches={trainer.accumulate_grad_batches} delays a Trainer's own step, and {why}; "
            "set it to 1 and raise the datamodule's batch_size"
        )
    if averages:
        raise ValueError(
            f"{averages[0]} follows the one optimizer of a Trainer's own step, and {why}; remove the callback"
        )


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
        if not any(average.should_update(step_idx=step) for step in range(int(steps))) and not any(
            average.should_update(epoch_idx=epoch) for epoch in range(epochs)
        ):
            raise ValueError(
                f"{type(average).__name__} updates its average in none of {int(steps)} steps and {epochs} epochs, so "
                "the model would end as it was before the first step; let the average start earlier, or remove it"
            )


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
