"""Do tasks in the processes of a Ray cluster: each when those that it needs are over, again if its process dies."""

import logging
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

from lightning_unlearn.core.surroundings import listen_again, own_environment

__all__ = ["connected", "granted_cpus", "on_cluster"]

T = TypeVar("T")
_AMOUNTS = {"cpu": "num_cpus", "gpu": "num_gpus", "memory": "memory"}


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
    with own_environment("PYTHONBREAKPOINT", "RAY_CLIENT_MODE"):
        import ray

        if ray.is_initialized():
            yield
            return
        start: dict[str, Any] = {} if address else {"include_dashboard": False}
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **start)
        except ConnectionError as error:
            raise ValueError(f"ray_address: there is no cluster at {address!r}: {error}") from error
        listen_again()  # Ray has put its own handlers first
        try:
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
) -> Iterator[tuple[T, Any]]:
    """Do tasks in other processes, and yield each as soon as it is over.

    A task whose process or machine dies is done again, once. When the caller stops, what runs is ended.

    Args:
        work: Does a task; it and what it holds are sent to every process once.
        tasks: The tasks, hashable.
        resources: What each asks of the cluster: ``cpu`` (1 if left out), ``gpu``, ``memory`` in bytes, and the
            cluster's own.
        needs: The tasks that must be over before one begins.
        given: What ``work`` is called with, asked when a task is sent.

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
        shipped = ray.put(ray.cloudpickle.dumps(work))
    except Exception as error:  # of whatever kind pickling raises
        raise TypeError(f"launcher='ray' sends everything to other processes: {error}") from error
    remote: Any = ray.remote(max_retries=1, resources=own, **asked)(_called)
    running: dict[Any, T] = {}
    waiting, over = list(tasks), set[T]()
    try:
        while waiting or running:
            ready = [task for task in waiting if over.issuperset(needs(task))]
            running |= {remote.remote(sys.path, shipped, given(task)): task for task in ready}
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


def _called(path: list[str], work: bytes, given: Any) -> Any:
    """Call what was sent, once everything that this process could import is found in the other one as well."""
    import ray

    sys.path += [place for place in path if place not in sys.path]
    return ray.cloudpickle.loads(work)(given)


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
