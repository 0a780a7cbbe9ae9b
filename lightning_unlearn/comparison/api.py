"""Compare unlearning methods: source, retrained model and every method, over every seed, audited alike."""

import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from lightning_unlearn.callbacks import Evaluator, ForgettingMetrics
from lightning_unlearn.comparison.before import Before
from lightning_unlearn.comparison.controls import SHARES
from lightning_unlearn.comparison.fast import faster, why
from lightning_unlearn.comparison.folder import (
    KEY,
    forget_key_gone,
    in_use,
    places,
    require_names,
    require_ours,
)
from lightning_unlearn.comparison.launcher import launch
from lightning_unlearn.comparison.pipeline import Observer, Pipeline
from lightning_unlearn.comparison.progress import Progress
from lightning_unlearn.comparison.recorder import Recorder
from lightning_unlearn.comparison.runs import RETRAIN, MethodRun, SourceRun
from lightning_unlearn.comparison.splits import SeedSplits, set_up
from lightning_unlearn.comparison.store import Store
from lightning_unlearn.comparison.trainers import split_loggers
from lightning_unlearn.core.checks import in_range, one_of
from lightning_unlearn.core.files import write_json_atomic
from lightning_unlearn.core.ledger import Ledger, as_ledger
from lightning_unlearn.core.processes import is_first
from lightning_unlearn.core.remembering import Remembering, remembering_files, remove, without_names
from lightning_unlearn.core.surroundings import no_search_for_gpus, quiet_lightning, stoppable
from lightning_unlearn.core.surroundings import threads as torch_threads
from lightning_unlearn.core.terminal import say
from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.methods import Retrain
from lightning_unlearn.reports import Report, read_details, write_all, write_json
from lightning_unlearn.trackers.runs import WandbRuns


@dataclass(frozen=True)
class Comparison:
    """What a comparison gives back.

    Attributes:
        report: The content of report.json.
        output_dir: Folder with the report, the figures and one folder a model and seed; of a remote path, the copy.
        files: The report's files.
        remembering: Files of the run that still remember what was forgotten.
        removed: Those that were removed because they did.
    """

    report: Report
    output_dir: Path
    files: list[Path]
    remembering: list[Remembering]
    removed: list[Remembering]

    @property
    def failed(self) -> bool:
        """Whether a run or a score is missing."""
        return bool(self.report["failures"])


def compare(
    source: SourceRun,
    data: Callable[[], UnlearningDataModule],
    methods: Sequence[MethodRun],
    evaluators: Sequence[Callable[[], Evaluator]] = (),
    *,
    seeds: int | Sequence[int] = 3,
    vary: Literal["all", "training", "source", "unlearn", "evaluate"] = "all",
    after: str | Path | None = None,
    retrain: MethodRun | None = None,
    retrain_2: bool = True,
    short_retrainings: Sequence[float] = SHARES,
    margins: Mapping[str, float] | None = None,
    trainer: Mapping[str, Any] | None = None,
    adapter: Adapter | None = None,
    output_dir: str | Path = "runs/compare",
    overwrite: bool = False,
    quiet: bool = False,
    threads: int | None = None,
    fast: bool = False,
    launcher: Literal["plain", "ray"] = "plain",
    ray_address: str | None = None,
    resources: Mapping[str, float] | None = None,
    observers: Sequence[Observer] = (),
    ledger: str | Path | Ledger | None = None,
    clean: bool = False,
    forget_key: str | Path | None = None,
    page: bool = True,
    config: Mapping[str, Any] | None = None,
) -> Comparison:
    """Measure unlearning methods against the source and the retrained model.

    Every model is exported first and then audited from its exported file, so what is measured is what would be
    deployed. Finished parts are kept in ``output_dir``: started again, the comparison does what is missing. A
    method that fails is listed under ``failures`` and the others finish.

    Args:
        source: The source model.
        data: Builds the split data, a new object each time.
        methods: The methods.
        evaluators: Build the evaluators; accuracies and forgetting metrics are always measured.
        seeds: Number of seeds, or the seeds. A seed is a full repetition.
        vary: What differs between seeds. ``all``: each draws its own forget and non-member sets, as far as the rule
            draws any; of a source that is given as a checkpoint only the non-members from the test set are drawn anew,
            and a split that is kept under ``split_path`` is the same for all. ``training``: all but the split, so that
            intervals tell of training noise only. Or the randomness of training the ``source``, of ``unlearn``-ing
            (retraining included), or of ``evaluate``-ing alone.
        after: Folder of the comparison of the request before, for requests that come one after another: each method
            goes on from its own model there, seed by seed, and what that request forgot is in no stream. The source is
            that comparison's, which no request has touched, and is not trained again. In a file with scenarios it may
            be the name of an earlier one. All machines of a cluster must see it.
        retrain: How to retrain; ``None`` for :class:`~lightning_unlearn.methods.Retrain` with the source's trainer.
        retrain_2: Whether to retrain a second time with another seed: the yardstick for every distance to the
            retrained model.
        short_retrainings: Shares of the retraining's steps, in (0, 1), to retrain for, with its learning rates
            compressed and ending near zero: the floor that a method must lie above to be worth its time. Evaluators
            that need many models of a kind leave these out, and ``retrain_2``.
        margins: Differences from the retrained model that do not matter, by metric, in its own unit (0.01 is a point of
            an accuracy); left out, half the gap between source and retrained model (of a class and of wrong or poisoned
            labels at most 10 points), of test accuracy one point lost.
        trainer: Arguments of every Trainer, such as ``accelerator``, ``devices`` and ``precision``. Every Trainer
            logs to CSV, in the run's folder, unless ``logger`` is False; other loggers beside it. A ``WandbLogger``
            says where W&B runs go: one a model and seed, written when it is audited, and one that sums up.
        adapter: How batches and outputs are taken apart in the audit and, if ``retrain`` is left out, in the
            retraining; ``None`` for the usual layouts.
        output_dir: Folder of everything that is written. Or a path of fsspec, such as ``s3://bucket/run``: what is
            finished goes there too, and is taken from there, with an own copy in ``runs/s3/bucket/run``.
        overwrite: Whether to remove what another comparison wrote to ``output_dir``; a file of yours stays.
        quiet: Whether to show no progress.
        threads: CPU threads of PyTorch while the comparison runs; ``None`` leaves them as they are. Small networks
            are fastest with one, and a machine that shares its cores stalls with more.
        fast: Whether to train all models in what is faster where the comparison starts, and changes no result beyond
            rounding: channels_last for convolutions and, on CUDA unless ``precision`` is given, bf16-mixed. It says
            what it chose. Models are measured, and written, as ever.
        launcher: ``plain`` does one piece after another in this process. ``ray`` does as many at once as a Ray cluster
            has room for (``pip install 'lightning-unlearn[ray]'``), with the same numbers at the same number of
            threads. A piece whose process dies is done again, once.
        ray_address: Of a cluster that runs, ``"auto"`` for the one of this machine; ``None`` starts one here. All its
            machines must see ``output_dir`` under the same path, or it is a remote one.
        resources: What each piece asks of the cluster: ``cpu`` (1 unless given, and as many threads unless ``threads``
            says otherwise), ``gpu`` (0.5 puts two on one), ``memory`` in bytes, and the cluster's own.
        observers: Look on, such as those that send finished runs to a dashboard.
        ledger: Deletion ledger, a path or a :class:`~lightning_unlearn.core.ledger.Ledger`, to which one line a
            method and seed is appended; ``None`` takes that of the data, if it has one.
        clean: Whether to remove, when all is done and nothing failed, the files that still remember: the source
            model, checkpoints to resume from, the split (keep one with the data's ``split_path``, the next request
            needs it as ``previous``). Started again, a cleaned comparison trains its source anew, and all of it
            where it had neither ``forget_key`` nor ledger. What is left is listed in remembering.json either way.
        forget_key: File with the secret that the forgotten samples are hashed with, any text of at least 16 bytes,
            made if there is none; ``None`` for the ledger's. Comparisons that are to be merged share it. Without
            either the report holds no hash.
        page: Whether to write the page and the figures beside report.json.
        config: Provenance for the report, and part of what decides whether a finished part can be kept.

    Returns:
        The report and where it is.

    Raises:
        ValueError: If an argument does not fit, ``output_dir`` holds another comparison, or the ledger does not
            verify.
        FileNotFoundError: If ``after`` lacks a source or split.
        SystemExit: At SIGTERM, with status 143; Ctrl-C raises KeyboardInterrupt, as ever.
    """
    require_names(method.label for method in methods)
    runs = {RETRAIN: retrain or MethodRun(_retraining(adapter), RETRAIN, source.trainer)}
    runs |= {method.label: method for method in methods}
    shared = trainer or {}
    if fast:
        source = replace(source, trainer=faster(source.trainer, shared))
        runs = {label: replace(run, trainer=faster(run.trainer, shared)) for label, run in runs.items()}
        if not quiet:
            say(why(shared), sys.stderr)
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    _check_numbers(seeds, threads, short_retrainings, margins or {})
    one_of("vary", vary, "all", "training", "source", "unlearn", "evaluate")
    store = Store(output_dir)
    _check_launcher(launcher, store, remote_only=ray_address is not None or bool(resources))
    wandb, loggers = split_loggers(shared.get("logger"))
    before = None
    if after is not None:
        before = Before(Path(after).absolute())
        before.require(seeds, store.folder, source.checkpoint, [method.label for method in methods])
    split_data, record = _prepared(data(), ledger, before, min(seeds))
    folder, files = store.folder, (split_data.split_path, source.checkpoint, forget_key)
    inputs = [Path(file) for file in files if file is not None]
    inputs += [] if record is None else [record.file, record.key_path]
    require_ours(folder, inputs)
    pipeline = Pipeline(
        source=source,
        runs=runs,
        splits=SeedSplits(split_data, data, vary, source.checkpoint is not None, before),
        evaluators=[ForgettingMetrics, *evaluators],
        retrain_2=retrain_2,
        shares=sorted(set(short_retrainings)),
        margins=dict(margins or {}),
        seeds=seeds,
        vary=vary,
        trainer={**shared, "logger": loggers},
        adapter=adapter,
        folder=folder,
        config=without_names(dict(config or {})),
        progress=Progress(0, quiet=quiet or not is_first()),
        observers=[*observers, *([] if wandb is None else [WandbRuns(wandb, quiet=quiet)])],
    )
    if before is not None and retrain is None:
        before.require_as_trained(pipeline.trained_with)
    pipeline.progress.parts = 2 * len(seeds) * len(pipeline.names)
    with quiet_lightning():
        pipeline.check()
    with in_use(folder):
        if is_first():
            store.fetch()
        if record is not None:
            recorder = Recorder(record, lambda: pipeline.data, source.checkpoint, before)
            pipeline.observers = [recorder, *pipeline.observers]
            forget_key = forget_key or record.key_path
        pipeline.claim_folder(overwrite, inputs, None if forget_key is None else Path(forget_key))
        seconds = _run(pipeline, store, threads, launcher, ray_address, resources or {})
        report = pipeline.report(seconds)
        if record is not None:
            report["ledger"] = recorder.lines
        written, left, removed = _finish(pipeline, store, report, clean, page) if is_first() else ([], [], [])
    return Comparison(report, folder, written, left, removed)


def _check_numbers(
    seeds: Sequence[int], threads: int | None, shares: Sequence[float], margins: Mapping[str, float]
) -> None:
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be a positive number or a list of different seeds >= 0, got {seeds}")
    in_range("threads", threads, "[1, inf)", "; None leaves them as they are", whole=True, none=True)
    for share in shares:
        in_range("short_retrainings", share, "(0, 1)", ": a share, so that 10% is 0.1; [] trains none")
    for name, margin in margins.items():
        in_range(f"margins[{name!r}]", margin, "(0, inf)")


def _check_launcher(launcher: str, store: Store, *, remote_only: bool) -> None:
    one_of("launcher", launcher, "plain", "ray")
    if launcher == "plain" and remote_only:
        raise ValueError("ray_address and resources are of launcher='ray'; give that too, or leave them out")
    if launcher == "ray" and store.url is not None and store.url.startswith("memory:"):
        raise ValueError(
            f"output_dir: {store.url} is this process's memory, which no other sees; give another"
        )


def _retraining(adapter: Adapter | None) -> Callable[[nn.Module], Retrain]:
    """Return the retraining that nobody described: as the adapter says, by the source's own loss where it must be."""
    if adapter is None:
        return Retrain
    step = "loss" if "loss" in adapter.kind.offers else "source"
    return partial(Retrain, adapter=adapter, step=step)


def _prepared(
    data: UnlearningDataModule, ledger: str | Path | Ledger | None, before: Before | None, seed: int
) -> tuple[UnlearningDataModule, Ledger | None]:
    """Split the data; take their ledger, since the comparison itself records its fits, once they are audited."""
    if before is not None and data.backdoor is not None:
        raise ValueError(
            "backdoor: it is planted in the forget set before the source is trained, and the source of a later "
            "request is trained already; leave it out, or after"
        )
    # after an earlier request as a seed has it, or it would put back what that seed forgot
    set_up(data, seed, before, anew=before is not None and before.one_split is None)
    if not data.stream_size("test"):
        raise ValueError("data: a comparison needs a test set, and the data has none")
    if ledger is not None and data.ledger is not None:
        raise ValueError(f"ledger: the data has one already, {data.ledger.path}; name it in one place")
    record, data.ledger = as_ledger(ledger) or data.ledger, None
    return data, record


def _run(
    pipeline: Pipeline,
    store: Store,
    threads: int | None,
    launcher: str,
    address: str | None,
    resources: Mapping[str, float],
) -> float:
    """Run every seed, and return how many seconds that took."""
    start, progress = time.perf_counter(), pipeline.progress
    with (
        stoppable(progress.how_far),
        torch_threads(threads),
        no_search_for_gpus(),
        progress,
        quiet_lightning(),
    ):
        if is_first():
            store.send()  # before any work, so that it is known whether it can be written to
        if launcher == "ray":
            launch(pipeline, store, address, resources, threads)
        for task in pipeline.tasks():
            pipeline.do(task)
            if is_first():
                store.send()
    return time.perf_counter() - start


def _finish(
    pipeline: Pipeline, store: Store, report: Report, clean: bool, page: bool
) -> tuple[list[Path], list[Remembering], list[Remembering]]:
    """Write the report and settle the folder; return the report's files, and what remembers and what did."""
    folder = pipeline.folder
    written = (
        write_all(report, folder, read_details(folder, report))
        if page
        else [write_json(report, folder / "report.json")]
    )
    for observer in pipeline.observers:
        _show(observer, folder, report)
    left, removed = _settle(folder, clean and not report["failures"])
    store.send()
    return written, left, removed


def _show(observer: Observer, folder: Path, report: Report) -> None:
    try:
        observer.finished(folder, report)
    except Exception as error:  # whoever looks on must not cost what is written already
        warnings.warn(f"observer: {type(error).__name__}: {error}", stacklevel=2)


def _settle(folder: Path, clean: bool) -> tuple[list[Remembering], list[Remembering]]:
    """Note which files still remember, after removing the comparison's own if that is asked for.

    Returns:
        Those that are left, and those that were removed.
    """
    found, ours = remembering_files(folder), places(folder)
    removed = [item for item in found if clean and ours(item.file)]
    left = [item for item in found if item not in removed]
    remove(removed)
    if any(item.file == folder / KEY for item in removed):
        forget_key_gone(folder)
    listed = [
        {"file": item.file.relative_to(folder).as_posix(), "reason": item.reason}
        for item in (removed if clean else left)
    ]
    kept = [item.file.relative_to(folder).as_posix() for item in left]
    content = {"removed": clean, "files": listed, **({"left": kept} if clean and kept else {})}
    write_json_atomic(folder / "remembering.json", content)
    return left, removed
