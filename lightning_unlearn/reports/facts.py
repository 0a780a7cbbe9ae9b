"""What a dashboard's reader asks about a run before its scores: classes and versions; looks at no results."""

import platform
from importlib import metadata

from lightning_unlearn.__about__ import __version__

__all__ = ["class_path", "software"]


def class_path(thing: object) -> str:
    """Return the path under which the class of an object is named in a configuration.

    Example:
        >>> class_path(platform.uname())
        'platform.uname_result'
    """
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def software() -> dict[str, str]:
    """Return the versions of the software alone; unlike the report's, it may be asked for between two runs.

    The names of GPUs are left out: to ask for them would initialise CUDA in a process that may still fork.
    """
    installed = {name: metadata.version(name) for name in ("torch", "lightning", "torchvision", "wandb")}
    return {"lightning_unlearn": __version__, "python": platform.python_version(), **installed}
