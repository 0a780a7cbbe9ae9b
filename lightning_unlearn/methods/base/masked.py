"""Hold chosen weights bit-identical while the others are trained, or have them move by a share of each step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.methods.base.module import UnlearningModule
from lightning_unlearn.methods.base.source import Source
from lightning_unlearn.models.sharding import local_part, local_part_of


class MaskedModule(UnlearningModule):
    """Base of methods in which not every weight moves by the whole of an optimizer's step.

    A subclass says in :meth:`step_scales` which share of the step each weight takes. Where it is 0 the weight stays
    bit-identical: to mask its gradient alone would not do, since weight decay and momentum move it without one. And a
    share is one of the step, not of the gradient, which Adam divides by its own size.

    Args:
        source: The source model.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.
    """

    def __init__(self, source: Source, **method: Any) -> None:
        super().__init__(source, **method)
        self._scales: dict[str, Tensor] = {}

    def step_scales(self) -> Mapping[str, Tensor]:
        """Return which share of a step each weight takes, asked once before the first step.

        Returns:
            Tensors of the parameters' shapes by their names, bool or in [0, 1], alike on every rank; a parameter that
            is not named takes the whole step.
        """
        raise NotImplementedError(f"{type(self).__name__} must define step_scales()")

    def on_train_start(self) -> None:
        """Note this process's part of the shares."""
        super().on_train_start()
        for name, scale in self.step_scales().items():
            parameter = self.model.get_parameter(name)
            self._scales[name] = local_part_of(scale.to(parameter.device), parameter)

    def on_train_end(self) -> None:
        """Stop the clock, and let go of the shares."""
        super().on_train_end()
        self._scales = {}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Hide the gradients of what stays from clipping, momentum and norms of whole tensors."""
        for name, scale in self._scales.items():
            gradient = self.model.get_parameter(name).grad
            if gradient is not None:
                local_part(gradient).masked_fill_(scale.logical_not(), 0)
        super().on_before_optimizer_step(optimizer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then take back what is beyond each weight's share, weight decay included."""
        moving = {name: local_part(self.model.get_parameter(name).detach()) for name in self._scales}
        before = {name: value.clone() for name, value in moving.items()}
        super().optimizer_step(*args, **kwargs)
        for name, scale in self._scales.items():
            old, new = before.pop(name), moving[name]
            if scale.dtype != torch.bool:
                torch.lerp(old, new, scale.to(new.dtype), out=new)
            torch.where(scale.bool(), new, old, out=new)
