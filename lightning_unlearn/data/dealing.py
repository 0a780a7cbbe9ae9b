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
    "give random_split a generator: random_split(..., generator=torch.Generator().manual_seed(0)), or draw from "
    "np.random.default_rng(0), and train the source on that deal"
)
_SEEDERS = ((torch, "manual_seed"), (np.random, "seed"), (random, "seed"))


class Deals(TorchFunctionMode):
    """Notes, while a project sets up its data, whether it draws from a random state that it has not seeded.

    It changes nothing of what is drawn.

    Attributes:
        permutations: What ``torch.randperm`` drew from the global generator, and so ``random_split`` without one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.permutations: list[Tensor] = []
        self._seeded_permutations: list[Tensor] = []
        self._drawn: set[str] = set()
        self._seeded: set[str] = set()
        self._unseeded = False

    def __enter__(self) -> "Deals":
        self._before = _states()
        watched = (*_SEEDERS, (np.random, "default_rng"))
        self._watched = [(module, name, getattr(module, name)) for module, name in watched]
        for module, name, function in self._watched:
            noting = self._noting_unseeded if name == "default_rng" else self._noting
            setattr(module, name, noting(module.__name__, function))
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        # not kept, for it could not be pickled for spawned processes
        for module, name, function in self.__dict__.pop("_watched"):
            setattr(module, name, function)
        after = _states()
        self._drawn |= {name for name in after if after[name] != self._before[name]} - self._seeded

    def _noting(self, module: str, seeder: Callable[..., Any]) -> Callable[..., Any]:
        def seed(*args: Any, **kwargs: Any) -> Any:
            self._seeded.add(module)
            return seeder(*args, **kwargs)

        return seed

    def _noting_unseeded(self, module: str, maker: Callable[..., Any]) -> Callable[..., Any]:
        def make(seed: Any = None) -> Any:
            if seed is None:
                self._unseeded = True
            return maker(seed)

        return make

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch, and keep a permutation that it draws."""
        generator = (kwargs or {}).get("generator")
        own = generator not in (None, torch.default_generator)
        # a single number deals nothing: whoever iterates over a DataLoader draws one as its seed
        single = func is torch.Tensor.random_ and args[0].ndim == 0
        untouched = single and _torch_state() == self._before["torch"]
        result = func(*args, **(kwargs or {}))
        if untouched:
            self._before["torch"] = _torch_state()
        if func is torch.randperm and (own or "torch" in self._seeded):
            self._seeded_permutations.append(result)
        elif func is torch.randperm:
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
        # of PyTorch's state made-up data and weights are drawn too, which take nobody out of a plain run of positions;
        # whoever draws of the others deals, and be it a list of files beneath a Subset
        seeded = [permutation.cpu().numpy() for permutation in self._seeded_permutations]
        picked = any(
            _is_picked(chosen) and not any(_dealt_from(chosen, permutation) for permutation in seeded)
            for chosen in deals
        )
        if self._drawn - {"torch"} or (picked and (self._drawn or self._unseeded)):
            rank_zero_warn(
                f"{name} drew from a global random state, or made a generator without a seed, while it was set up. If "
                f"that decides who is in its training set, or in which order, {_ADVICE}"
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
    states = (_torch_state(), *(zlib.crc32(repr(state).encode()) for state in (numpy, random.getstate())))
    return {module.__name__: state for (module, _), state in zip(_SEEDERS, states, strict=True)}


def _torch_state() -> int:
    return zlib.crc32(torch.get_rng_state().numpy().tobytes())


def _is_picked(chosen: np.ndarray[Any, Any]) -> bool:
    """Whether positions are no rising run of equal steps, so that something decided each of them."""
    steps = np.unique(np.diff(chosen))
    return len(steps) > 1 or bool((steps < 0).any())


def _dealt_from(chosen: np.ndarray[Any, Any], drawn: np.ndarray[Any, Any]) -> bool:
    """Whether positions are a run of a permutation, as it was drawn or sorted."""
    if not len(chosen) or chosen.max() >= len(drawn) or len(chosen) > len(drawn):
        return False
    place = np.argsort(drawn)[chosen]
    start = int(place.min())
    run = drawn[start : start + len(chosen)]
    return np.array_equal(chosen, run) or (len(run) < len(drawn) and np.array_equal(chosen, np.sort(run)))
