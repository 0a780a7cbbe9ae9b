"""What W&B and TensorBoard are shown of an evaluator's results while a Trainer runs, beside the scores."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.util import Finalize
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from lightning_unlearn.core.compat import joins_a_run, wandb_arguments
from lightning_unlearn.core.processes import is_first
from lightning_unlearn.engine.telling import Results, send_facts, send_results
from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures import draw_figures
from lightning_unlearn.reports.schema import build_report
from lightning_unlearn.reports.tidy import by_model, run_rows
from lightning_unlearn.trackers.media import media_of, rows_table


@send_facts.register
def facts_to_wandb(logger: WandbLogger, facts: Mapping[str, Any]) -> None:
    """Put facts of a fit into the configuration of a W&B run."""
    if is_first():
        _finish_with_process(logger)
        logger.experiment.config.update({"lightning_unlearn": dict(facts)}, allow_val_change=True)


@send_results.register(WandbLogger)
@send_results.register(TensorBoardLogger)
def results_with_figures(logger: WandbLogger | TensorBoardLogger, results: Results) -> None:
    """Show the scores, and figures and pictures with them; what cannot be shown costs a warning, never the run.

    W&B also gets tables of scores and of samples, the confusion matrix and the ROC curve; both get histograms of the
    posteriors.
    """
    logger.log_metrics(dict(results.metrics), step=results.step)
    if not is_first():
        return
    send = _to_wandb if isinstance(logger, WandbLogger) else _to_tensorboard
    try:
        with _figures(results) as figures:
            send(logger, results, figures)
    except Exception as error:  # a picture less must not lose a trained model
        warnings.warn(
            f"the details of the evaluator {results.name!r} did not reach {type(logger).__name__}: "
            f"{type(error).__name__}: {error}",
            stacklevel=2,
        )


def _to_wandb(logger: Any, results: Results, figures: Mapping[str, Path]) -> None:
    import wandb

    run = logger.experiment
    images = {key: wandb.Image(str(path)) for key, path in figures.items()}
    scores = run_rows(results.model, results.seed, results.metrics, {results.name: results.details})
    answers = () if wandb_arguments(logger).log_model else None  # who was forgotten goes where models go
    tables = {f"{results.name}/scores": rows_table(scores), **media_of(results, answers)}
    run.log({**tables, **images, "trainer/global_step": results.step})
    run.summary.update(dict(results.metrics))


def _to_tensorboard(logger: Any, results: Results, figures: Mapping[str, Path]) -> None:
    from matplotlib.image import imread

    writer = logger.experiment
    for set_name, values in results.details.get("posteriors", {}).items():
        tag = f"{results.name}/posteriors/{set_name.replace(' ', '_')}"
        writer.add_histogram(tag, np.asarray(values), results.step)
    for key, path in figures.items():
        image = imread(str(path))  # PNG: float32 in [0, 1], (H, W) or (H, W, channels)
        writer.add_image(key, image, results.step, dataformats="HWC" if image.ndim == 3 else "HW")
    writer.flush()


def _finish_with_process(logger: WandbLogger) -> None:
    """Have a run that a forked process opened be finished when the process ends.

    It ends without its ``atexit`` hooks, by which W&B would have written the rest of the run's file. A spawned process
    only joins the run of the one above, where it goes on.
    """
    if parent_process() is not None and not joins_a_run(logger):
        Finalize(None, logger.experiment.finish, exitpriority=0)


@contextmanager
def _figures(results: Results) -> Iterator[dict[str, Path]]:
    """Draw the report's figures of this one run, and give them with the evaluator's own pictures, as files."""
    models = by_model(results.model, results.metrics)
    runs = {model: {results.seed: values} for model, values in models.items()}
    report = build_report(runs, seeds=[results.seed], config={}, data={}, environment={})
    run = {**results.details, results.name: results.details}
    details = cast(Details, {results.model: {results.seed: run}})
    with TemporaryDirectory() as folder:
        drawn = draw_figures(report, folder, details)
        yield {
            **{f"{results.name}/figures/{path.stem}": path for path in drawn},
            **{f"{results.name}/pictures/{path.stem}": path for path in results.pictures},
        }
