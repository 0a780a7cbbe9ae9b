"""Call a source's own training and validation steps outside its Trainer's loop."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.engine.runtime import Runtime


def require_own_step(model: nn.Module) -> None:
    """Refuse a source whose own training step cannot be followed.

    Raises:
        ValueError: If there is none, or it steps optimizers itself.
    """
    name = type(model).__name__
    if not isinstance(model, L.LightningModule) or not is_overridden("training_step", model):
        raise ValueError(
            f"step='source' needs a source with a training_step, and {name} has none; use step='loss'"
        )
    if not model.automatic_optimization:
        raise ValueError(
            f"step='source': {name} steps its optimizers itself (manual optimization), which cannot be followed; use "
            "step='loss'"
        )


@contextmanager
def noted_logs(module: L.LightningModule) -> Iterator[list[tuple[str, Any]]]:
    """Have what a module logs noted, as names and values, and not sent to a Trainer."""
    noted: list[tuple[str, Any]] = []

    def log(name: str, value: Any, *_: Any, **__: Any) -> None:
        noted.append((name, value))

    def log_dict(values: Any, *_: Any, **__: Any) -> None:
        noted.extend(values.items())

    module.log = log  # type: ignore[method-assign]
    module.log_dict = log_dict  # type: ignore[method-assign, assignment]
    try:
        yield noted
    finally:
        del module.log, module.log_dict


@contextmanager
def _answered(module: nn.Module, known: tuple[Any, Tensor] | None) -> Iterator[None]:
    """Answer the first call of a module on these very inputs with the logits that are known; any other is made."""
    if known is None:
        yield
        return
    forward, left = module.forward, [known]

    def answer(*args: Any, **kwargs: Any) -> Any:
        if left and not kwargs and len(args) == 1 and args[0] is left[0][0]:
            return left.pop()[1]
        return forward(*args, **kwargs)

    module.forward = answer
    try:
        yield
    finally:
        del module.forward


def own_loss(
    module: L.LightningModule, batch: Any, batch_idx: int, known: tuple[Any, Tensor] | None = None
) -> Tensor:
    """Return the loss of a module's own training step.

    Args:
        module: The module.
        batch: The batch.
        batch_idx: Its number.
        known: The batch's inputs and what the model answers to them, where it need not be asked again.

    Raises:
        TypeError: If the step returns none.
    """
    with noted_logs(module), _answered(module, known):
        outputs = module.training_step(batch, batch_idx)
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"the training_step of {type(module).__name__} returned {type(loss).__name__} where a loss is "
            "needed; use step='loss'"
        )
    return loss


def own_validation(
    module: L.LightningModule, loader: Iterable[Any], runtime: Runtime, adapter: Adapter
) -> dict[str, float]:
    """Run a module's own validation over a loader and return what it logs.

    Numbers are averaged over samples, metrics are computed over all of them. Every process goes over all of the
    loader, so that all have the same numbers.

    Args:
        module: The module, on the runtime's device.
        loader: Its owner's validation batches.
        runtime: Device, precision and ranks.
        adapter: How batches are taken apart, to know their sizes.
    """
    totals: dict[str, float] = {}
    samples: dict[str, int] = {}
    metrics: dict[str, Metric] = {}
    with runtime.asking(module), noted_logs(module) as noted:
        module.on_validation_epoch_start()
        for number, batch in enumerate(loader):
            moved = runtime.to_device(batch)
            size = len(adapter.split(moved)[1])
            with runtime.forward_context():
                module.validation_step(moved, number)
            for name, value in noted:
                if isinstance(value, Metric):
                    metrics[name] = value
                else:
                    totals[name] = totals.get(name, 0.0) + float(value) * size
                    samples[name] = samples.get(name, 0) + size
            noted.clear()
        module.on_validation_epoch_end()
        last = {name: float(value) for name, value in noted if not isinstance(value, Metric)}
    found = {name: total / samples[name] for name, total in totals.items()} | last
    for name, metric in metrics.items():
        found[name] = float(metric.compute())
        metric.reset()
    return found
