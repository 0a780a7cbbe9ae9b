"""The configurations that come with the package, by their names."""

from collections.abc import Sequence
from pathlib import Path

from lightning_unlearn.core.checks import nearest

_PACKAGE = Path(__file__).resolve().parent.parent
_OPTION = "--recipe"


def recipes() -> dict[str, Path]:
    """Return the files by name, such as ``mnist/compare``; those of sweeps are W&B's to read and left out.

    A wheel has them in the package, a clone beside it.
    """
    folders = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
    folder = next((each for each in folders if each.is_dir()), folders[0])
    files = sorted(folder.rglob("*.yaml"))
    names = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    return {name: file for name, file in names.items() if not name.startswith("sweeps/")}


def recipe_file(name: str) -> Path:
    """Return the file of a recipe.

    Raises:
        ValueError: If there is none of this name.
    """
    known = recipes()
    if name not in known:
        raise ValueError(
            f"{_OPTION}: there is no {name!r}{nearest(name, known)}; there are {', '.join(known)}"
        )
    return known[name]


def with_recipes(arguments: Sequence[str]) -> list[str]:
    """Put ``--config FILE`` in place of ``--recipe NAME``, so that files and overrides may follow.

    Raises:
        ValueError: If a name is missing, or none of ours.
    """
    given, left = [], list(arguments)
    while left:
        option, equals, name = left.pop(0).partition("=")
        if option != _OPTION:
            given.append(f"{option}{equals}{name}")
            continue
        if not equals:
            name = left.pop(0) if left else ""
        given.append(f"--config={recipe_file(name)}")
    return given
