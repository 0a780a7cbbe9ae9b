"""A comparison on a Ray cluster: the plain one's numbers, whatever dies on the way."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from test_compare import toy_compare
from torch import nn

from lightning_unlearn import FineTune, ForgettingQuality, MethodRun
from lightning_unlearn.comparison import api, launcher
from lightning_unlearn.comparison.api import Comparison
from lightning_unlearn.comparison.pipeline import Pipeline
from lightning_unlearn.core import cluster, surroundings
from lightning_unlearn.core.cluster import on_cluster
from lightning_unlearn.core.files import target_of
from lightning_unlearn.core.surroundings import own_environment

pytestmark = pytest.mark.usefixtures("one_cluster")


def dies(source: nn.Module, spared: int, folder: Path, times: int) -> FineTune:
    """Kill the process that builds this, so many times, unless it is the one that is spared."""
    mark = folder / f"died of {times}"
    before = mark.read_text() if mark.exists() else ""
    if os.getpid() != spared and len(before) < times:
        mark.write_text(before + "x")
        os.kill(os.getpid(), signal.SIGKILL)
    return FineTune(source)


def waits(source: nn.Module, spared: int, folder: Path) -> FineTune:
    """Say where this runs, and wait to be lost with all the machine; the second time goes on."""
    mark = folder / "here"
    if os.getpid() != spared:
        import ray

        context = ray.get_runtime_context()
        (folder / f"task {context.get_task_id()}").touch()
        if not mark.exists():
            mark.write_text(context.get_node_id())
            time.sleep(300)
    return FineTune(source)


def assigned() -> dict[str, float]:
    """Say what the cluster gave to this task."""
    import ray

    found = ray.get_runtime_context().get_assigned_resources()
    return {name: amount for name, amount in found.items() if name in ("CPU", "GPU")}


class Halts(FineTune):
    """Stays in its first step until it may go on, unless it is in the process that is spared."""

    def __init__(self, source: nn.Module, spared: int, folder: Path) -> None:
        super().__init__(source)
        self.spared, self.folder = spared, str(folder)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        while os.getpid() != self.spared and not (Path(self.folder) / "go on").exists():
            (Path(self.folder) / "begun").touch()
            time.sleep(0.1)
        return super().training_step(batch, batch_idx)


def raises(source: nn.Module) -> FineTune:
    raise RuntimeError("cannot be built")


def numbers(comparison: Comparison) -> dict[str, Any]:
    """Every number of a report, times and memory excepted."""
    return {
        name: {
            key: values["values"]
            for key, values in metrics.items()
            if not key.startswith(("time/", "memory/", "acceleration"))
        }
        for name, metrics in comparison.report["models"].items()
    }


@pytest.fixture
def machines() -> Iterator[Any]:
    """Two machines of one processor each, and one more that computes nothing and holds this process."""
    with own_environment(*cluster._RAYS, "CUDA_VISIBLE_DEVICES"):
        # the tests hide graphics cards where there are none, and Ray would count them
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        pytest.importorskip("ray", reason="Ray is an extra")
        from ray.cluster_utils import Cluster

        computers = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        nodes = [computers.add_node(num_cpus=1, num_gpus=1) for _ in range(2)]
        place = Path(tempfile.gettempdir())
        before = set(place.glob("comparison-*"))
        yield computers, nodes
        computers.shutdown()
        for folder in set(place.glob("comparison-*")) - before:  # of processes that were killed
            shutil.rmtree(folder)


def finished(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """What says that a piece is done, with its time; of a trained model it says the truth."""
    files = [file for name in ("training.json", "metrics.json") for file in folder.rglob(name)]
    for file in files:
        if file.name == "training.json":
            content = (file.parent / "model.ckpt").read_bytes()
            assert json.loads(file.read_text())["sha256"] == hashlib.sha256(content).hexdigest()
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def goes_on(folder: Path) -> None:
    """Start a comparison on a cluster, press Ctrl-C in the middle, start it again, and look at what it did."""
    comparing = partial(
        toy_compare,
        methods=[
            MethodRun(FineTune, "before", {"max_epochs": 1}),
            MethodRun(partial(Halts, spared=os.getpid(), folder=folder), "halts", {"max_epochs": 1}),
            MethodRun(FineTune, "after", {"max_epochs": 1}),
        ],
        evaluators=[],
        seeds=1,
        threads=1,
        page=False,
    )
    out = folder / "ray"

    def press_ctrl_c() -> None:
        while not (folder / "begun").exists() or not (out / "before" / "seed_0" / "training.json").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    surroundings._GRACE = 60.0  # on a busy machine
    threading.Thread(target=press_ctrl_c, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        comparing(out, launcher="ray", quiet=False)
    (folder / "go on").touch()
    before = finished(out)
    assert 2 <= len(before) < 10
    assert not (out / "halts" / "seed_0" / "training.json").exists()
    again = comparing(out, launcher="ray")
    after = finished(out)
    assert len(after) == 10
    assert {file: after[file] for file in before} == before, "what was finished is done again"
    assert [file for file in out.rglob("*") if target_of(file) is not None] == []
    assert numbers(again) == numbers(comparing(folder / "plain"))
    assert not again.failed


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(600)  # alone it takes a sixth, most of it for starting processes
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra")
def test_stopped_on_a_cluster_and_started_again_it_goes_on_where_it_stood(tmp_path: Path) -> None:
    # in a process of its own: Ray does not always find what belongs to the second cluster of one process
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)  # as above
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import pathlib, test_launcher; test_launcher.goes_on(pathlib.Path({str(tmp_path)!r}))",
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"^\[1/10\] seed 0 · source · train: [\d.]+ s$", ran.stdout, re.MULTILINE)
    assert re.search(r"^Stopped after \d+ of 10. Run the same command to go on.$", ran.stderr, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_gives_the_plain_launchers_numbers_though_processes_and_a_machine_die(
    machines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a remote path, from which each process takes what it needs."""
    monkeypatch.chdir(tmp_path)
    (computers, nodes), here = machines, os.getpid()
    comparing = partial(
        toy_compare,
        methods=[
            MethodRun(partial(waits, spared=here, folder=tmp_path), "waits", {"max_epochs": 1}),
            MethodRun(partial(dies, spared=here, folder=tmp_path, times=1), "dies_once", {"max_epochs": 1}),
            MethodRun(partial(dies, spared=here, folder=tmp_path, times=2), "dies_twice", {"max_epochs": 1}),
            MethodRun(raises, "raises", {"max_epochs": 1}),
        ],
        # each of its unlearned models is a task of its own
        evaluators=[lambda: ForgettingQuality(3, bootstrap=10)],
        seeds=1,
        short_retrainings=[0.5],
        threads=1,
    )

    def lose_a_machine() -> None:
        mark = tmp_path / "here"
        while not mark.exists() or not mark.read_text():
            time.sleep(0.1)
        computers.remove_node(next(node for node in nodes if node.node_id == mark.read_text()))

    losing = threading.Thread(target=lose_a_machine, daemon=True)
    losing.start()
    launched = comparing(f"file://{tmp_path}/ray", launcher="ray", ray_address=computers.address)
    losing.join(timeout=60)
    assert not losing.is_alive()
    plain = comparing(tmp_path / "plain")
    found, expected = numbers(launched), numbers(plain)
    assert "dies_twice" not in found
    del expected["dies_twice"]
    different = {
        (model, name): (found[model].get(name), value)
        for model, scores in expected.items()
        for name, value in scores.items()
        if found[model].get(name) != value
    }
    assert (found.keys(), different) == (expected.keys(), {})
    assert [failure["model"] for failure in launched.report["failures"]] == ["dies_twice", "raises"]
    assert "ended twice" in launched.report["failures"][0]["error"]
    assert launched.report["failures"][1] in plain.report["failures"]
    # a training, an audit, and each of the three models that the audit asks for
    assert len(list(tmp_path.glob("task *"))) >= 5
    with cluster.connected(computers.address):
        ((_, granted),) = on_cluster(lambda _: assigned(), [0], {"gpu": 0.5})
        with pytest.raises(ValueError, match="resources: no machine of the cluster has"):
            next(on_cluster(lambda _: None, [0], {"gpu": 2}))
    assert granted == {"CPU": 1, "GPU": 0.5}
    for name in ("waits", "dies_once", "retrain_50pct"):
        places = (tmp_path / way / name / "seed_0" / "model.ckpt" for way in ("ray", "plain"))
        assert len({place.read_bytes() for place in places}) == 1, name


def test_every_piece_waits_for_what_it_reads(tmp_path: Path) -> None:
    pipeline = Pipeline.__new__(Pipeline)
    pipeline.seeds, pipeline.retrain_2, pipeline.shares = [0, 1], True, [0.5]
    pipeline.runs = {"retrain": None, "a": None}  # type: ignore[dict-item]
    tasks = pipeline.tasks()
    names = [f"{task.model} {task.step}" for task in tasks if task.seed == 0]
    assert len(tasks) == 2 * len(names) == 2 * 2 * len(pipeline.names)
    for task in tasks:
        assert all(
            tasks.index(need) < tasks.index(task) for need in task.needs
        )  # so one after another will do
        needed = {f"{need.model} {need.step}" for need in task.needs}
        assert {need.seed for need in task.needs} <= {task.seed}
        if task.step == "audit":
            assert {"source train", "retrain train", f"{task.model} train"} <= needed
        if task.model == "retrain_50pct":
            assert "retrain train" in needed


def test_what_was_lost_elsewhere_is_not_tried_again_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(pipeline: Pipeline, *_: Any) -> None:
        for task in pipeline.tasks():
            if task.model == "source" and task.step == "train":
                pipeline.lost[task] = [{"model": "source", "seed": task.seed, "error": "lost"}]

    monkeypatch.setattr(api, "launch", lose)
    report = toy_compare(tmp_path / "out", launcher="ray", seeds=1).report
    assert [failure["error"] for failure in report["failures"]] == [
        "lost",
        *["not run: the source model failed"] * 2,
    ]
    assert not list((tmp_path / "out").rglob("model.ckpt"))


@pytest.mark.filterwarnings("ignore:acceleration")
def test_a_remote_path_has_all_that_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    memory, (url, copy) = MemoryFileSystem(), ("memory://a/run", Path("runs/memory/a/run"))
    comparing = partial(toy_compare, url, evaluators=[], seeds=1, page=False)

    class Stops:
        def run_finished(self, folder: Path, name: str, seed: int) -> None:
            if name == "retrain":
                raise KeyboardInterrupt

        def finished(self, folder: Path, report: Any) -> None: ...

    def there() -> dict[str, bytes]:
        return {name.removeprefix("/a/run/"): memory.cat_file(name) for name in memory.find("/a/run")}

    memory.pipe_file("/mine/a.txt", b"")
    with pytest.raises(
        ValueError, match=r"memory://mine is not a comparison's, it holds a\.txt; give a new path"
    ):
        toy_compare("memory://mine")
    with pytest.raises(KeyboardInterrupt):
        comparing(observers=[Stops()])
    before = {name: content for name, content in there().items() if name.endswith("training.json")}
    assert list(before) == ["retrain/seed_0/training.json", "source/seed_0/training.json"]
    shutil.rmtree("runs")
    done = comparing()
    assert done.output_dir == copy
    assert before.items() <= there().items(), "what was finished is done again"
    files = {
        file.relative_to(copy).as_posix(): file.read_bytes() for file in copy.rglob("[!.]*") if file.is_file()
    }
    assert there() == files
    assert {"report.json", "reference_kl/seed_0/model.ckpt", "forget.key"} <= files.keys()
    comparing(clean=True)
    assert there().keys() == files.keys() - {
        *("forget.key", "split.npz", "source/seed_0/model.ckpt"),
        *(name for name in files if name.endswith("log/split.npz")),
    }


def test_a_machine_that_does_not_see_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(work: Any, tasks: Any, *_: Any, given: Any, **__: Any) -> Any:
        shutil.rmtree(tmp_path / "out")
        try:
            yield tasks[0], work(given(tasks[0]))
        except launcher.UnseenError as error:
            lost = RuntimeError()
            lost.cause = error  # type: ignore[attr-defined]
            yield tasks[0], lost

    monkeypatch.setattr(launcher, "on_cluster", elsewhere)
    monkeypatch.setattr(launcher, "connected", nullcontext)
    with pytest.raises(ValueError, match=r"out is not there on .*; give a folder that all machines see"):
        toy_compare(tmp_path / "out", launcher="ray", threads=1)


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"resources are of launcher='ray'"):
        toy_compare(tmp_path / "out", resources={"gpu": 1})
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'lightning-unlearn\[ray\]'"):
        toy_compare(tmp_path / "out", launcher="ray")
    with pytest.raises(ValueError, match=r"output_dir: s3:/bucket/run is a remote path"):
        toy_compare(Path("s3://bucket/run"))
    with pytest.raises(ValueError, match=r"output_dir: nowhere://run: Protocol not known"):
        toy_compare("nowhere://run")
    with pytest.raises(ValueError, match=r"output_dir: memory://run is this process's memory"):
        toy_compare("memory://run", launcher="ray")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())[
        "written"
    ]  # and goes on when it is there
    assert launcher.launch is api.launch
