"""Whether a project deals its training set anew in every run: permutations drawn from the global random state."""

import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.data import ConcatDataset, Dataset, Subset

_ADVICE = (
    "each process and each run deals anew, so that positions mean other samples than those the source was trained on; "
    "give random_split a generator: random_split(..., generator=torch.Generator().manual_seed(0)), and train the "
    "source on that deal"
)
_SEEDERS = ((torch, "manual_seed"), (np.random, "seed"), (random, "seed"))


class Deals(TorchFunctionMode):
    """Notes, while a project sets up its data, whether it draws from a global random state that it has not seeded.

    It changes nothing of what is drawn.

    Attributes:
        permutations: What ``torch.randperm`` drew from the global generator, and so ``random_split`` without one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.permutations: list[Tensor] = []
        self._drawn: set[str] = set()
        self._seeded: set[str] = set()

    def __enter__(self) -> "Deals":
        self._before = _states()
        self._seeders = [(module, name, getattr(module, name)) for module, name in _SEEDERS]
        for module, name, seeder in self._seeders:
            setattr(module, name, self._noting(module.__name__, seeder))
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        # not kept, for it could not be pickled for spawned processes
        for module, name, seeder in self.__dict__.pop("_seeders"):
            setattr(module, name, seeder)
        after = _states()
        self._drawn |= {name for name in after if after[name] != self._before[name]} - self._seeded

    def _noting(self, module: str, seeder: Callable[..., Any]) -> Callable[..., Any]:
        def seed(*args: Any, **kwargs: Any) -> Any:
            self._seeded.add(module)
            return seeder(*args, **kwargs)

        return seed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch, and keep a permutation that it draws."""
        result = func(*args, **(kwargs or {}))
        generator = (kwargs or {}).get("generator")
        own = generator not in (None, torch.default_generator)
        if func is torch.randperm and not own and "torch" not in self._seeded:
            self.permutations.append(result)
        return result

    def check(self, train: Dataset[Any], name: str) -> None:
        """Refuse a training set that is known to be such a deal, and warn of one that may be.

        Args:
            train: The training set that was set up.
            name: The project's datamodule, for the message.

        Raises:
            ValueError: If a Subset in it holds the positions of a permutation that was drawn.
        """
        deals = [np.asarray(part.indices, dtype=np.int64) for part in _subsets(train)]
        drawn = [permutation.cpu().numpy() for permutation in self.permutations]
        if any(_dealt_from(chosen, permutation) for chosen in deals for permutation in drawn):
            how = "deals its training set by a permutation from PyTorch's global random state"
            raise ValueError(f"datamodule: {name} {how}: {_ADVICE}")
        shuffled = any((np.diff(chosen) < 0).any() for chosen in deals)
        # of PyTorch's state a DataLoader draws too; whoever draws of the others shuffles, a list of files for instance
        if (self._drawn and shuffled) or (not deals and self._drawn - {"torch"}):
            rank_zero_warn(
                f"{name} drew from a global random state while it was set up. If that decides who is in its training "
                f"set, or in which order, {_ADVICE}"
            )


def _subsets(dataset: Dataset[Any]) -> Iterator[Subset[Any]]:
    if isinstance(dataset, Subset):
        yield dataset
        yield from _subsets(dataset.dataset)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from _subsets(part)


def _states() -> dict[str, int]:
    """Return a checksum each of PyTorch's, NumPy's and Python's global random state, by the module's name."""
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002  the legacy state is what projects draw from
    states = (torch.get_rng_state().numpy().tobytes(), repr(numpy).encode(), repr(random.getstate()).encode())
    return {module.__name__: zlib.crc32(state) for (module, _), state in zip(_SEEDERS, states, strict=True)}


def _dealt_from(chosen: np.ndarray[Any, Any], drawn: np.ndarray[Any, Any]) -> bool:
    """Whether positions are a run of a permutation, as it was drawn or sorted."""
    if not len(chosen) or chosen.max() >= len(drawn) or len(chosen) > len(drawn):
        return False
    place = np.argsort(drawn)[chosen]
    start = int(place.min())
    run = drawn[start : start + len(chosen)]
    return np.array_equal(chosen, run) or (len(run) < len(drawn) and np.array_equal(chosen, np.sort(run)))
