"""Derive seeds for every purpose from one, and keep or put back the random state."""

import os
import random
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["default_seed", "derive_seed", "isolated_rng", "restore_rng_state", "rng_state"]


def derive_seed(seed: int, *purpose: int | str) -> int:
    """Derive an independent seed for a purpose, so that varying one source of randomness leaves the others alone.

    Args:
        seed: The run's seed, >= 0.
        *purpose: What the seed is for, as words and counters; the same words always give the same seed.

    Returns:
        An integer in [0, 2**63), which :class:`torch.Generator` and NumPy both accept.

    Example:
        >>> derive_seed(0, "order", 3) == derive_seed(0, "order", 3)
        True
        >>> derive_seed(0, "order", 3) == derive_seed(0, "order", 4)
        False
    """
    words = [zlib.crc32(word.encode()) if isinstance(word, str) else word for word in purpose]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def default_seed() -> int:
    """Return the seed given to :func:`lightning.seed_everything`, or 0 when it was not called.

    Lightning hands that seed to the processes it starts through the environment, so every rank reads the same.
    """
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def rng_state() -> dict[str, Any]:
    """Return the state of Python, NumPy, PyTorch and every accelerator as tensors and plain values.

    So a checkpoint that holds it loads with ``weights_only=True``.
    """
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  the legacy state is what users draw from
    return {
        "python": random.getstate(),
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if _cuda_is_used() else [],
    }


def restore_rng_state(state: Mapping[str, Any]) -> None:
    """Put back what :func:`rng_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == (torch.cuda.device_count() if _cuda_is_used() else 0):
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """Keep the random state as it was, also after an exception.

    Lightning's own ``isolate_rng`` restores nothing when the block raises.

    Args:
        seed: If given, PyTorch draws from this seed inside.
    """
    state = rng_state()
    try:
        if seed is not None:
            torch.manual_seed(seed)
        yield
    finally:
        restore_rng_state(state)


def _cuda_is_used() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
