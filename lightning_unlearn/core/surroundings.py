"""Set seeds, threads, signals and Lightning's messages for a while, and put them back."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import lightning as L
import torch

from lightning_unlearn.core.seeds import isolated_rng

_GRACE = 10.0  # seconds to end in an orderly way after a signal; a container has ten, as a rule
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_listening = False


class Stopped(BaseException):
    """This process was asked to end.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable(how_far: Callable[[], str]) -> Iterator[None]:
    """End at SIGTERM and Ctrl-C, whatever is running, and say how far it came.

    What is not over after ten seconds, such as an exchange with a process that does not answer, is broken off.

    Args:
        how_far: Says it, in a line for stderr, or in none.

    Raises:
        SystemExit: With status 143, at SIGTERM.
        KeyboardInterrupt: At Ctrl-C.
    """
    global _listening
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, before = _listening, {number: signal.getsignal(number) for number in _SIGNALS}
    children = set(multiprocessing.active_children())

    def tell() -> None:
        if line := how_far():
            print(line, file=sys.stderr, flush=True)

    _listening = True
    try:
        with _broken_off_late(tell):
            listen_again()
            yield
    except (Stopped, SystemError) as error:
        # a compiled function that the signal met, such as Ray's wait, raises the other from it
        stop = error if isinstance(error, Stopped) else error.__cause__
        if not isinstance(stop, Stopped):
            raise
        tell()
        for child in set(multiprocessing.active_children()) - children:
            child.kill()
        if stop.number == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + stop.number) from None
    finally:
        _listening = outer
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _broken_off_late(tell: Callable[[], None]) -> Iterator[None]:
    """End the process when the block is not over in time after a signal.

    A thread sees to it, which the signal itself wakes, since the main thread may be in an exchange that hangs.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    over = threading.Event()

    def watch() -> None:
        while received := os.read(reading, 1):
            if received[0] in _SIGNALS and not over.wait(_GRACE):
                tell()
                os._exit(128 + received[0])

    watcher = threading.Thread(target=watch, daemon=True)
    woken_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(woken_before)
        os.close(writing)
        watcher.join()
        os.close(reading)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def listen_again() -> None:
    """Put the handlers of :func:`stoppable` first again, where others were put before them."""
    if _listening and threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, _stop)


def _deaf_in_a_fork() -> None:
    """Let signals end a fork of a listening process at once; the pipe that they wake is the parent's."""
    global _listening
    if _listening:
        _listening = False
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_deaf_in_a_fork)


@contextmanager
def own_environment(*names: str) -> Iterator[None]:
    """Put environment variables back as they were."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed everything for one part, and put all of it back, the environment included."""
    with own_environment("PL_GLOBAL_SEED", "PL_SEED_WORKERS"), isolated_rng():
        L.seed_everything(seed, verbose=False)
        yield


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
    with own_environment(switch):
        if torch.cuda.device_count() == 0:
            os.environ[switch] = "0"
        yield


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
