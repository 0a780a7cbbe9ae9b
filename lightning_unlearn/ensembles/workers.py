"""Single-threaded processes side by side, forked from this one; knows nothing of models."""

import io
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

__all__ = ["available_cores", "in_workers", "why_no_workers"]

T = TypeVar("T")
Note = Callable[[Any], None]
Work = Callable[[T, Note], Any]


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


def in_workers(
    work: Work[T], tasks: Sequence[T], workers: int, on_note: Note | None = None
) -> Iterator[tuple[T, Any]]:
    """Do tasks in forked processes of one thread each, and yield each result as soon as it is there.

    An idle worker takes the next task. When the caller stops, by an error, an interrupt or because it has
    enough, the workers are killed.

    Args:
        work: ``work(task, note)`` does a task and returns tensors and plain values, in lists and dicts;
            ``note(value)`` tells the calling process something meanwhile. Nothing of it is pickled.
        tasks: The tasks.
        workers: Largest number of processes, >= 1.
        on_note: Called in this process with what is noted.

    Yields:
        The task and its result, in the order of their ends.

    Raises:
        Exception: What ``work`` raises, with the worker's traceback as its cause.
        RuntimeError: If a worker dies without a word.
    """
    context = multiprocessing.get_context("fork")
    waiting = list(range(len(tasks)))[::-1]
    busy: dict[Connection, Any] = {}
    processes = []
    try:
        for _ in range(min(workers, len(tasks))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(work, tasks, theirs, ours), daemon=True)
            process.start()
            # Only the worker holds its end now, so its death is seen as the end of the messages.
            theirs.close()
            processes.append(process)
            busy[ours] = process
            ours.send(waiting.pop())
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                kind, number, content = _receive(connection, busy[connection])
                if kind == "note":
                    if on_note is not None:
                        on_note(content)
                    continue
                if kind == "error":
                    error, trace = content
                    raise error from RuntimeError(f"in a worker process:\n{trace}")
                if waiting:
                    connection.send(waiting.pop())
                else:
                    connection.send(None)
                    del busy[connection]
                yield tasks[number], torch.load(io.BytesIO(content), weights_only=True)
    finally:
        for process in processes:
            # Not terminate(): a fork has inherited this process's handlers of that signal.
            process.kill()
            process.join()


def _receive(connection: Connection, process: Any) -> tuple[str, int, Any]:
    try:
        message: tuple[str, int, Any] = pickle.loads(connection.recv_bytes())
    except (EOFError, ConnectionResetError):
        process.join()
        raise RuntimeError(
            f"a worker process ended with exit code {process.exitcode} before its models were trained; -9 means "
            "that it was killed, most often for want of memory: take a smaller chunk, or way='sequential'"
        ) from None
    return message


def _serve(work: Work[T], tasks: Sequence[T], connection: Connection, parents_end: Connection) -> None:
    # Held here, the parent's end would keep this process waiting for a parent that has died.
    parents_end.close()
    # An interrupt goes to the whole group; the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        while (number := connection.recv()) is not None:
            result = io.BytesIO()

            def note(value: Any, number: int = number) -> None:
                connection.send_bytes(pickle.dumps(("note", number, value)))

            try:
                torch.save(work(tasks[number], note), result)
            except Exception as error:  # whatever it is, the parent raises it
                connection.send_bytes(
                    pickle.dumps(("error", number, (_portable(error), traceback.format_exc())))
                )
            else:
                # Tensors as bytes: sent as such they would lie in shared memory, which containers keep small.
                connection.send_bytes(pickle.dumps(("result", number, result.getvalue())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has died or has enough


def _portable(error: Exception) -> Exception:
    """Return the error itself if it survives a journey, else one that says the same."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # pickling and the error's own constructor may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return copy if isinstance(copy, Exception) else RuntimeError(str(error))
