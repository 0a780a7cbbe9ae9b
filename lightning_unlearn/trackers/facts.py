"""What a dashboard's reader asks about a run before its scores: classes and versions; looks at no results."""

from typing import Any

from torch import nn

from lightning_unlearn.core.versions import installed_versions
from lightning_unlearn.data.datamodule import UnlearningDataModule

__all__ = ["SOFTWARE", "class_path", "facts_of_fit"]

# The names of GPUs are left out: to ask for them would initialise CUDA in a process that may still fork.
SOFTWARE = ("torch", "lightning", "torchvision", "wandb")
"""What decides a run beside this package; versions of these may be asked for between two runs."""


def class_path(thing: object) -> str:
    """Return the path under which the class of an object is named in a configuration.

    Example:
        >>> import platform
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
        "versions": installed_versions(*SOFTWARE),
        "model": class_path(model),
        "source": None if source is None else class_path(source),
        "data": data.data_name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **{f"n_{name}": data.stream_size(name) for name in ("forget", "retain", "test", "nonmember")},
    }
