"""What methods and evaluators tell the loggers of a run; trackers register how their kind of logger shows it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger
from torch import nn

from lightning_unlearn.core.versions import installed_versions
from lightning_unlearn.data.datamodule import UnlearningDataModule

SOFTWARE = ("torch", "lightning", "torchvision", "wandb")
"""What a run's versions name beside this package and Python; GPUs would initialise CUDA before a fork."""


@dataclass(frozen=True)
class Results:
    """What one evaluator found out about one model.

    Attributes:
        name: The evaluator's name.
        metrics: Metric name to number; those of the controls under ``source/...`` and ``retrain/...``.
        details: What it noted beside them, as in its results' file.
        model: Name of the model.
        seed: Seed of what was drawn.
        step: Steps of training, for the loggers' axis.
        pictures: Image files that it wrote.
        folder: Where its files are.
    """

    name: str
    metrics: Mapping[str, float]
    details: Mapping[str, Any]
    model: str
    seed: int
    step: int = 0
    pictures: Sequence[Path] = ()
    folder: Path | None = None


@singledispatch
def send_facts(logger: Logger, facts: Mapping[str, Any]) -> None:
    """Put facts of a fit where a logger keeps a run's configuration; one without such a place gets nothing.

    ``send_facts.register`` adds a kind of logger. For every process to call.
    """
    if (show := _shown_by_tracker(send_facts, type(logger))) is not None:
        show(logger, facts)


@singledispatch
def send_results(logger: Logger, results: Results) -> None:
    """Show a logger an evaluator's results: any logger the scores, W&B and TensorBoard also tables and figures.

    ``send_results.register`` adds a kind of logger. For every process to call.
    """
    if (show := _shown_by_tracker(send_results, type(logger))) is not None:
        show(logger, results)
    else:
        logger.log_metrics(dict(results.metrics), step=results.step)


def _shown_by_tracker(send: Any, kind: type[Logger]) -> Callable[..., None] | None:
    """Return what the trackers register for a kind of logger; nobody else may have imported them."""
    if kind is CSVLogger:  # they register nothing for it, and take half a second to import
        return None
    import_module("lightning_unlearn.trackers")
    found: Callable[..., None] = send.dispatch(kind)
    return None if found is send.dispatch(object) else found


def facts_of_fit(model: nn.Module, source: nn.Module | None, data: UnlearningDataModule) -> dict[str, Any]:
    """Return what there is to know of a fit before it starts, for the configuration of its run.

    Args:
        model: What is fitted.
        source: The source model of a method, or ``None``.
        data: The split data, set up.
    """
    return {
        "versions": installed_versions(*SOFTWARE),
        "model": _class_path(model),
        "source": None if source is None else _class_path(source),
        "data": data.data_name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **{f"n_{name}": data.stream_size(name) for name in ("forget", "retain", "test", "nonmember")},
    }


def _class_path(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
