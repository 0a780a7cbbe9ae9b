"""Keep the forget set out of a model's running statistics."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lightning_unlearn.core.compat import AnyRunningNorm
from lightning_unlearn.core.seeds import isolated_rng
from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.engine.statistics import estimate_statistics
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.models.statistics import (
    OtherOrderError,
    are_plain,
    by_last_statistics,
    by_noted_statistics,
    by_running_statistics,
    noted_statistics,
    other_buffers,
    running_layers,
)
from lightning_unlearn.models.surgery import listed


class MovingStatistics:
    """Which running statistics follow the training batches, and whether they hold nothing of the forget set.

    Attributes:
        moving: Names of the layers whose statistics follow the batches.
        settled: Whether these were estimated anew on the retain set since.
    """

    def __init__(self) -> None:
        self.moving: list[str] = []
        self.settled = True
        self._seen: list[tuple[Tensor, Tensor]] = []  # of a fit that is being looked at
        self._buffers: dict[str, Tensor] = {}  # others, as they were before the first step
        self._held: list[tuple[nn.Module, dict[str, Tensor]]] = []

    def begin(self, model: nn.Module, *, forget: bool) -> None:
        """Note what is to stay as it is: statistics of layers that are held, and other buffers if D_f goes through."""
        self._buffers = other_buffers(model) if forget else {}
        self._held = [
            (layer, {name: buffer.clone() for name, buffer in layer.named_buffers()})
            for layer in running_layers(model).values()
            if not layer.training
        ]

    def begin_epoch(self, model: nn.Module, *, fresh: bool) -> None:
        """Put back what is not to move (StochasticWeightAveraging resets all there are), and note what will.

        Args:
            model: The model.
            fresh: Whether it starts afresh, so that its statistics see nobody but whom they train on.
        """
        for layer, buffers in self._held:
            for name, value in buffers.items():
                layer.get_buffer(name).copy_(value)
        if not fresh:
            training = [name for name, layer in running_layers(model).items() if layer.training]
            self.moving = list(dict.fromkeys(self.moving + training))

    def settle(
        self, model: nn.Module, data: UnlearningDataModule, runtime: Runtime, adapter: Adapter
    ) -> None:
        """Estimate anew on the retain set what has moved since; a collective, like a forward pass."""
        if self.moving and not self.settled:
            estimate_statistics(model, self.moving, data, runtime, adapter)
            self.settled = True

    def end(self, model: nn.Module) -> None:
        """Warn of buffers that followed the batches and are no statistics that could be estimated anew."""
        after = other_buffers(model) if self._buffers else {}
        moved = [
            name
            for name, value in self._buffers.items()
            if name in after and not torch.equal(value, after[name])
        ]
        self._buffers = {}
        if moved:
            rank_zero_warn(
                f"the buffers {listed(moved)} changed while the forget set went through, and may hold something of "
                "it; only batch and instance normalisations can be estimated anew. Reset them, or compute them on "
                "retained samples, before you export"
            )

    def keep(self, model: nn.Module) -> None:
        """Keep the statistics of training, which go on once the model, settled in between, was looked at."""
        if not self.settled:
            layers = running_layers(model)
            buffers = [buffer for name in self.moving for buffer in layers[name].buffers(recurse=False)]
            self._seen = [(buffer, buffer.clone()) for buffer in buffers]

    def put_back(self) -> None:
        """Go on with the statistics of training that were kept."""
        if self._seen:
            for buffer, value in self._seen:
                buffer.copy_(value)
            self.settled, self._seen = False, []

    def require_settled(self) -> None:
        """Refuse to export statistics of training.

        Raises:
            ValueError: If they are that.
        """
        if not self.settled:
            raise ValueError(
                f"the running statistics of {listed(self.moving)} are those of training, which the forget set went "
                "through: a checkpoint from the middle of a fit has no others. Run trainer.validate(method, "
                "datamodule) first, which estimates them anew on the retain set"
            )


_WHOLE: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
"""Whether a model hands its layers a batch as it is: all of it in its order, and not single frames, or sorted."""


def alike(inputs: Sequence[Any]) -> bool:
    """Whether several batches are tensors that make one."""
    return all(isinstance(x, Tensor) and x.shape[1:] == inputs[0].shape[1:] for x in inputs)


def _hands_on_whole(
    model: nn.Module, adapter: Adapter, inputs: Sequence[Tensor], layers: list[AnyRunningNorm]
) -> bool:
    """Find out, once a model, whether the last batch's answers stay the same when all others are turned around."""
    if model in _WHOLE:
        return _WHOLE[model]
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    *others, last = inputs
    answers: list[Tensor] = []
    for sign in (1, -1) if last.is_floating_point() else ():
        batch = torch.cat([*(sign * x for x in others), last])
        try:
            with torch.no_grad(), isolated_rng(), by_last_statistics(layers, len(batch), len(last)):
                answers.append(adapter.call(model, batch)[-len(last) :])
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception:  # it may raise anything at such inputs, and two passes serve
            break
        finally:
            for buffer, value in kept:
                buffer.data.copy_(value)
    _WHOLE[model] = len(answers) == 2 and torch.equal(*answers)
    return _WHOLE[model]


def normalised_alike(
    model: nn.Module, adapter: Adapter, inputs: Sequence[Any], layers: list[AnyRunningNorm], *, single: bool
) -> list[Tensor]:
    """Return the logits of several batches, all normalised by the statistics of the last.

    Args:
        model: The model, in training mode.
        adapter: How it is called.
        inputs: The batches.
        layers: Its layers that keep running statistics and are in training mode.
        single: Whether the last batch is one sample, which has no statistics of its own: the running ones serve.
    """
    if single:
        with by_running_statistics(layers):
            return [adapter.call(model, x) for x in inputs]
    if are_plain(layers) and alike(inputs) and _hands_on_whole(model, adapter, inputs, layers):
        sizes = [len(x) for x in inputs]
        try:
            with by_last_statistics(layers, sum(sizes), sizes[-1]):
                return list(torch.split(adapter.call(model, torch.cat(list(inputs))), sizes))
        except OtherOrderError:
            _WHOLE[model] = False
    with noted_statistics(layers) as noted:
        last = adapter.call(model, inputs[-1])
    logits = []
    for x in inputs[:-1]:
        with by_noted_statistics(noted):
            logits.append(adapter.call(model, x))
    return [*logits, last]
