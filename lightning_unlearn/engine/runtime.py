"""Compute where a Trainer does (device, precision, ranks), outside its loops."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import lightning as L
import torch
import torch.distributed
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_unlearn.models.surgery import evaluating

T = TypeVar("T")


class Runtime:
    """Device, precision and ranks to compute with.

    Args:
        trainer: The Trainer whose strategy and precision are used; ``None`` computes on the CPU in float32, in
            this process alone.
    """

    def __init__(self, trainer: L.Trainer | None = None) -> None:
        self.trainer = trainer
        self.device = torch.device("cpu") if trainer is None else trainer.strategy.root_device
        self.precision: Precision = Precision() if trainer is None else trainer.precision_plugin
        self.rank = 0 if trainer is None else trainer.global_rank
        self.world_size = 1 if trainer is None else trainer.world_size

    def alone(self) -> "Runtime":
        """Return the same without its other ranks, for work that each rank does by itself."""
        single = copy.copy(self)
        single.rank, single.world_size = 0, 1
        return single

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device and, where the precision asks for it, to its parameter type."""
        return self.precision.convert_module(module).to(self.device)

    def to_device(self, batch: T) -> T:
        """Move a batch to the device, through the transfer hooks of the project's datamodule or module."""
        if self.trainer is None:
            return self.precision.convert_input(batch)  # type: ignore[no-any-return]
        moved: T = self.trainer.strategy.batch_to_device(batch, self.device)
        return self.precision.convert_input(moved)  # type: ignore[no-any-return]

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Run forward passes in the trainer's precision."""
        with self.precision.forward_context():
            yield

    @contextmanager
    def not_training(self) -> Iterator[None]:
        """Have ``trainer.training`` say no, which a project's transfer hooks ask before they augment."""
        if self.trainer is None:
            yield
            return
        stage = self.trainer.state.stage
        self.trainer.validating = True
        try:
            yield
        finally:
            self.trainer.state.stage = stage

    @contextmanager
    def asking(self, model: nn.Module) -> Iterator[None]:
        """Have a model answer in evaluation mode and without gradients, whatever the trainer is at."""
        with evaluating(model), self.not_training(), torch.inference_mode(False), torch.no_grad():
            yield

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Return a gradient scaler that scales exactly when the trainer's precision does."""
        scaling = getattr(self.precision, "scaler", None) is not None
        return torch.amp.GradScaler(self.device.type, enabled=scaling)

    def average_gradients(self, module: nn.Module) -> None:
        """Average the gradients of all ranks, in one message."""
        if self.world_size == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self.add_up(flat)
        flat /= self.world_size
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def add_up(self, *tensors: Tensor) -> None:
        """Give every rank the sums over all ranks, in place."""
        if self.world_size > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def share_buffers(self, module: nn.Module) -> None:
        """Give every rank the buffers of rank 0, as DDP does, so that running statistics agree."""
        if self.world_size > 1:
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, 0)

    def gather(self, rows: Tensor) -> Tensor:
        """Join the rows of all ranks, whose numbers may differ, in rank order; every rank gets all of them."""
        return rows if self.world_size == 1 else torch.cat(gather_all_tensors(rows.contiguous()))

    def gather_objects(self, value: T) -> list[T]:
        """Return every rank's value, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def synchronize(self) -> None:
        """Wait until the device has finished, so that a clock read now is right."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def all_or_none(self, what: str) -> Iterator[None]:
        """Do this rank's own share of some work, and fail on every rank if it fails on one.

        Args:
            what: What is done, for the other ranks' message.

        Raises:
            RuntimeError: If another rank failed.
        """
        failure = None
        try:
            yield
        except Exception as error:  # of any kind: raised below, as soon as the other ranks know
            failure = error
        told = self.gather_objects(None if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        if any(told):
            raise RuntimeError(f"another rank failed to {what}: {next(filter(None, told))}")

    def require_finite(self, value: Tensor | float, message: str) -> None:
        """Stop every rank if a number of any of them is NaN or infinite.

        Args:
            value: This rank's number.
            message: What to say, with ``{}`` in the place of the number.

        Raises:
            FloatingPointError: If it is not finite on every rank.
        """
        if not self.all_agree(math.isfinite(value)):
            raise FloatingPointError(message.format(float(value)))

    def all_agree(self, fine: bool) -> bool:
        """Return whether it is fine on every rank, so that all go on or all stop."""
        if self.world_size == 1:
            return fine
        flag = torch.tensor([int(fine)], device=self.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MIN)
        return bool(flag.item())
