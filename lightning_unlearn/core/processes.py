"""Agree with the processes that run along: who writes, what was found, and that a part failed."""

import json
import os
import socket
import stat
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import lightning as L
import torch.distributed
from lightning_utilities.core.rank_zero import rank_zero_only
from torch.multiprocessing.spawn import ProcessRaisedException

from lightning_unlearn.core.surroundings import Stopped, listen_again

T = TypeVar("T")
Ends = tuple[Any, Any]

_links: set[Ends] = set()  # connections to the other processes, as their two ends
_store: Any = None
_failures = 0


def decided(question: Callable[[], T]) -> T:
    """Answer a question about the folder alike on all processes that run along.

    Before they are connected each looks for itself: nothing is written as long as they are not.
    """
    return shared(question) if in_group() else question()


def shared(work: Callable[[], T]) -> T:
    """Do something on the first process alone, and give its result, or its error, to all that run along."""
    outcome: list[Any] = [None, None]
    if is_first():
        try:
            outcome[0] = work()
        except Exception as error:  # raised below, on every process
            outcome[1] = error
    if in_group():
        torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def is_first() -> bool:
    """Whether this process, of those that run the comparison, is the one that writes and prints."""
    return getattr(rank_zero_only, "rank", 0) == 0


def in_group() -> bool:
    """Whether this process is connected to others."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def together(part: str) -> Iterator[None]:
    """Do a part of the work on every process, or have it fail on every one.

    Where one raises, others may wait for it in the middle of an exchange, for half an hour. So it says at the
    rendezvous what went wrong and cuts its connections, which ends every exchange; then all connect anew.

    Args:
        part: Name of the part.

    Raises:
        Exception: What was raised first, in whichever process.
        SystemExit: If a process is gone.
    """
    try:
        yield
        if in_group():
            _gathered(part)  # none goes on before all are through
    except (Exception, Stopped) as error:
        if not in_group():
            raise
        try:
            first = _told(error)
            if not isinstance(error, Stopped) and not first["signal"]:
                _connect_anew()
        except torch.distributed.DistError as lost:
            raise SystemExit(
                f"error: another process has ended ({error}); the same command goes on"
            ) from lost
        if first["signal"]:
            raise Stopped(first["signal"]) from error
        if first["message"] == said(error):
            raise
        cause = RuntimeError(f"in process {first['process']}:\n{first['trace']}")
        raise ElsewhereError(f"process {first['process']}: {first['message']}") from cause


class ElsewhereError(RuntimeError):
    """Another process failed."""


def said(error: BaseException) -> str:
    """Return what went wrong in a line: the kind of error and its message."""
    if isinstance(error, ProcessRaisedException):
        # holds a whole traceback, of a process that a strategy started
        return f"process {error.error_index}: {str(error).strip().splitlines()[-1]}"
    return str(error) if isinstance(error, ElsewhereError) else f"{type(error).__name__}: {error}"


class InStep(L.Callback):
    """Makes sure, as soon as the processes are connected, that all are at the same part, and that they can part.

    Args:
        part: Name of the part.
    """

    def __init__(self, part: str) -> None:
        self.part = part

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compare the parts, and note the connections."""
        if in_group() and trainer.world_size > 1:
            _note_links(self.part)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hear signals before Lightning does: it would start an exchange while others may be in another."""
        listen_again()


def _note_links(part: str) -> None:
    """Find out which connections lead to other processes: both ends know them, and the rendezvous is none."""
    global _links
    own = {ends for ends, _ in _connections()}
    told = _gathered((part, own))
    if len(parts := {name for name, _ in told}) > 1:
        raise SystemExit(
            f"error: the processes are at different parts ({', '.join(sorted(parts))}): one failed alone before they "
            "were connected, and its own message says why"
        )
    known, rendezvous = {ends for _, found in told for ends in found}, int(os.environ.get("MASTER_PORT", 0))
    _links = {(a, b) for a, b in own if (b, a) in known and rendezvous not in (a[1], b[1])}


def _connections() -> Iterator[tuple[Ends, socket.socket]]:
    """Yield every connection of this process under both its ends; it is the caller's until the next one."""
    for name in os.listdir("/dev/fd") if os.path.isdir("/dev/fd") else []:
        with suppress(OSError):  # closed meanwhile, or not connected
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as link:
                    if link.family in (socket.AF_INET, socket.AF_INET6):
                        yield (link.getsockname()[:2], link.getpeername()[:2]), link


def _gathered(value: T) -> list[T]:
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _told(error: BaseException) -> dict[str, Any]:
    """Say what went wrong and end every exchange of this process; return what was said first, by any."""
    global _failures
    _failures += 1
    own = {
        "process": torch.distributed.get_rank(),
        "message": said(error),
        "signal": error.number if isinstance(error, Stopped) else None,
        "trace": "".join(traceback.format_exception(error)),
    }
    first: dict[str, Any] = json.loads(_rendezvous().compare_set(f"failure {_failures}", "", json.dumps(own)))
    for ends, link in _connections():
        if ends in _links:
            with suppress(OSError):  # cut from the other end already
                link.shutdown(socket.SHUT_RDWR)
    return first


def _rendezvous() -> Any:
    """Return the store that the processes met at, which outlives the groups that are made with it."""
    global _store
    _store = _store or torch.distributed.group.WORLD.get_group_store()  # type: ignore[union-attr]
    return _store


def _connect_anew() -> None:
    backend, rank = torch.distributed.get_backend(), torch.distributed.get_rank()
    size = torch.distributed.get_world_size()
    torch.distributed.destroy_process_group()
    # documented, though not exported
    store = torch.distributed.PrefixStore(f"after failure {_failures}", _rendezvous())  # type: ignore[attr-defined]
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    _note_links("after a failure")
