"""The random state of a process: kept, put back, or written down as plain values; draws nothing."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["isolated_rng", "restore_rng_state", "rng_state"]


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
