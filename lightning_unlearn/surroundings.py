"""Seeds, threads and Lightning's messages, set for a while and put back."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch

from lightning_unlearn.rng import isolated_rng

__all__ = ["no_search_for_gpus", "quiet_lightning", "seeded", "threads"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed everything for one part, and put all of it back, the environment included."""
    before = {key: os.environ.get(key) for key in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    with isolated_rng():
        L.seed_everything(seed, verbose=False)
        try:
            yield
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Compute with this many CPU threads; None leaves them as they are."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_search_for_gpus() -> Iterator[None]:
    """Keep Adam from searching the system for NVIDIA's library at every step, where there is no GPU.

    Lightning has PyTorch ask that library whether there is a GPU, since asking CUDA itself would forbid forking
    afterwards. Adam asks at each of its steps, and where the library is not installed it is looked for each time:
    30 to 200 µs, about a twentieth of a LeNet's step with a batch of 32. Without a GPU there is nothing in CUDA that
    forking could break.
    """
    switch = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.get(switch)
    if torch.cuda.device_count() == 0:
        os.environ[switch] = "0"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(switch, None)
        else:
            os.environ[switch] = before


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning from announcing the same facts for every one of many short runs."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.(pytorch|fabric)\.")
            # https://github.com/pytorch/pytorch/pull/160843: Lightning still asks in the old way
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        logger.setLevel(level)
