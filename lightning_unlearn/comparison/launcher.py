"""Do the pieces of a comparison in the processes of a Ray cluster; the folder then holds all of it."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning_unlearn.comparison.folder import add_written
from lightning_unlearn.comparison.pipeline import Pipeline, Task
from lightning_unlearn.comparison.progress import Progress
from lightning_unlearn.core.cluster import connected, granted_cpus, on_cluster
from lightning_unlearn.core.processes import said
from lightning_unlearn.core.surroundings import no_search_for_gpus, quiet_lightning, threads

Lost = dict[Task, list[dict[str, Any]]]


def launch(
    pipeline: Pipeline, address: str | None, resources: Mapping[str, float], cpu_threads: int | None
) -> None:
    """Do all pieces; afterwards :meth:`Pipeline.do` finds each done, or noted in ``pipeline.lost`` as failed.

    Args:
        pipeline: The comparison, whose folder every machine of the cluster sees under the same path.
        address: As for :func:`~lightning_unlearn.core.cluster.connected`.
        resources: What each piece asks for.
        cpu_threads: Threads of PyTorch of each; ``None`` for as many as the CPUs that it asks for.
    """
    tasks, progress = pipeline.tasks(), pipeline.progress
    pipeline.folder, pipeline.launched = pipeline.folder.absolute(), True
    for build in pipeline.evaluators:  # here, or all would write the list at once
        if (keeps := build().keeps) is not None:
            add_written(pipeline.folder, keeps)
    sent = replace(pipeline, observers=(), progress=Progress(0, quiet=True), data=pipeline.given)

    def work(given: tuple[Task, Lost]) -> tuple[list[dict[str, Any]], float]:
        task, sent.lost = given
        start = time.perf_counter()
        with threads(cpu_threads or granted_cpus()), no_search_for_gpus(), quiet_lightning():
            return sent.do_alone(task), time.perf_counter() - start

    def given(task: Task) -> tuple[Task, Lost]:
        return task, dict(pipeline.lost)

    with connected(address):
        for task, ended in on_cluster(work, tasks, resources, needs=lambda task: task.needs, given=given):
            if isinstance(ended, Exception):
                why = f"its process ended twice, or could not begin: {said(ended)}"
                failures, seconds = [{"model": task.model, "seed": task.seed, "error": why}], 0.0
            else:
                failures, seconds = ended
            if failures:
                pipeline.lost[task] = failures
            progress.start(task.model, task.seed, task.step)
            progress.done(failed=bool(failures), seconds=seconds)
    pipeline.progress = Progress(progress.parts, quiet=True)  # what is left is to read what they wrote
