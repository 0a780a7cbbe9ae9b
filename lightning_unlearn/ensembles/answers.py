"""Logits of many models of one architecture on the same inputs; trains nothing."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from lightning_unlearn.core.seeds import isolated_rng
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.ensembles.chunk import alone
from lightning_unlearn.ensembles.grouped import grouped_forward
from lightning_unlearn.ensembles.memory import activation_bytes, models_that_fit
from lightning_unlearn.ensembles.stacked import Forward, vmap_forward
from lightning_unlearn.models.surgery import call_with

__all__ = ["AskWay", "predict_ensemble"]

AskWay = Literal["auto", "stacked", "grouped", "sequential"]

_FORWARDS: dict[str, Forward] = {"stacked": vmap_forward, "grouped": grouped_forward}
_WORTH_CHOOSING = 8  # blocks of work; trying three ways twice costs about six


def predict_ensemble(
    build: Callable[[], nn.Module],
    states: Mapping[str, Tensor],
    inputs: Tensor,
    *,
    batch_size: int = 1024,
    adapter: Adapter | None = None,
    runtime: Runtime | None = None,
    way: AskWay = "auto",
) -> Tensor:
    """Compute the logits of every model of an ensemble on the same inputs, in evaluation mode.

    Args:
        build: Makes a network of the architecture; its weights do not matter.
        states: Stacked state dicts, ``(K, ...)`` each.
        inputs: What the networks are called with, ``(N, ...)``: augmented and transformed already.
        batch_size: Inputs a model is asked at once, >= 1.
        adapter: How outputs are taken apart.
        runtime: Device and precision; ``None`` for the CPU in float32. Every rank computes all.
        way: ``"sequential"`` asks one model after another, ``"stacked"`` and ``"grouped"`` several at once;
            ``"auto"`` takes the fastest on the first batch. One that the architecture does not allow
            falls back to one after another.

    Returns:
        Logits ``(K, N, C)`` on the CPU, float32, or float64 where the networks compute in it.

    Raises:
        ValueError: If ``batch_size`` < 1, or if there are no models or no inputs.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    sizes = {len(value) for value in states.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"states must hold the same number of models, at least 1, in every entry, got {sizes}"
        )
    if not len(inputs):
        raise ValueError("inputs is empty; give at least one input")
    adapter, runtime = adapter or Adapter(), alone(runtime or Runtime())
    with isolated_rng(0), torch.inference_mode(False), torch.no_grad():
        network = runtime.place(build()).eval()
        asker = _Asker(network, states, inputs, batch_size, adapter, runtime)
        return asker.ask(asker.choose() if way == "auto" else asker.possible(way))


class _Asker:
    """Models, inputs and the ways in which the one can be asked about the other."""

    def __init__(
        self,
        network: nn.Module,
        states: Mapping[str, Tensor],
        inputs: Tensor,
        batch_size: int,
        adapter: Adapter,
        runtime: Runtime,
    ) -> None:
        self.network, self.adapter, self.runtime = network, adapter, runtime
        self.batches = torch.split(inputs, batch_size)
        self.models = len(next(iter(states.values())))
        own = network.state_dict()
        if own.keys() != states.keys():
            differ = sorted(own.keys() ^ states.keys())
            raise ValueError(
                f"build() makes another architecture than states hold; they differ in {differ[:5]}"
            )
        self.states = states
        _, largest = activation_bytes(network, self._moved(inputs[:2]))
        # A layer's input, its output and a copy of either are alive at a time.
        self.block = min(self.models, models_that_fit(3 * largest * batch_size, runtime.device))

    def ask(self, forward: Forward | None) -> Tensor:
        """Ask all models, in blocks, or one by one without a ``forward``."""
        logits: list[Tensor] = []
        for start in range(0, self.models, self.block):
            tensors = self._tensors(start, start + self.block)
            rows = [self._logits(forward, tensors, self._moved(batch)).cpu() for batch in self.batches]
            logits.append(torch.cat(rows, dim=1))
        return torch.cat(logits)

    def choose(self) -> Forward | None:
        """Return the fastest way on the first batch; too little work is not worth the asking."""
        if self.models * len(self.batches) < _WORTH_CHOOSING * self.block:
            return None
        tensors, batch = self._tensors(0, self.block), self._moved(self.batches[0])
        ways: list[Forward | None] = [None, self.possible("grouped"), self.possible("stacked")]
        return min(dict.fromkeys(ways), key=lambda way: self._seconds(way, tensors, batch))

    def possible(self, way: AskWay) -> Forward | None:
        """Return the forward function of a way if the architecture allows it."""
        forward = _FORWARDS.get(way)
        if forward is not None:
            try:
                self._logits(forward, self._tensors(0, 1), self._moved(self.batches[0][:2]))
            except Exception:  # whatever the user's code raises when it meets a stack
                return None
        return forward

    def _logits(self, forward: Forward | None, tensors: dict[str, Tensor], batch: Tensor) -> Tensor:
        with self.runtime.forward_context():
            if forward is not None:
                logits = forward(self.network, self.adapter, tensors, batch, True)
            else:
                models = (
                    dict(zip(tensors, each, strict=True)) for each in zip(*tensors.values(), strict=True)
                )
                called = (cast(nn.Module, partial(call_with, self.network, model)) for model in models)
                logits = torch.stack([self.adapter.call(one, batch) for one in called])
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _seconds(self, forward: Forward | None, tensors: dict[str, Tensor], batch: Tensor) -> float:
        seconds = []
        for _ in range(2):  # the first call sets up kernels
            self.runtime.synchronize()
            start = time.perf_counter()
            self._logits(forward, tensors, batch)
            self.runtime.synchronize()
            seconds.append(time.perf_counter() - start)
        return seconds[-1]

    def _tensors(self, start: int, stop: int) -> dict[str, Tensor]:
        own = self.network.state_dict()
        return {
            name: value[start:stop].to(own[name].device, own[name].dtype)
            for name, value in self.states.items()
        }

    def _moved(self, batch: Tensor) -> Tensor:
        moved: Tensor = self.runtime.precision.convert_input(batch.to(self.runtime.device))
        return moved
