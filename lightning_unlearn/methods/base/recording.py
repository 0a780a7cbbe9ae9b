"""Put a fit that has ended on record in a deletion ledger."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from torch import nn

from lightning_unlearn.core.files import model_hash
from lightning_unlearn.core.ledger import append, entry
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.methods.base.export import require_finite
from lightning_unlearn.models.hparams import plain_values
from lightning_unlearn.models.surgery import class_state

_CONTROLS = ("source", "retrain")


def record_fit(
    method: L.LightningModule,
    data: UnlearningDataModule,
    *,
    source: nn.Module,
    model: nn.Module,
    exported: Path | None,
    answer: Mapping[str, Any] | None = None,
    once: bool = False,
) -> dict[str, Any] | None:
    """Append a line to the data's ledger, with what the evaluators measured; on the first process alone.

    Args:
        method: The unlearning method, for its class, arguments and Trainer.
        data: Who was forgotten, and the ledger.
        source: The model before.
        model: The model after, whole.
        exported: Where it was exported to, if it was.
        answer: Whether it forgot, if that was measured.
        once: Whether to take a line that says the same, scores and times apart, for this one.

    Returns:
        The line; ``None`` where there is no ledger, and on other processes.
    """
    trainer = method.trainer
    if data.ledger is None or not trainer.is_global_zero:
        return None
    require_finite(model, "the model that was to be put on record")
    scores: dict[str, dict[str, float]] = {"": {}, **{control: {} for control in _CONTROLS}}
    for name, value in trainer.callback_metrics.items():
        control, _, rest = name.partition("/")
        of_control = control in _CONTROLS
        scores[control if of_control else ""][rest if of_control else name] = float(value)
    facts = entry(
        data.ledger,
        forget=data.split.forget,
        earlier=data.split.previous,
        before=model_hash(class_state(source)),
        after=model_hash(class_state(model)),
        file=exported,
        method=describe(method),
        config={
            "seed": data.order_seed,
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "precision": str(trainer.precision),
            "strategy": type(trainer.strategy).__name__,
            "processes": trainer.world_size,
        },
        metrics=scores.pop(""),
        controls=scores,
        answer=answer,
    )
    known = [line for line in data.ledger.prepare() if _timeless(line) == _timeless(facts)] if once else []
    return known[-1] if known else append(data.ledger, facts)


def _timeless(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stays of a line where the same is done again: no times, and no words that tell them."""
    kept = {key: value for key, value in line.items() if key not in ("metrics", "time", "previous", "hash")}
    return {**kept, "answer": {**(line.get("answer") or {}), "text": ""}}


def describe(module: nn.Module) -> dict[str, Any]:
    """Return the class of a module and those of its saved arguments that are plain values."""
    arguments: Mapping[str, Any] = module.hparams if isinstance(module, L.LightningModule) else {}
    return {
        "class": f"{type(module).__module__}.{type(module).__qualname__}",
        "arguments": plain_values(arguments),
    }
