"""Tell a source that is trained by another loss than a method's, where both are about 0 once it is trained."""

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.data.streaming import Stream
from lightning_unlearn.engine.own_steps import own_loss
from lightning_unlearn.ensembles import Runtime, isolated_rng
from lightning_unlearn.models.freezing import trainable

_SAME = 1e-2  # share of a loss by which it may differ, computed in another order or precision
_SAMPLES, _FEWEST, _MOST = 256, 4, 16  # how many are looked at, and in how many batches
_NOISE = 0.5  # of a weight, in root mean squares of its tensor, each time
# Answers so large that a loss written by hand, with log(p + 1e-8), is another than ours only by its rounding.
_LARGE = 10.0
_SMALLER, _TIMES = 0.8, 30  # by which weights shrink until answers are no longer large, and how often at most


def losses_apart(
    copied: nn.Module, data: UnlearningDataModule, runtime: Runtime, adapter: Adapter
) -> tuple[float, float] | None:
    """Return a method's loss and that of a model's own step on a batch where they differ; ``None`` where none is found.

    Batches are drawn from all over the retain set, and before each the weights are disturbed further, so that answers
    are wrong as often as those of an untrained model: sample and class weights, and whatever else a step makes of its
    answers, then show. Where the step answers other inputs than the batch's (augmented ones), its loss is compared with
    ours of the answers that it got. Nothing is changed by it but the copy.

    Args:
        copied: A copy of the model on the runtime's device, which is spoiled.
        data: The split data.
        runtime: Device, precision and ranks.
        adapter: How batches and outputs are taken apart, with the task.
    """
    with isolated_rng(0), runtime.asking(copied), runtime.forward_context():
        seen = 0
        for number, batch in enumerate(islice(_spread(data), _MOST)):
            if seen >= _SAMPLES and number >= _FEWEST:
                break
            try:
                inputs, targets = adapter.split(moved := runtime.to_device(batch))
                found = _apart(copied, moved, inputs, targets, adapter)
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except Exception:  # a disturbed model may raise anything, and nothing is known of its loss then
                return None
            if found is not None:
                return found
            seen += len(targets)
    return None


def _spread(data: UnlearningDataModule) -> Iterable[Any]:
    """Return batches of samples drawn from the retain set; of a stream, which has no positions, the first ones."""
    train = data.given[0]
    positions = None
    if train is not None and not isinstance(train.dataset, Stream):
        positions = np.random.default_rng(0).permutation(data.looked_at("retain"))
    return data.loader("retain", train=data.mixes, positions=positions, rank=0, world_size=1)


def _apart(
    copied: nn.Module, batch: Any, inputs: Any, targets: Tensor, adapter: Adapter
) -> tuple[float, float] | None:
    """Disturb a model further, and return both losses on a batch if they differ for sure."""
    _disturb(copied)
    logits = adapter.call(copied, inputs)
    for _ in range(_TIMES):
        if float(logits.abs().max()) <= _LARGE:
            break
        for parameter in trainable(copied).values():
            parameter.mul_(_SMALLER)
        logits = adapter.call(copied, inputs)
    with _answers(copied, adapter, logits) as (whole, parts):
        own = _own(copied, batch)
    ours = [float(adapter.kind.batch_loss(each, targets)) for each in (*whole, *parts, logits)]
    if any(_alike(own, loss) for loss in ours):
        return None
    # of a step that draws at random, only the answers that it got tell what its loss is of
    if not whole and not math.isclose(own, _own(copied, batch), rel_tol=1e-5):
        return None
    return ours[0], own


def _own(copied: nn.Module, batch: Any) -> float:
    assert isinstance(copied, L.LightningModule)
    return float(own_loss(copied, batch, 0))


def _alike(a: float, b: float) -> bool:
    return not abs(a - b) > _SAME * max(abs(a), abs(b))  # nothing is known where one is NaN


def _disturb(model: nn.Module) -> None:
    for parameter in trainable(model).values():
        spread = parameter.abs().square().mean().sqrt()
        parameter.add_(torch.randn_like(parameter) * (_NOISE * spread))


@contextmanager
def _answers(model: nn.Module, adapter: Adapter, like: Tensor) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Note what a model answers meanwhile, and what parts of it answer that may be logits too."""
    whole: list[Tensor] = []
    parts: list[Tensor] = []
    plain = type(adapter).call is Adapter.call  # or what it makes of an output is not known

    def note(part: nn.Module, _: Any, output: Any) -> None:
        found = adapter.logits_of(output) if part is model and plain else output
        if isinstance(found, Tensor) and found.shape == like.shape and found.is_floating_point():
            (whole if part is model and plain else parts).append(found)

    with ExitStack() as hooks:
        for part in model.modules():
            hooks.enter_context(part.register_forward_hook(note))
        yield whole, parts
