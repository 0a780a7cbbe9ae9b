"""What a deletion ledger is told of a fit; when it is told, the base class decides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from torch import nn

from lightning_unlearn.core.files import model_hash
from lightning_unlearn.core.ledger import Ledger, append, entry
from lightning_unlearn.data.splits import Split
from lightning_unlearn.methods.base.export import require_finite
from lightning_unlearn.models.hparams import plain_values
from lightning_unlearn.models.surgery import class_state

__all__ = ["describe", "record_fit"]

_CONTROLS = ("source", "retrain")


def record_fit(
    ledger: Ledger,
    trainer: L.Trainer,
    method: L.LightningModule,
    *,
    split: Split,
    seed: int,
    source: nn.Module,
    model: nn.Module,
    exported: Path | None,
) -> None:
    """Append a line about a fit that has ended, with what the evaluators measured; on the first process alone.

    Args:
        ledger: The ledger.
        trainer: The Trainer of the fit; its ``callback_metrics`` hold the scores.
        method: The unlearning method, for its class and arguments.
        split: Who was forgotten.
        seed: Seed of order, augmentation and whatever was drawn.
        source: The model before.
        model: The model after, whole.
        exported: Where it was exported to, if it was.
    """
    if not trainer.is_global_zero:
        return
    require_finite(model, "the model that was to be put on record")
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    controls = {
        control: {
            name.removeprefix(f"{control}/"): value
            for name, value in scores.items()
            if name.startswith(f"{control}/")
        }
        for control in _CONTROLS
    }
    facts = entry(
        ledger,
        forget=split.forget,
        earlier=split.previous,
        before=model_hash(class_state(source)),
        after=model_hash(class_state(model)),
        file=exported,
        method=describe(method),
        config={
            "seed": seed,
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "precision": str(trainer.precision),
            "strategy": type(trainer.strategy).__name__,
            "processes": trainer.world_size,
        },
        metrics={name: value for name, value in scores.items() if name.partition("/")[0] not in _CONTROLS},
        controls=controls,
    )
    append(ledger, facts)


def describe(module: nn.Module) -> dict[str, Any]:
    """Return the class of a module and those of its saved arguments that are plain values."""
    arguments: Mapping[str, Any] = module.hparams if isinstance(module, L.LightningModule) else {}
    return {
        "class": f"{type(module).__module__}.{type(module).__qualname__}",
        "arguments": plain_values(arguments),
    }
