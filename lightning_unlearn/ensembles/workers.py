"""Do tasks in single-threaded processes side by side: forked from this one, or a cluster's where it belongs to one."""

import io
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from lightning_unlearn.core.cluster import hands_on, in_parts

T = TypeVar("T")


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def why_no_workers() -> str:
    """Say why this process cannot have workers; an empty string if it can.

    Workers are forked: started afresh, each would first spend seconds on importing PyTorch, and everything that
    determines a model would have to be picklable, lambdas included. A fork is safe for computing on one thread,
    as PyTorch's own loader processes do, but not on macOS and not once CUDA has been used.
    """
    if sys.platform != "linux":
        return f"processes cannot be forked safely on {sys.platform}"
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return "CUDA is in use in this process, which forbids computing in a fork of it"
    if multiprocessing.current_process().daemon:
        return "this is a daemonic process, which may have no children"
    return ""


def in_workers(work: Callable[[T], Any], tasks: Sequence[T], workers: int) -> Iterator[tuple[T, Any]]:
    """Do each task in a process of one thread, and yield its result as soon as it is there.

    When the caller stops, by an error, an interrupt or because it has enough, the workers are killed.

    Args:
        work: Does a task and returns tensors and plain values, in lists, tuples and dicts. It is pickled for a
            cluster alone.
        tasks: The tasks.
        workers: Largest number of processes at a time; 0 does the tasks in this process.

    Yields:
        The task and its result, in the order of their ends.

    Raises:
        Exception: What ``work`` raises, with the worker's traceback as its cause.
        RuntimeError: If a worker dies without a word.
    """
    if not workers:
        for task in tasks:
            yield task, work(task)
        return
    if hands_on():
        yield from in_parts(work, tasks, 1)
        return
    context = multiprocessing.get_context("fork")
    waiting = list(tasks)[::-1]
    busy: dict[Connection, tuple[Any, T]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                task = waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_serve, args=(work, task, theirs, ours), daemon=True)
                process.start()
                theirs.close()  # only the worker holds its end now, so that its death is seen as the end
                busy[ours] = process, task
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                process, task = busy[connection]
                result = _received(connection, process)
                del busy[connection]
                yield task, result
    finally:
        for process, _ in busy.values():
            process.kill()  # not terminate(): a fork has inherited this process's handlers of that signal
            process.join()


def _received(connection: Connection, process: Any) -> Any:
    """Return what a worker made, or raise what went wrong in it."""
    try:
        error, content = pickle.loads(connection.recv_bytes())
    except (EOFError, ConnectionResetError):
        process.join()
        raise RuntimeError(
            f"a worker process ended with exit code {process.exitcode} before its models were trained; -9 means "
            "that it was killed, most often for want of memory: take a smaller chunk, or way='sequential'"
        ) from None
    process.join()
    if error is not None:
        raise error from RuntimeError(f"in a worker process:\n{content}")
    return torch.load(io.BytesIO(content), weights_only=True)


def _serve(work: Callable[[T], Any], task: T, connection: Connection, parents_end: Connection) -> None:
    parents_end.close()  # held here, it would keep this process writing to a parent that has died
    # An interrupt goes to the whole group; the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        # Tensors as bytes: sent as such they would lie in shared memory, which containers keep small.
        torch.save(work(task), result := io.BytesIO())
        message = pickle.dumps((None, result.getvalue()))
    except Exception as error:  # whatever it is, the parent raises it
        message = pickle.dumps((_portable(error), traceback.format_exc()))
    with suppress(BrokenPipeError):  # the parent has died or has enough
        connection.send_bytes(message)


def _portable(error: Exception) -> Exception:
    """Return the error itself if it survives a journey, else one that says the same."""
    try:
        return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]
    except Exception:  # pickling and the error's own constructor may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
