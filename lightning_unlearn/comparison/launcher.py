"""Do the pieces of a comparison in the processes of a Ray cluster; the folder then holds all of it."""

import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_unlearn.comparison.folder import MARK, add_written
from lightning_unlearn.comparison.pipeline import Pipeline, Task
from lightning_unlearn.comparison.progress import Progress
from lightning_unlearn.comparison.store import Store
from lightning_unlearn.core.cluster import connected, granted_cpus, on_cluster
from lightning_unlearn.core.processes import said
from lightning_unlearn.core.surroundings import no_search_for_gpus, quiet_lightning, threads

Lost = dict[Task, list[dict[str, Any]]]


class UnseenError(Exception):
    """A machine does not see the comparison's folder, and says which it is."""


def launch(
    pipeline: Pipeline,
    store: Store,
    address: str | None,
    resources: Mapping[str, float],
    cpu_threads: int | None,
) -> None:
    """Do all pieces; afterwards :meth:`Pipeline.do` finds each done, or noted in ``pipeline.lost`` as failed.

    Args:
        pipeline: The comparison.
        store: Its folder, which every machine of the cluster sees under the same path, or its remote path: then each
            piece is done in a temporary folder.
        address: As for :func:`~lightning_unlearn.core.cluster.connected`.
        resources: What each piece asks for.
        cpu_threads: Threads of PyTorch of each; ``None`` for as many as the CPUs that it asks for.

    Raises:
        ValueError: If a machine does not see what was written.
    """
    tasks, progress = pipeline.tasks(), pipeline.progress
    pipeline.folder, pipeline.launched = pipeline.folder.absolute(), True
    for build in pipeline.evaluators:  # here, or all would write the list at once
        if (keeps := build().keeps) is not None:
            add_written(pipeline.folder, keeps)
    store.send()
    sent = replace(pipeline, observers=(), progress=Progress(0, quiet=True))
    url = store.url

    def work(given: tuple[Task, Lost]) -> tuple[list[dict[str, Any]], float]:
        task, sent.lost = given
        start = time.perf_counter()
        with (
            threads(cpu_threads or granted_cpus()),
            no_search_for_gpus(),
            quiet_lightning(),
            _at_work(sent, url, task) as here,
        ):
            return here.do_alone(task), time.perf_counter() - start

    def given(task: Task) -> tuple[Task, Lost]:
        return task, dict(pipeline.lost)

    with (
        connected(address),
        closing(on_cluster(work, tasks, resources, needs=lambda task: task.needs, given=given)) as over,
    ):
        for task, ended in over:
            if isinstance(cause := getattr(ended, "cause", None), UnseenError):
                raise ValueError(str(cause))
            if isinstance(ended, Exception):
                why = f"its process ended twice, or could not begin: {said(ended)}"
                failures, seconds = [{"model": task.model, "seed": task.seed, "error": why}], 0.0
            else:
                failures, seconds = ended
            if failures:
                pipeline.lost[task] = failures
            progress.start(task.model, task.seed, task.step)
            progress.done(failed=bool(failures), seconds=seconds)
    store.fetch()
    pipeline.progress = Progress(progress.parts, quiet=True)  # what is left is to read what they wrote


@contextmanager
def _at_work(pipeline: Pipeline, url: str | None, task: Task) -> Iterator[Pipeline]:
    """Give the comparison, in its folder or in a temporary one with what a piece needs, whose files are sent then."""
    if url is None:
        _require_seen(pipeline.folder, pipeline.folder)
        yield pipeline
        return
    needed = {f"{need.model}/seed_{need.seed}" for need in (task, *task.needs)}
    with TemporaryDirectory(prefix="comparison-") as place:
        store = Store(url, Path(place))
        # of other models nothing, but all that evaluators keep
        store.fetch(
            lambda name: "/".join(name.split("/")[:2]) in needed or not re.match(r"[^/]+/seed_\d+/", name)
        )
        _require_seen(store.folder, url)
        yield replace(pipeline, folder=store.folder)
        store.send()


def _require_seen(folder: Path, name: object) -> None:
    if not (folder / MARK).is_file():
        raise UnseenError(
            f"output_dir: {name} is not there on {socket.gethostname()}; give a folder that all machines see under "
            "the same path, or a remote path such as s3://bucket/run"
        )
