"""What loggers are shown in a fit: curves, scores and details, in a real offline run, TensorBoard files and CSV."""

import csv
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.toys import quiet_trainer, toy_data, toy_source
from helpers.wandb_files import OfflineRun, runs_below
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from torch import Tensor, nn

from lightning_unlearn import MembershipInference, ReferenceKL, TopK
from lightning_unlearn.callbacks import Audit, Evaluator, ForgettingMetrics
from lightning_unlearn.engine.telling import Results, send_results
from lightning_unlearn.trackers.media import media_of

EVERY = 3


class Watched(ReferenceKL):
    """Notes what its curves must say."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__(source, reference_epochs=1)
        self.right: list[dict[str, float]] = []
        self.norms: list[float] = []

    def stream_logits(self, *batches: Any) -> list[tuple[Tensor, Tensor]]:
        answers = super().stream_logits(*batches)
        if self.trainer.training:
            shares = [float((logits.argmax(1) == targets).float().mean()) for logits, targets in answers]
            self.right.append(dict(zip(("forget", "retain"), shares, strict=True)))
        return answers

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        squares = [
            float(p.grad.double().square().sum()) for p in self.model.parameters() if p.grad is not None
        ]
        self.norms.append(sum(squares) ** 0.5)
        super().on_before_optimizer_step(optimizer)


class PerSample(Evaluator):
    """Notes something about every sample, and draws a picture."""

    default_name = "per_sample"
    short = False

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        from matplotlib.figure import Figure

        posteriors = audit.outputs(model, "forget").posteriors
        scores = posteriors.amax(dim=1).tolist()
        audit.details["samples"] = {
            "sample": list(range(len(scores) - self.short)),
            "set": ["forget set"] * len(scores),
            "score": scores,
        }
        folder = self._folder(audit.runtime.trainer) if audit.runtime.trainer is not None else None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            Figure(figsize=(1, 1)).savefig(folder / f"{self.name}.png")
        return {f"{self.name}/mean": float(posteriors.amax(dim=1).mean())}


def fit(method: L.LightningModule, *evaluators: Evaluator, **trainer: Any) -> L.Trainer:
    arguments = {"max_epochs": 4, "log_every_n_steps": EVERY, "limit_val_batches": 0, **trainer}
    fitted = quiet_trainer(callbacks=list(evaluators), **arguments)
    fitted.fit(method, toy_data(nonmember=10))
    return fitted


@pytest.fixture
def offline() -> Iterator[None]:
    """Undo before the guard of all tests looks what Lightning and W&B leave in the environment."""
    import wandb

    before = os.environ.get("WANDB_MODE")
    yield
    wandb.teardown()
    os.environ.pop("WANDB_MODE", None)
    if before is not None:
        os.environ["WANDB_MODE"] = before


def finished(logger: WandbLogger, folder: Path) -> OfflineRun:
    logger.experiment.finish()
    (run,) = runs_below(folder)
    return run


def test_one_run_holds_curves_scores_and_details(tmp_path: Path, offline: None) -> None:
    method = Watched(toy_source())
    inference = MembershipInference(bootstrap=10, attack="logistic")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="tests")
    trainer = fit(method, inference, ForgettingMetrics(), PerSample(), logger=logger)
    run = finished(logger, tmp_path)

    steps = [row["trainer/global_step"] for row in run.history if "train/loss" in row]
    assert steps == list(range(EVERY - 1, len(method.norms), EVERY)), "logged at the interval, and no more"
    for row in run.history:
        if "train/loss" in row:
            step = row["trainer/global_step"]
            assert row["train/gradient_norm"] == pytest.approx(method.norms[step], rel=1e-5)  # float32
            for stream, share in method.right[step].items():
                assert row[f"train/accuracy_{stream}"] == pytest.approx(share)
            assert {"train/kl", "train/ce"} <= row.keys()
    assert run.step_metrics["*"] == "trainer/global_step"

    for evaluator in (inference, *[c for c in trainer.callbacks if isinstance(c, ForgettingMetrics)]):  # type: ignore[attr-defined]
        for name, value in evaluator.results.items():
            assert run.summary[name] == pytest.approx(value), name
    assert {"time/prepare_s", "time/unlearn_s", "time/total_s", "source/accuracy/test"} <= run.summary.keys()
    scores = run.table("membership_inference/scores")
    rows = {(row[0], row[1]): row[3:] for row in scores["data"]}
    auc = "membership_inference/auc"
    assert rows["Watched", auc] == [inference.results[auc], *inference.details["ci95"]["auc"]]
    assert rows["source", auc] == [inference.results[f"source/{auc}"], None, None]
    assert run.table("membership_inference/roc_table")["data"][0] == [0.0, 0.0]
    samples = run.table("per_sample/samples")
    assert samples["columns"] == ["sample", "set", "score"]
    assert [row[0] for row in samples["data"]] == list(range(12))

    pictures = {key for row in run.history for key in row if "/figures/" in key or "/pictures/" in key}
    assert {
        "membership_inference/figures/membership_roc",
        "per_sample/pictures/per_sample",
    } <= pictures
    assert sum(run.last("forgetting/posteriors/forget_set")["values"]) == 12
    facts = run.config["lightning_unlearn"]
    assert facts["model"].endswith("test_wandb_fit.Watched")
    assert facts["source"] == "lightning_unlearn.models.classifier.Classifier"
    assert (facts["n_forget"], facts["n_nonmember"]) == (12, 10)
    assert torch.__version__.startswith(facts["versions"]["torch"])
    assert not [artifact for artifact in run.artifacts if artifact.type == "model"]
    results = tmp_path / "tests" / run.id / "evaluation" / "per_sample.json"
    assert results.is_file(), "two runs of one project would replace each other's results"


def test_without_an_evaluator_curves_and_configuration_are_there(tmp_path: Path, offline: None) -> None:
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="tests")
    fit(Watched(toy_source()), logger=logger, limit_val_batches=1.0, max_epochs=2)
    run = finished(logger, tmp_path)
    facts = run.config["lightning_unlearn"]
    assert facts["model"].endswith("test_wandb_fit.Watched")
    assert torch.__version__.startswith(facts["versions"]["torch"])
    for stream in ("forget", "retain", "test"):
        assert sum(f"accuracy/{stream}" in row for row in run.history) == 2, "once an epoch"


@pytest.mark.slow
def test_under_two_processes_there_is_one_run(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a process that joins a run keeps its log where it was started
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="tests")
    fit(ReferenceKL(toy_source(), reference_epochs=1), ForgettingMetrics(), logger=logger, strategy="ddp_spawn", devices=2)  # fmt: skip
    run = finished(logger, tmp_path)
    assert len([row for row in run.history if "forgetting/scores" in row]) == 1
    assert "train/accuracy_retain" in {key for row in run.history for key in row}


def test_a_forked_process_leaves_its_run_whole(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="tests")
    evaluators = [ForgettingMetrics(), PerSample()]
    trainer = fit(ReferenceKL(toy_source(), reference_epochs=1), *evaluators, logger=logger, strategy="ddp_fork", devices=2)  # fmt: skip
    (run,) = runs_below(tmp_path)
    assert run.exit_code == 0
    for name in ("accuracy/forget", "source/accuracy/test", "per_sample/mean", "time/total_s"):
        assert run.summary[name] == pytest.approx(float(trainer.callback_metrics[name])), name
    assert len([row for row in run.history if "forgetting/scores" in row]) == 1


def test_what_cannot_be_shown_costs_a_warning(tmp_path: Path, offline: None) -> None:
    broken = PerSample()
    broken.short = True
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="tests")
    with pytest.warns(UserWarning, match="did not reach WandbLogger: ValueError: details\\['samples'\\]"):
        fit(ReferenceKL(toy_source(), reference_epochs=1), broken, logger=logger, max_epochs=1)
    assert broken.error is None
    assert finished(logger, tmp_path).summary["per_sample/mean"] == pytest.approx(
        broken.results["per_sample/mean"]
    )


def test_csv_gets_the_scalars(tmp_path: Path) -> None:
    method = TopK(toy_source(), k=5)
    fit(method, ForgettingMetrics(), logger=CSVLogger(tmp_path, name="", version=""))
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    curves = [row for row in rows if row["train/gradient_norm"]]
    assert curves
    assert all(row["train/loss"] and row["train/accuracy_forget"] for row in curves)
    assert float(rows[-1]["accuracy/test"]) == pytest.approx(
        float(fit_metric(rows, "accuracy/test")), abs=1e-12
    )
    assert float(fit_metric(rows, "time/total_s")) == pytest.approx(method.times["time/total_s"])
    assert not list(tmp_path.rglob("*.png")), "figures are drawn for those who can see them"


def fit_metric(rows: list[dict[str, str]], name: str) -> str:
    return next(row[name] for row in rows if row[name])


def test_without_a_logger_nothing_is_computed_for_one() -> None:
    trainer = fit(ReferenceKL(toy_source(), reference_epochs=1), logger=False)
    assert "train/loss" in trainer.callback_metrics
    assert not {"train/gradient_norm", "train/accuracy_forget"} & trainer.callback_metrics.keys()


def test_tensorboard_gets_histograms_and_figures(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path, name="", version="")
    evaluators = [MembershipInference(bootstrap=10, attack="logistic"), ForgettingMetrics(), PerSample()]
    fit(ReferenceKL(toy_source(), reference_epochs=1), *evaluators, logger=logger)
    logger.finalize("success")
    events = accumulators.EventAccumulator(str(tmp_path)).Reload()
    assert "forgetting/posteriors/forget_set" in events.Tags()["histograms"]
    histogram = events.Histograms("forgetting/posteriors/forget_set")[-1].histogram_value
    assert histogram.num == 12
    assert {
        "membership_inference/figures/membership_roc",
        "per_sample/pictures/per_sample",
    } <= set(events.Tags()["images"])
    assert {"accuracy/test", "train/gradient_norm", "time/total_s"} <= set(events.Tags()["scalars"])


def test_another_kind_of_logger_gets_the_scores(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    send_results(
        logger, Results("own", {"own/score": 0.5}, {"samples": {"a": [1]}}, model="m", seed=0, step=7)
    )
    logger.save()
    (file,) = tmp_path.rglob("metrics.csv")
    assert file.read_text().splitlines() == ["own/score,step", "0.5,7"]


def test_scores_of_samples_in_a_file_become_a_table(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", unlearned=[0.5, 0.25], matrix=[[1.0, 2.0]])
    results = Results("own", {}, {"samples": "own.npz"}, model="m", seed=0, folder=tmp_path)
    (table,) = media_of(results).values()
    assert table.columns == ["score", "place", "value"]
    assert table.data == [
        ["unlearned", "0", 0.5],
        ["unlearned", "1", 0.25],
        ["matrix", "0 0", 1.0],
        ["matrix", "0 1", 2.0],
    ]
    assert media_of(replace(results, folder=None)) == {}


def test_answers_of_who_was_forgotten_are_shown_only_where_models_go() -> None:
    results = Results("forgetting", {}, {"answers": {"label": [3], "after": [5]}}, model="m", seed=0)
    assert media_of(results) == {}
    (table,) = media_of(results, ()).values()
    assert table.data == [[1, 3, 5]]
