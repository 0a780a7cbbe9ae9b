"""Take what makes a method of the source: a class, a function, or the name of one of ours."""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import nn

from lightning_unlearn.core.checks import nearest
from lightning_unlearn.methods.base.module import UnlearningModule
from lightning_unlearn.methods.base.perturbation import Perturbation

Method: TypeAlias = Callable[[nn.Module], UnlearningModule]


def maker_of(given: Any) -> Method:
    """Return what makes a method, by its name where one of ours is named.

    Args:
        given: A method's class, a function of the source that makes one, or a name such as ``ReferenceKL``.

    Raises:
        TypeError: If it is none of these, such as a method that is made already.
        ValueError: If no method has this name.
    """
    if isinstance(given, str):
        known = _ours()
        if given not in known:
            hint = nearest(given, known) or f"; there are {', '.join(known)}"
            raise ValueError(f"method: there is none called {given!r}{hint}")
        return known[given]
    kind = given if isinstance(given, type) else type(given)
    ours = issubclass(kind, UnlearningModule)
    if not callable(given) or isinstance(given, nn.Module) or (kind is given and not ours):
        name = kind.__name__ if ours else "ReferenceKL"
        got = f"{kind.__name__}{'' if kind is given else ' object'}"
        raise TypeError(
            f"method must make an unlearning method of the source, got {got}; give the class {name}, its name, or "
            f"with arguments partial({name}, ...)"
        )
    return given  # type: ignore[no-any-return]  # whatever it makes, its caller sees


def _ours() -> dict[str, type[UnlearningModule]]:
    import lightning_unlearn.methods as room  # which imports all of them, and is imported by now

    bases = (UnlearningModule, Perturbation)
    found = {name: getattr(room, name) for name in room.__all__}
    return {
        name: kind for name, kind in found.items() if issubclass(kind, UnlearningModule) and kind not in bases
    }
