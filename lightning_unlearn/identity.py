"""What tells one part of a comparison from another, so that none is done twice; keeps no record of them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import lightning as L

from lightning_unlearn.callbacks import Evaluator

__all__ = ["canonical", "evaluator_settings", "file_hash", "hyper_parameters", "part_hash"]

# what a comparison itself sets on an evaluator, and so no setting of it
_ASSIGNED = {"dirpath", "error", "kinds", "retrained", "shared", "source"}


def part_hash(parts: list[Any]) -> str:
    """Return the SHA-256 of all that is known to decide a part's result.

    Args:
        parts: Settings of any kind; see :func:`canonical`.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> part_hash([{"a": 1, "b": None}]) == part_hash([{"b": None, "a": 1}])
        True
    """
    return hashlib.sha256(json.dumps(canonical(parts), sort_keys=True).encode()).hexdigest()


def canonical(content: Any) -> Any:
    """Return plain values; an object stands for its class, since its address would change from run to run."""
    return json.loads(json.dumps(content, sort_keys=True, default=lambda value: type(value).__qualname__))


def file_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file's bytes, or None where there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def hyper_parameters(module: object) -> Any:
    """Return what a module saved as its hyper-parameters, or None where it is no LightningModule."""
    return dict(module.hparams) if isinstance(module, L.LightningModule) else None


def evaluator_settings(evaluator: Evaluator) -> tuple[str, dict[str, Any]]:
    """Return an evaluator's class and arguments, as far as they are plain values."""
    assigned = _ASSIGNED if evaluator.keeps is None else {*_ASSIGNED, "cache"}
    arguments = {
        key: value
        for key, value in vars(evaluator).items()
        if not (key in assigned or key.startswith("_")) and _is_plain(value)
    }
    return type(evaluator).__name__, arguments


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
