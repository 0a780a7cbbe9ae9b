"""Comparisons with W&B: real offline runs, read back record by record."""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toys import Net
from helpers.wandb_files import OfflineRun, read_run, runs_below
from helpers.wandb_server import wandb_server
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from test_compare import CPU, reference_kl, toy_compare

from lightning_unlearn import MethodRun
from lightning_unlearn.cli.main import main
from lightning_unlearn.comparison.trainers import split_loggers, trainer_loggers
from lightning_unlearn.methods import ReferenceKL
from lightning_unlearn.models import Classifier
from lightning_unlearn.reports import read_json
from lightning_unlearn.reports.answer import answer_of, gap_closed
from lightning_unlearn.reports.tidy import TIDY_COLUMNS

IDS = """
source:
  model:
    class_path: Classifier
    init_args:
      net: {class_path: lightning_unlearn.models.MLP, init_args: {in_features: 64, hidden: [8], num_classes: 10}}
  trainer: {max_epochs: 1}
data: {class_path: UnlearningDataModule, init_args: {datamodule: {class_path: Digits}}}
methods: [{name: fine_tune, method: FineTune, trainer: {max_epochs: 1}}]
seeds: 1
retrain_2: false
short_retrainings: []
trainer:
  accelerator: cpu
  logger: {class_path: WandbLogger, init_args: {project: tests}}
"""
TIMES = ("time/prepare_s", "time/unlearn_s", "time/total_s", "time/cpu_s")


def faster(source: torch.nn.Module) -> ReferenceKL:
    """So fast that two epochs of two steps are seen in the accuracies."""
    return ReferenceKL(source, reference_epochs=2, optimizer=lambda p: torch.optim.Adam(p, 0.05))


def offline(**arguments: Any) -> dict[str, Any]:
    return {**CPU, "logger": WandbLogger(offline=True, project="tests", **arguments)}


def no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may be logged in."""
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture
def environment() -> Iterator[pytest.MonkeyPatch]:
    """Undo before the guard of all tests looks, W&B's own variables included."""
    import wandb

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE", raising=False)
        yield patch
        wandb.teardown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One comparison over two seeds, with W&B from the start."""
    import wandb

    root = tmp_path_factory.mktemp("comparison") / "digits"
    methods = [MethodRun(faster, "reference_kl", {"max_epochs": 2})]
    result = toy_compare(root, methods=methods, trainer=offline(tags=["mine"]))
    assert not result.failed
    yield root
    wandb.teardown()


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, OfflineRun]:
    return {run.name: run for run in runs_below(folder)}


@pytest.fixture(autouse=True)
def _no_service_left(folder: Path) -> Iterator[None]:
    """The service that the module's comparison started is none that a test leaves behind."""
    yield
    os.environ.pop("WANDB_SERVICE", None)


@pytest.mark.slow
def test_one_run_a_model_and_seed_and_one_that_sums_up(runs: dict[str, OfflineRun]) -> None:
    models = ("source", "retrain", "reference_kl")
    assert set(runs) == {f"{model}/seed_{seed}" for model in models for seed in (0, 1)} | {"digits"}
    for name, run in runs.items():
        assert (run.project, run.group, run.exit_code) == ("tests", "digits", 0), name
        model = name.partition("/")[0]
        job = {"source": "source", "retrain": "retrain", "digits": "evaluate"}.get(model, "unlearn")
        assert run.job_type == job
        assert run.tags == ["mine", "comparison" if name == "digits" else model]


def test_the_configuration_says_what_was_run_and_from_what(runs: dict[str, OfflineRun], folder: Path) -> None:
    config = runs["reference_kl/seed_1"].config
    assert config["model"] == "reference_kl"
    assert config["seeds"] == json.loads((folder / "reference_kl/seed_1/config.json").read_text())["seeds"]
    assert config["trained"]["class"] == "lightning_unlearn.methods.reference_kl.ReferenceKL"
    assert config["trained"]["arguments"]["reference_epochs"] == 2
    assert config["parameters"] == sum(p.numel() for p in Classifier(Net()).parameters())
    assert {"lightning_unlearn", "torch", "lightning", "wandb", "python"} <= config["versions"].keys()
    files = {"model": "reference_kl/seed_1/model.ckpt", "source": "source/seed_1/model.ckpt"}  # fmt: skip
    for part, file in files.items():
        digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        assert config["lineage"][part]["sha256"] == digest, part
    assert "source" not in runs["source/seed_0"].config["lineage"]


def test_curves_stand_against_the_step(runs: dict[str, OfflineRun], folder: Path) -> None:
    for name in ("source/seed_0", "reference_kl/seed_0"):
        run = runs[name]
        assert run.step_metrics["*"] == "trainer/global_step"
        with (folder / name / "log" / "metrics.csv").open() as file:
            rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
        assert rows
        for row, logged in zip(rows, run.history, strict=False):
            step = row.pop("step")
            assert logged["trainer/global_step"] == step
            assert {key: logged[key] for key in row} == row
    assert any("train/loss" in row for row in runs["source/seed_0"].history)


def test_accuracies_on_the_sets_have_a_curve_over_the_epochs(runs: dict[str, OfflineRun]) -> None:
    source, run = runs["source/seed_0"], runs["reference_kl/seed_0"]
    names = {f"accuracy/{stream}" for stream in ("forget", "retain", "test")}
    rows = [row for row in run.history if names <= row.keys()]
    steps = 2  # an epoch: 12 samples to forget in batches of 8
    assert [row["trainer/global_step"] for row in rows] == [0, steps, 2 * steps]
    for name in names:
        # this method starts from the source, and the audit sees what the last epoch left
        assert rows[0][name] == pytest.approx(source.summary[name])
        assert rows[-1][name] == pytest.approx(run.summary[name])
    assert len({tuple(row[name] for name in names) for row in rows}) > 1, (
        "a curve that never moves shows nothing"
    )


def test_the_summary_holds_scores_times_and_memory(runs: dict[str, OfflineRun], folder: Path) -> None:
    name = "reference_kl/seed_0"
    summary, run = runs[name].summary, folder / name
    assert {
        key: summary[key] for key in json.loads((run / "metrics.json").read_text())["metrics"]
    } == json.loads((run / "metrics.json").read_text())["metrics"]
    times = json.loads((run / "training.json").read_text())["times"]  # and what the method itself measured
    assert times.keys() > set(TIMES)
    assert {key: summary[key] for key in times} == times
    report = read_json(folder / "report.json")
    accelerations = report["models"]["reference_kl"]["acceleration"]["values"]
    assert summary["acceleration"] == pytest.approx(accelerations[0])
    assert "acceleration" not in runs["source/seed_0"].summary
    if sys.platform == "linux":
        assert 50 < summary["memory/process_peak_mib"] < 100_000


def test_summaries_hold_what_runs_are_filtered_by(runs: dict[str, OfflineRun], folder: Path) -> None:
    report = read_json(folder / "report.json")
    share = gap_closed(report, "reference_kl")
    for seed in (0, 1):
        summary = runs[f"reference_kl/seed_{seed}"].summary
        assert (summary["verdict"], summary["answer"]) == ("illustration", "cannot tell"), "two seeds"
        assert summary.get("gap_closed") == (None if share is None else pytest.approx(share))
        assert "verdict" not in runs[f"source/seed_{seed}"].summary
    summary, answer = runs["digits"].summary, answer_of(report)
    assert answer is not None
    assert (summary["answer"], summary["answer/method"]) == ("cannot tell", "reference_kl")
    assert summary["answer/cost"] == answer.cost
    assert summary["verdict/reference_kl"] == "illustration"
    assert [row[:2] for row in runs["digits"].table("verdicts")["data"]] == [["reference_kl", "cannot tell"]]


def test_answers_are_noted_sample_by_sample_and_not_sent(runs: dict[str, OfflineRun], folder: Path) -> None:
    name = "reference_kl/seed_0"
    audit = json.loads((folder / name / "metrics.json").read_text())
    columns = {key: np.array(values) for key, values in audit["details"]["forgetting"]["answers"].items()}
    assert set(columns) == {"label", "before", "after", "retrained"}
    before = json.loads((folder / "source/seed_0/metrics.json").read_text())["metrics"]
    assert (columns["after"] == columns["label"]).mean() == pytest.approx(audit["metrics"]["accuracy/forget"])
    assert (columns["before"] == columns["label"]).mean() == pytest.approx(before["accuracy/forget"])
    assert not any("forgetting/answers" in row for row in runs[name].history)


@pytest.mark.slow
def test_ids_are_nowhere_in_a_run_and_pictures_where_models_go(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    """A real offline run of a command line that names samples, read back byte by byte."""
    environment.setenv("WANDB_MODE", "offline")
    out, ids = tmp_path / "out", "[1401, 1402, 1403, 1404]"
    (tmp_path / "compare.yaml").write_text(IDS)
    given = ["compare", f"--config={tmp_path / 'compare.yaml'}", f"--output_dir={out}", "--quiet=true"]
    for log_model in ("false", "true"):
        environment.setenv("LIGHTNING_UNLEARN_ARGUMENTS", "[]")
        forget = f"--data.init_args.forget={ids}"
        sending = f"--trainer.logger.init_args.log_model={log_model}"
        environment.setattr(sys, "argv", ["lightning-unlearn", *given, forget, sending])
        with pytest.warns(UserWarning, match="forget: ids on the command line"):
            assert main() == 0
        runs = {run.name: run for run in runs_below(out)}
        assert set(runs) == {"source/seed_0", "retrain/seed_0", "fine_tune/seed_0", "out"}
        run = runs["fine_tune/seed_0"]
        assert any("forgetting/answers" in row for row in run.history) == (log_model == "true")
        if log_model == "true":
            columns = ["image", "sample", "label", "before", "after", "retrained"]
            assert run.table("forgetting/answers")["columns"] == columns
        for file in (path for path in (out / "wandb").rglob("*") if path.is_file()):
            raw = file.read_bytes()
            assert not re.search(rb"1401\W{1,6}1402|(?<![\w.])1403(?![\w.])", raw), file
        assert any(b"4 ids" in run.path.read_bytes() for run in runs.values()), "the command line is there"
        shutil.rmtree(out / "wandb")
        for mark in list(out.rglob("wandb.json")):
            mark.unlink()


def test_tables_and_charts_hold_the_details(runs: dict[str, OfflineRun], folder: Path) -> None:
    name = "retrain/seed_1"
    run, audit = runs[name], json.loads((folder / name / "metrics.json").read_text())
    found = audit["details"]["membership_inference"]
    scores = run.table("scores")
    assert scores["columns"] == TIDY_COLUMNS
    by_metric = {row[1]: row for row in scores["data"]}
    assert {metric: row[3] for metric, row in by_metric.items()} == audit["metrics"]
    auc = by_metric["membership_inference/auc"]
    assert (auc[0], auc[2]) == ("retrain", 1)
    assert auc[4:] == found["ci95"]["auc"]
    assert by_metric["accuracy/test"][4:] == [None, None]
    roc = run.table("membership_inference/roc_table")
    assert roc["data"] == [list(point) for point in zip(found["fpr"], found["tpr"], strict=True)]
    confusion = {
        (truth, said): n for truth, said, n in run.table("membership_inference/confusion_table")["data"]
    }
    assert confusion["member", "member"] == found["confusion"][0][0]
    assert confusion["never trained on", "member"] == found["confusion"][1][0]
    charts = run.config["_wandb"]["visualize"]
    assert (
        charts["membership_inference/confusion"]["panel_config"]["panelDefId"] == "wandb/confusion_matrix/v1"
    )
    chart = charts["membership_inference/roc"]["panel_config"]
    assert chart["panelDefId"] == "wandb/line/v0", "a chart, and not a table alone"
    fields = {"x": "false positive rate", "y": "true positive rate"}
    assert chart["fieldSettings"].items() >= fields.items()
    assert chart["stringSettings"]["title"] == "Membership inference on retrain: ROC"
    posteriors = audit["details"]["forgetting"]["posteriors"]["forget set"]
    histogram = run.last("forgetting/posteriors/forget_set")
    assert histogram["values"] == np.histogram(posteriors, 25, (0, 1))[0].tolist()


def test_the_summing_run_holds_the_tidy_table_the_figures_and_the_report(
    runs: dict[str, OfflineRun], folder: Path
) -> None:
    run, report = runs["digits"], read_json(folder / "report.json")
    table = run.table("comparison")
    assert table["columns"] == TIDY_COLUMNS
    rows = {tuple(row[:3]): row[3:] for row in table["data"]}
    numbers = 0
    for model, metrics in report["models"].items():
        for metric, value in metrics.items():
            assert run.summary[f"{model}/{metric}"] == value["mean"]
            for seed, number in zip(report["seeds"], value["values"], strict=True):
                if number is not None:
                    assert rows[model, metric, seed] == [number, None, None], "two seeds have no interval"
                    numbers += 1
    assert len(table["data"]) == numbers
    overview = run.table("overview")
    assert [row[0] for row in overview["data"]] == ["source", "retrain", "reference_kl"]
    pictures = {path.stem for path in (folder / "figures").glob("*.png")}
    logged = {
        key.removeprefix("figures/") for row in run.history for key in row if key.startswith("figures/")
    }
    assert logged == pictures
    for name in pictures:
        image = folder.glob(f"wandb/*/files/{run.last(f'figures/{name}')['path']}")
        assert next(image).read_bytes() == (folder / "figures" / f"{name}.png").read_bytes()
    (artifact,) = [a for a in run.artifacts if a.type == "evaluation"]
    assert artifact.name == "digits-report"
    assert {entry.path for entry in artifact.manifest.contents} == {"report.json", "report.html"}
    for file in ("report.json", "report.html"):
        assert run.config["report"][file] == hashlib.sha256((folder / file).read_bytes()).hexdigest()
    assert run.config["runs"] == {name: each.id for name, each in runs.items() if name != "digits"}


def test_no_model_leaves_unless_asked_for(runs: dict[str, OfflineRun]) -> None:
    sent = {artifact.type for run in runs.values() for artifact in run.artifacts}
    assert sent == {"run_table", "evaluation"}


def test_wandb_sync_takes_the_runs(folder: Path) -> None:
    paths = sorted(map(str, (folder / "wandb").glob("offline-run-*")))
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", *paths]
    printed = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    assert re.search(rf"Would sync {len(paths)} run", printed.stdout + printed.stderr)


@pytest.mark.slow
def test_wandb_sync_sends_the_runs(folder: Path, runs: dict[str, OfflineRun], tmp_path: Path) -> None:
    sent = [runs[name] for name in ("reference_kl/seed_0", "digits")]
    copies = [shutil.copytree(run.path.parent, tmp_path / run.path.parent.name) for run in sent]
    with wandb_server() as server:
        command = [sys.executable, "-m", "wandb", "sync", *map(str, copies)]
        told = {**os.environ, **server.environment}
        subprocess.run(command, env=told, cwd=tmp_path, check=True, capture_output=True)
    assert server.unknown == set()
    for run in sent:
        told = server.runs[run.id]
        assert (told["displayName"], told["groupName"], told["jobType"]) == (run.name, "digits", run.job_type)
        lines = server.lines[run.id]
        assert len(lines["wandb-history.jsonl"]) == len(run.history)
        summary = lines["wandb-summary.json"][-1]
        assert {key: summary[key] for key in run.summary if "/" in key} == {
            key: value for key, value in run.summary.items() if "/" in key
        }
        names = {path for path in server.uploads if path.startswith(f"{run.id}/")}
        assert {f"{run.id}/{file}" for file in run.files} <= names
    content = (folder / "report.html").read_bytes()
    assert server.uploads["digits-report/report.html"] == content


ONLINE = """
import sys
from pathlib import Path
from lightning.pytorch.loggers import WandbLogger
from test_compare import CPU, toy_compare
logger = WandbLogger(project="tests", log_model=True)
result = toy_compare(Path(sys.argv[1]), seeds=1, trainer={**CPU, "logger": logger})
sys.exit(result.failed)
"""


@pytest.mark.slow
def test_online_models_are_sent_with_what_they_were_made_from(tmp_path: Path) -> None:
    """In a process of its own: W&B keeps a login to the end of one."""
    with wandb_server() as server:
        told = {**os.environ, **server.environment, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        told.pop("WANDB_SERVICE", None)  # that of the module's comparison
        command = [sys.executable, "-c", ONLINE, str(tmp_path / "out")]
        subprocess.run(command, env=told, cwd=tmp_path, check=True, capture_output=True)
    assert server.unknown == set()
    mark = json.loads((tmp_path / "out" / "reference_kl" / "seed_0" / "wandb.json").read_text())
    assert mark["judged"]["verdict"] == "illustration", "the end is told to a run that the server has already"
    names = {run["displayName"]: name for name, run in server.runs.items()}
    used: dict[str, set[str]] = {}
    for use in server.variables("UseArtifact"):
        used.setdefault(use["runName"], set()).add(use["artifactID"])
    models = {name: f"out-{name}-seed_0" for name in ("source", "retrain", "reference_kl")}
    assert names["source/seed_0"] not in used
    for name in ("retrain", "reference_kl"):
        assert used[names[f"{name}/seed_0"]] == {models["source"], "out-split"}
    assert used[names["out"]] == set(models.values())
    for name, artifact in models.items():
        content = (tmp_path / "out" / name / "seed_0" / "model.ckpt").read_bytes()
        assert server.uploads[f"{artifact}/model.ckpt"] == content
    assert {"out-split/split.npz", "out-report/report.json"} <= server.uploads.keys()


@pytest.mark.slow
def test_what_is_written_is_not_written_again(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    root = tmp_path / "out"
    toy_compare(root, seeds=1)
    assert not (root / "wandb").exists()
    toy_compare(root, seeds=1, trainer=offline())
    first = {run.id: run.name for run in runs_below(root)}
    assert len(first) == 4, "a comparison that is finished can be sent later"
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob("model.ckpt")}
    toy_compare(root, seeds=1, trainer=offline())
    assert {run.id for run in runs_below(root)} == set(first)
    shutil.rmtree(root / "reference_kl")
    toy_compare(root, seeds=1, trainer=offline())
    new = sorted(run.name for run in runs_below(root) if run.id not in first)
    assert new == ["out", "reference_kl/seed_0"]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if "reference_kl" not in str(path))  # fmt: skip
    toy_compare(root, seeds=1, trainer=offline(group="elsewhere", name="again"))
    elsewhere = [run for run in runs_below(root) if run.group == "elsewhere"]
    assert {run.name for run in elsewhere} == {f"again {name}" for name in first.values()}


@pytest.mark.slow
def test_models_that_are_sent_are_the_exported_ones(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(project="tests", log_model=True, save_dir=tmp_path / "files")
    toy_compare(tmp_path / "o u t", seeds=1, trainer={**CPU, "logger": logger, "enable_checkpointing": True})
    runs = {run.name: run for run in runs_below(tmp_path / "files")}
    assert len(runs) == 4
    for model in ("source", "retrain", "reference_kl"):
        (artifact,) = [a for a in runs[f"{model}/seed_0"].artifacts if a.type == "model"]
        assert artifact.name == f"o-u-t-{model}-seed_0"
        (entry,) = artifact.manifest.contents
        assert entry.path == "model.ckpt"
        assert entry.size == (tmp_path / "o u t" / model / "seed_0" / "model.ckpt").stat().st_size
    (split,) = [a for a in runs["source/seed_0"].artifacts if a.type == "dataset"]
    assert [entry.path for entry in split.manifest.contents] == ["split.npz"]


@pytest.mark.slow
def test_trouble_with_wandb_costs_a_warning_only(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="was not written to W&B: FileExistsError"):
        result = toy_compare(tmp_path / "out", seeds=1, trainer=offline(save_dir=tmp_path / "file"))
    assert not result.failed
    assert not list((tmp_path / "out").rglob("wandb.json")), "the next start would not try again"


@pytest.mark.slow
def test_without_a_login_nobody_is_asked(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    no_login(environment)
    logger = WandbLogger(project="tests")
    with pytest.warns(UserWarning, match="no login to W&B was found"):
        result = toy_compare(tmp_path / "out", seeds=1, methods=[], trainer={**CPU, "logger": logger})
    assert not result.failed
    assert len(runs_below(tmp_path / "out")) == 3


def test_disabled_is_disabled(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WANDB_MODE", "disabled")
    toy_compare(tmp_path, seeds=1, methods=[], trainer={**CPU, "logger": WandbLogger(project="tests")})
    assert not list(tmp_path.rglob("*.wandb"))
    assert not list(tmp_path.rglob("wandb.json"))


@pytest.mark.slow
def test_two_processes_write_one_run_each_once(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    trainer = {**offline(), "strategy": "ddp_fork", "devices": 2}
    result = toy_compare(tmp_path / "out", seeds=1, trainer=trainer)
    assert not result.failed
    names = [run.name for run in runs_below(tmp_path / "out")]
    assert sorted(names) == ["out", "reference_kl/seed_0", "retrain/seed_0", "source/seed_0"]


AGENT = """
import sys
from lightning_unlearn.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_an_agents_trial_is_one_run(tmp_path: Path) -> None:
    """In a process of its own, as an agent starts it: W&B reads its variables once."""
    import yaml
    from wandb.sdk.launch.sweeps import utils

    repository = Path(__file__).resolve().parents[2]
    (tmp_path / "configs").symlink_to(repository / "configs")
    sweep = yaml.safe_load((repository / "configs/sweeps/cf_k.yaml").read_text())
    values = utils.create_sweep_command_args({"args": {"methods.method.init_args.k": {"value": 2}}})["args"]
    command = [word for part in sweep["command"] for word in (values if part == "${args}" else [part])]
    given = {
        "WANDB_MODE": "offline",
        "WANDB_SWEEP_ID": "sweep1",
        "WANDB_RUN_ID": "trial7",
        "WANDB_PROJECT": "p",
    }
    subprocess.run(
        [sys.executable, "-c", AGENT, *command[1:], "--seeds=1", "--trainer.limit_train_batches=2"],
        cwd=tmp_path,
        env={**os.environ, **given},
        check=True,
        capture_output=True,
    )
    (run,) = runs_below(tmp_path)
    assert run.id == "trial7"
    assert sweep["metric"]["name"] == "cf_k/similarity"
    assert 0 <= run.summary["cf_k/similarity"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trainer": {"logger": WandbLogger(id="x")}}, "describes one run"),
        ({"trainer": {"logger": WandbLogger(job_type="x")}}, "describes one run"),
        ({"trainer": {"logger": WandbLogger(prefix="x")}}, "without prefix"),
        ({"trainer": {"logger": [WandbLogger(), WandbLogger()]}}, "two WandbLoggers"),
        (
            {"methods": [MethodRun(reference_kl, "a", {"max_epochs": 1, "logger": WandbLogger()})]},
            "trainer of 'a': a WandbLogger belongs into the comparison's own trainer",
        ),
    ],
)
def test_what_one_run_only_could_do_is_refused(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        toy_compare(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_loggers_are_told_apart(tmp_path: Path) -> None:
    described = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"offline": True}}
    short = {"class_path": "WandbLogger"}
    csv_logger, board = (
        CSVLogger(tmp_path),
        {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "x"}},
    )
    for given in (described, short, [board, described, csv_logger], WandbLogger()):
        wandb, others = split_loggers(given)
        assert isinstance(wandb, WandbLogger)
        assert others == ([board] if isinstance(given, list) else [])
    assert split_loggers(None) == split_loggers(True) == split_loggers([]) == (None, [])
    assert split_loggers(False) == (None, False)
    with pytest.raises(TypeError, match="give a logger, or class_path"):
        split_loggers("WandbLogger")
    with pytest.raises(TypeError, match="does not correspond to a subclass of Logger"):
        split_loggers({"class_path": "collections.OrderedDict"})


def test_tensorboard_is_written_beside_csv(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    board = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(tmp_path / "board")}}
    loggers = trainer_loggers([board], CSVLogger(tmp_path), "wgan", 3)
    assert loggers
    assert [type(logger) for logger in loggers] == [CSVLogger, TensorBoardLogger]
    assert Path(str(loggers[1].log_dir)) == tmp_path / "board" / "wgan" / "seed_3"
    assert trainer_loggers(False, CSVLogger(tmp_path), "wgan", 3) is False


@pytest.mark.slow
def test_no_logger_means_no_log(tmp_path: Path) -> None:
    toy_compare(tmp_path, seeds=1, methods=[], trainer={**CPU, "logger": False})
    assert not list(tmp_path.rglob("metrics.csv"))
    assert (tmp_path / "source" / "seed_0" / "facts.json").is_file()


def test_the_reader_notices_a_broken_file(folder: Path, tmp_path: Path) -> None:
    path = next(folder.rglob("*.wandb"))
    content = path.read_bytes()
    broken = tmp_path / "broken.wandb"
    broken.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(AssertionError):
        read_run(broken)
    broken.write_bytes(content[:-3])
    with pytest.raises(AssertionError):
        read_run(broken)
