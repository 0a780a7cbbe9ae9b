"""The main job: source, retrained model and every method, over every seed, audited alike and reported."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from lightning_unlearn.callbacks import Evaluator, ForgettingMetrics
from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.methods import Retrain
from lightning_unlearn.pipeline import RETRAIN, SOURCE, Observer, Pipeline
from lightning_unlearn.processes import is_first
from lightning_unlearn.progress import Progress
from lightning_unlearn.reports import Details, Report, write_all
from lightning_unlearn.runs import MethodRun, SourceRun
from lightning_unlearn.surroundings import quiet_lightning
from lightning_unlearn.surroundings import threads as torch_threads

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """What a comparison gives back.

    Attributes:
        report: The content of report.json.
        output_dir: Folder with the report, the figures and one folder a model and seed.
        files: The report's files.
    """

    report: Report
    output_dir: Path
    files: list[Path]

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
    vary: Literal["all", "source", "unlearn", "evaluate"] = "all",
    retrain: MethodRun | None = None,
    trainer: Mapping[str, Any] | None = None,
    adapter: Adapter | None = None,
    output_dir: str | Path = "runs/compare",
    overwrite: bool = False,
    quiet: bool = False,
    threads: int | None = None,
    observers: Sequence[Observer] = (),
    config: Mapping[str, Any] | None = None,
) -> Comparison:
    """Measure unlearning methods against the source and the retrained model.

    Every model is exported first and then audited from its exported file, so what is measured is what would be
    deployed. Finished parts are kept in ``output_dir``: started again, the comparison does what is missing. A
    method that fails is listed under ``failures`` and the others finish.

    Args:
        source: The source model.
        data: Builds the split data; the split is the same for every seed.
        methods: The methods.
        evaluators: Build the evaluators; accuracies and forgetting metrics are always measured.
        seeds: Number of seeds, or the seeds. A seed is a full repetition.
        vary: Which randomness differs between seeds: ``all``, or only that of training the ``source``, of
            ``unlearn``-ing (retraining included), or of evaluating.
        retrain: How to retrain; ``None`` for :class:`~lightning_unlearn.methods.Retrain` with the source's trainer.
        trainer: Arguments of every Trainer, such as ``accelerator``, ``devices`` and ``precision``.
        adapter: How batches and outputs are taken apart in the audit; ``None`` for the usual layouts.
        output_dir: Folder of everything that is written.
        overwrite: Whether to delete what another comparison left in ``output_dir``.
        quiet: Whether to show no progress.
        threads: CPU threads of PyTorch while the comparison runs; ``None`` leaves them as they are. Small networks
            are fastest with one, and a machine that shares its cores stalls with more.
        observers: Look on, such as those that send finished runs to a dashboard.
        config: Provenance for the report, and part of what decides whether a finished part can be kept.

    Returns:
        The report and where it stands.

    Raises:
        ValueError: If an argument does not fit, or ``output_dir`` holds another comparison.
    """
    runs = {RETRAIN: retrain or MethodRun(lambda s: Retrain(s, fresh=source.model), RETRAIN, source.trainer)}
    for method in methods:
        if method.label in (SOURCE, *runs):
            raise ValueError(
                f"methods: two runs are called {method.label!r}; give one of them another name (the names "
                f"{SOURCE!r} and {RETRAIN!r} are taken)"
            )
        runs[method.label] = method
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be a positive number or a list of different seeds >= 0, got {seeds}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}; None leaves them as they are")
    if vary not in ("all", "source", "unlearn", "evaluate"):
        raise ValueError(f"vary must be 'all', 'source', 'unlearn' or 'evaluate', got {vary!r}")
    for name, arguments in ((SOURCE, source.trainer), *((label, run.trainer) for label, run in runs.items())):
        if name == SOURCE and source.checkpoint is not None:
            continue
        if not {"max_epochs", "max_steps", "max_time", "fast_dev_run"} & {*arguments, *(trainer or {})}:
            raise ValueError(
                f"trainer of {name!r}: give max_epochs (or max_steps, or max_time); without one Lightning would train "
                "for 1000 epochs"
            )
    split_data = data()
    split_data.prepare_data()
    split_data.setup("fit")
    if not split_data.stream_size("test"):
        raise ValueError("data: a comparison needs a test set, and the data has none")
    pipeline = Pipeline(
        source=source,
        runs=runs,
        data=split_data,
        evaluators=[ForgettingMetrics, *evaluators],
        seeds=seeds,
        vary=vary,
        trainer=dict(trainer or {}),
        adapter=adapter,
        folder=Path(output_dir),
        config=dict(config or {}),
        observers=observers,
    )
    pipeline.claim_folder(overwrite)
    start = time.perf_counter()
    steps = len(seeds) * 2 * (1 + len(runs))
    with (
        torch_threads(threads),
        Progress(steps, quiet=quiet or not is_first()) as progress,
        quiet_lightning(),
    ):
        for seed in seeds:
            pipeline.run_seed(seed, progress)
    report = pipeline.report(time.perf_counter() - start)
    files: list[Path] = []
    if is_first():
        files = write_all(report, pipeline.folder, cast(Details, pipeline.details))
        for observer in observers:
            observer.finished(pipeline.folder, report)
    return Comparison(report, pipeline.folder, files)
