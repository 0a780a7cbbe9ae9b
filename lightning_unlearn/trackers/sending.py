"""What each kind of logger is shown of an evaluator's results; measures nothing, and draws by the report's figures."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import parent_process
from multiprocessing.util import Finalize
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_unlearn.core.compat import joins_a_run
from lightning_unlearn.reports.figures import Details, draw_figures
from lightning_unlearn.reports.schema import build_report
from lightning_unlearn.reports.tidy import by_model
from lightning_unlearn.trackers.media import media_of

__all__ = ["Results", "send_facts", "send_results"]


@dataclass(frozen=True)
class Results:
    """What one evaluator found out about one model.

    Attributes:
        name: The evaluator's name.
        metrics: Metric name to number; those of the controls under ``source/...`` and ``retrain/...``.
        details: What it noted beside them, as in its results' file.
        model: Name of the model.
        seed: Seed of what was drawn.
        step: Steps of training, for the loggers' axis.
        pictures: Image files that it wrote.
        folder: Where its files are.
        facts: About model and data, such as class paths, for the run's configuration.
    """

    name: str
    metrics: Mapping[str, float]
    details: Mapping[str, Any]
    model: str
    seed: int
    step: int
    pictures: Sequence[Path] = ()
    folder: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def send_facts(logger: Logger, facts: Mapping[str, Any]) -> None:
    """Put facts of a fit into the configuration of a W&B run; others have no such place. For every process to call."""
    if isinstance(logger, WandbLogger) and getattr(rank_zero_only, "rank", 0) == 0:
        _finish_with_process(logger)
        logger.experiment.config.update({"lightning_unlearn": dict(facts)}, allow_val_change=True)


def send_results(logger: Logger, results: Results) -> None:
    """Show a logger what it can show: all of them the scores, W&B and TensorBoard also tables and figures.

    - W&B: summary, configuration, tidy table, per-sample table, confusion matrix, ROC curve, histograms of the
      posteriors, figures and pictures.
    - TensorBoard: histograms of the posteriors, figures and pictures.
    - CSV and any other: the scores.

    What cannot be shown costs a warning and never the run. Call it on every process; only the first sends.

    Args:
        logger: The logger.
        results: What to show.
    """
    logger.log_metrics(dict(results.metrics), step=results.step)
    if getattr(rank_zero_only, "rank", 0) != 0 or not isinstance(logger, WandbLogger | TensorBoardLogger):
        return
    try:
        with _figures(results) as figures:
            if isinstance(logger, WandbLogger):
                _send_to_wandb(logger, results, figures)
            else:
                _send_to_tensorboard(logger, results, figures)
    except Exception as error:  # a picture less must not lose a trained model
        warnings.warn(
            f"the details of the evaluator {results.name!r} did not reach {type(logger).__name__}: "
            f"{type(error).__name__}: {error}",
            stacklevel=2,
        )


def _send_to_wandb(logger: WandbLogger, results: Results, figures: Mapping[str, Path]) -> None:
    import wandb

    run = logger.experiment
    send_facts(logger, results.facts)
    media = media_of(
        results.name,
        results.metrics,
        results.details,
        model=results.model,
        seed=results.seed,
        folder=results.folder,
    )
    images = {key: wandb.Image(str(path)) for key, path in figures.items()}
    run.log({**media, **images, "trainer/global_step": results.step})
    run.summary.update(dict(results.metrics))


def _finish_with_process(logger: WandbLogger) -> None:
    """Have a run that a forked process opened be finished when the process ends.

    It ends without its ``atexit`` hooks, by which W&B would have written the rest of the run's file. A spawned process
    only joins the run of the one above, where it goes on.
    """
    if parent_process() is not None and not joins_a_run(logger):
        Finalize(None, logger.experiment.finish, exitpriority=0)


def _send_to_tensorboard(logger: TensorBoardLogger, results: Results, figures: Mapping[str, Path]) -> None:
    from matplotlib.image import imread

    writer = logger.experiment
    for set_name, values in results.details.get("posteriors", {}).items():
        tag = f"{results.name}/posteriors/{set_name.replace(' ', '_')}"
        writer.add_histogram(tag, np.asarray(values), results.step)
    for key, path in figures.items():
        image = imread(str(path))  # PNG: float32 in [0, 1], (H, W) or (H, W, channels)
        writer.add_image(key, image, results.step, dataformats="HWC" if image.ndim == 3 else "HW")
    writer.flush()


@contextmanager
def _figures(results: Results) -> Iterator[dict[str, Path]]:
    """Draw the report's figures of this one run, and give them with the evaluator's own pictures, as files."""
    models = by_model(results.model, results.metrics)
    report = build_report(
        {model: {results.seed: values} for model, values in models.items()},
        seeds=[results.seed],
        config={},
        data={},
        environment={},
    )
    run = {**results.details, results.name: results.details}
    details = cast(Details, {results.model: {results.seed: run}})
    with TemporaryDirectory() as folder:
        drawn = draw_figures(report, folder, details)
        yield {
            **{f"{results.name}/figures/{path.stem}": path for path in drawn},
            **{f"{results.name}/pictures/{path.stem}": path for path in results.pictures},
        }
