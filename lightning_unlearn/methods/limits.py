"""What a Trainer can be asked for that a method cannot do, said before anything runs; does nothing else."""

import lightning as L
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

__all__ = ["refuse_impossible", "require_data_parallel"]


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
    averaging = any(
        isinstance(callback, StochasticWeightAveraging)
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    )
    if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy):
        raise ValueError(
            f"{name}: strategy {strategy} hides the model's parameters from the method; use "
            "ModelParallelStrategy(data_parallel_size=..., tensor_parallel_size=1), or 'ddp'"
        )
    if averaging and isinstance(trainer.strategy, ModelParallelStrategy):
        raise ValueError(
            f"{name}: StochasticWeightAveraging cannot average a model that {strategy} spreads over processes; "
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
    if averaging:
        raise ValueError(
            f"StochasticWeightAveraging follows the one optimizer of a Trainer's own step, and {why}; remove the "
            "callback"
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
