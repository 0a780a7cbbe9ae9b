"""What a dashboard's reader asks about a run before its scores: classes and versions; looks at no results."""

import platform
from importlib import metadata
from typing import Any

from torch import nn

from lightning_unlearn.__about__ import __version__
from lightning_unlearn.data.datamodule import UnlearningDataModule

__all__ = ["class_path", "facts_of_fit", "software"]


def class_path(thing: object) -> str:
    """Return the path under which the class of an object is named in a configuration.

    Example:
        >>> class_path(platform.uname())
        'platform.uname_result'
    """
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def facts_of_fit(model: nn.Module, source: nn.Module | None, data: UnlearningDataModule) -> dict[str, Any]:
    """Return what there is to know of a fit before it starts, for the configuration of its run.

    Args:
        model: What is fitted.
        source: The source model of a method, or ``None``.
        data: The split data, set up.
    """
    return {
        "versions": software(),
        "model": class_path(model),
        "source": None if source is None else class_path(source),
        "data": data.data_name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **{f"n_{name}": data.stream_size(name) for name in ("forget", "retain", "test", "nonmember")},
    }


def software() -> dict[str, str]:
    """Return the versions of the software alone; unlike the report's, it may be asked for between two runs.

    The names of GPUs are left out: to ask for them would initialise CUDA in a process that may still fork.
    """
    installed = {name: metadata.version(name) for name in ("torch", "lightning", "torchvision", "wandb")}
    return {"lightning_unlearn": __version__, "python": platform.python_version(), **installed}
