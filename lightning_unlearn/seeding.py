"""Seeds for every purpose of a run, derived from one; draws no random numbers and keeps no state."""

import os
import zlib

import numpy as np

__all__ = ["default_seed", "derive_seed"]


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
