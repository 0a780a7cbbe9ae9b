"""Identify the parts of a comparison, so that none is done twice and none is taken for another."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Dataset

from lightning_unlearn.data import TensorData, UnlearningDataModule
from lightning_unlearn.data.fingerprint import training_fingerprint
from lightning_unlearn.ensembles.fingerprint import fingerprint

# what a comparison itself sets on an evaluator, and so no setting of it
_ASSIGNED = {"dirpath", "error", "kinds", "retrained", "shared", "source", "results", "details"}


def data_identity(data: UnlearningDataModule) -> str:
    """Return a hash of the data that decide a model and its scores, of their content at a bounded cost.

    Args:
        data: The split data, set up.

    Returns:
        64 hexadecimal digits; see :func:`~lightning_unlearn.data.fingerprint.training_fingerprint`.

    Raises:
        TypeError: If something in their settings cannot be hashed.
    """
    # evaluators of earlier releases saw clean non-members beside a marked forget set
    backdoor = None if data.backdoor is None else [data.backdoor, "non-members too"]
    split = asdict(data.split)
    if not len(split["undrawn"]):
        del split["undrawn"]  # of which earlier releases knew nothing
    parts: list[Any] = [split, data.adapter, backdoor, data.batch_size]
    for part in data.given:
        dataset = part if part is None or isinstance(part, Dataset) else part.owner
        labels = data.known_targets() if part is data.given[0] else None
        drawn = getattr(part, "drawn", None)
        parts.append(None if dataset is None else training_fingerprint(dataset, labels, drawn=drawn))
        if isinstance(dataset, TensorData):
            parts.append([dataset.transform, dataset.augment])
        if part is not dataset and part is not None:
            parts.append([getattr(part, name) for name in ("batch_size", "collate_fn", "weights")])
    if isinstance(data.inner, L.LightningDataModule):
        parts += [type(data.inner), dict(data.inner.hparams), _settings(data.inner)]
    return fingerprint(parts)


def canonical(content: Any) -> Any:
    """Return plain values; of an object its class, since its address would change from run to run."""
    return json.loads(json.dumps(content, sort_keys=True, default=lambda value: type(value).__qualname__))


def evaluator_settings(evaluator: Any) -> list[Any]:
    """Return an evaluator's class, arguments and metrics: an audit that lacks one of these is no longer finished."""
    assigned = _ASSIGNED if evaluator.keeps is None else {*_ASSIGNED, "cache"}
    return [
        type(evaluator),
        sorted(evaluator.declared()),
        {key: value for key, value in _settings(evaluator).items() if key not in assigned},
    ]


def _settings(thing: object) -> Mapping[str, Any]:
    """Return an object's public attributes, without data, which are looked at elsewhere, and the Trainer."""
    return {
        key: value
        for key, value in vars(thing).items()
        if not key.startswith("_") and not isinstance(value, Dataset | DataLoader | L.Trainer)
    }
