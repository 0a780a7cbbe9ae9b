"""Versions of the software that a result was made with."""

import platform
from contextlib import suppress
from importlib import metadata

from lightning_unlearn.__about__ import __version__


def installed_versions(*packages: str) -> dict[str, str]:
    """Return the versions of this package, of Python, and of those distributions that are installed.

    Args:
        *packages: Names of the distributions.

    Example:
        >>> list(installed_versions("numpy"))
        ['lightning_unlearn', 'python', 'numpy']
    """
    versions = {"lightning_unlearn": __version__, "python": platform.python_version()}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):  # it comes with us, and may be taken out
            versions[name] = metadata.version(name)
    return versions
