"""Do tasks in the processes of a Ray cluster: each when those that it needs are over, again if its process dies."""

import io
import logging
import sys
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

import lightning as L

from lightning_unlearn.core.surroundings import (
    listen_again,
    no_search_for_gpus,
    own_environment,
    quiet_lightning,
    threads,
)

T = TypeVar("T")
_RAYS = ("PYTHONBREAKPOINT", "RAY_AUTH_MODE", "RAY_CLIENT_MODE", "RAY_USAGE_STATS_ENABLED")  # which it sets
_AMOUNTS = {"cpu": "num_cpus", "gpu": "num_gpus", "memory": "memory"}
_connected = False  # by this module, as the driver or in a task
# in a task's process: the work it had last, with all that it holds
_sent: dict[str, Callable[[Any], Any]] = {}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Join a Ray cluster, or start one on this machine; one that is joined already is used as it is.

    Args:
        address: Of the cluster: ``"auto"``, or as ``ray start`` prints it; ``None`` starts one for as long as needed.

    Raises:
        ValueError: If Ray is not installed, or there is no cluster at the address.
    """
    if find_spec("ray") is None:
        raise ValueError("launcher='ray' needs Ray: pip install 'lightning-unlearn[ray]', or take 'plain'")
    with own_environment(*_RAYS):
        import ray

        if ray.is_initialized():
            with _handing_on():
                yield
            return
        start: dict[str, Any] = {} if address else {"include_dashboard": False}
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **start)
        except ConnectionError as error:
            raise ValueError(f"ray_address: there is no cluster at {address!r}: {error}") from error
        listen_again()  # Ray has put its own handlers first
        try:
            with _handing_on():
                yield
        finally:
            ray.shutdown()


def on_cluster(
    work: Callable[[Any], Any],
    tasks: Sequence[T],
    resources: Mapping[str, float],
    *,
    needs: Callable[[T], Collection[T]] = lambda _: (),
    given: Callable[[T], Any] = lambda task: task,
    left: tuple[type, ...] = (),
) -> Generator[tuple[T, Any], None, None]:
    """Do tasks in other processes, and yield each as soon as it is over.

    A task whose process or machine dies is done again, once. When this is closed, what runs is ended.

    Args:
        work: Does a task; it and what it holds are sent to every process once, and kept there from task to task.
        tasks: The tasks, hashable.
        resources: What each asks of the cluster: ``cpu`` (1 if left out), ``gpu``, ``memory`` in bytes, and the
            cluster's own.
        needs: The tasks that must be over before one begins.
        given: What ``work`` is called with, asked when a task is sent.
        left: Kinds of objects that ``work`` holds but does not use: there they are ``None``.

    Yields:
        The task and its result, or the error of one that was lost twice.

    Raises:
        TypeError: If something cannot be sent to another process.
        ValueError: If no machine of the cluster has what a task asks for.
    """
    import ray

    own = {name: amount for name, amount in resources.items() if name not in _AMOUNTS}
    asked = {_AMOUNTS[name]: amount for name, amount in resources.items() if name in _AMOUNTS}
    _require({"CPU": resources.get("cpu", 1), "GPU": resources.get("gpu", 0), **own})
    try:
        shipped = ray.put(_pickled(work, left))
    except Exception as error:  # of whatever kind pickling raises
        raise TypeError(f"launcher='ray' sends everything to other processes: {error}") from error
    remote: Any = ray.remote(max_retries=1, resources=own, **asked)(_called)
    running: dict[Any, T] = {}
    waiting, over = list(tasks), set[T]()
    try:
        while waiting or running:
            ready = [task for task in waiting if over.issuperset(needs(task))]
            running |= {remote.remote(sys.path, [shipped], given(task)): task for task in ready}
            waiting = [task for task in waiting if task not in ready]
            (reference, *_), _ = ray.wait(list(running))
            task = running.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayError as error:
                result = error
            over.add(task)
            yield task, result
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


@contextmanager
def _handing_on() -> Iterator[None]:
    global _connected
    before, _connected = _connected, True
    try:
        yield
    finally:
        _connected = before


def hands_on() -> bool:
    """Whether what falls into parts here goes to a cluster: within :func:`connected`, and in its tasks."""
    return _connected


def in_parts(work: Callable[[T], Any], parts: Sequence[T], count: int) -> Iterator[tuple[T, Any]]:
    """Do the parts of something on the cluster, such as many models of a kind.

    A task that waits for them gives its CPUs back meanwhile.

    Args:
        work: Does a part, on the CPU; without the Trainers it holds, which are in the middle of something.
        parts: The parts.
        count: Threads of PyTorch, and CPUs, of each; fewer CPUs where no machine has as many.

    Yields:
        The part and its result, in the order of their ends.

    Raises:
        Exception: What ``work`` raises, or that a part's process ended twice.
    """
    import ray

    def alone(part: T) -> Any:
        with threads(count), no_search_for_gpus(), quiet_lightning():
            return work(part)

    largest = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    numbers = range(len(parts))
    asked = {"cpu": min(count, largest)}
    with closing(on_cluster(alone, numbers, asked, given=parts.__getitem__, left=(L.Trainer,))) as over:
        for number, result in over:
            if isinstance(result, Exception):
                raise result
            yield parts[number], result


def _pickled(work: Any, left: tuple[type, ...]) -> bytes:
    import ray

    class Pickler(ray.cloudpickle.CloudPickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            return (type(None), ()) if isinstance(obj, left) else super().reducer_override(obj)

    Pickler(content := io.BytesIO()).dump(work)
    return content.getvalue()


def _called(path: list[str], shipped: list[Any], given: Any) -> Any:
    """Call what was sent, once everything that this process could import is found in the other one as well."""
    import ray

    sys.path += [place for place in path if place not in sys.path]
    (reference,) = shipped  # in a list, or Ray would fetch the work for every task
    with _handing_on():
        if reference.hex() not in _sent:
            _sent.clear()
            _sent[reference.hex()] = ray.cloudpickle.loads(ray.get(reference))
        return _sent[reference.hex()](given)


def _require(asked: Mapping[str, float]) -> None:
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(has.get(name, 0) >= amount for name, amount in asked.items()) for has in machines):
        raise ValueError(f"resources: no machine of the cluster has {dict(asked)}; they have {machines}")


def granted_cpus() -> int:
    """Return how many CPUs this process was granted by the cluster, at least one."""
    import ray

    granted = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(granted.get("CPU", 1)))
