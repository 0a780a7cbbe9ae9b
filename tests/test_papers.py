"""The papers' experiments run as their files say, on tiny data in the published layouts, with fewer epochs and models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from helpers.layouts import write_all, write_celeba, write_purchase

from lightning_unlearn.cli.main import main
from lightning_unlearn.reports import FIGURES, Report, read_details
from lightning_unlearn.reports.figures.base import Chart

PAPERS = Path(__file__).resolve().parent.parent / "configs" / "papers"
FEW = {
    "reference_epochs": 1,
    "shadow_epochs": 2,
    "epochs": 1,
    "models": 3,
    "batch_size": 16,
    "nonmember": 12,
    "reference_fraction": 0.5,
    "retain_fraction": 0.5,
    "train_limit": 60,
    "image_size": 16,
}
NARROW: dict[str, dict[str, int]] = {
    **{name: {"width": 4} for name in ("ResNet18", "ResNet50", "ResNet101", "VGG16", "VGG19")},
    **{"DenseNet121": {"growth_rate": 4}, "WideResNet": {"depth": 10, "widen_factor": 1}},
}


def fewer(settings: Any, shorter: int) -> Any:
    """Return settings of a comparison with fewer epochs, models and samples, and narrower networks."""
    if isinstance(settings, list):
        return [fewer(each, shorter) for each in settings]
    if not isinstance(settings, dict):
        return settings
    less = {key: fewer(FEW.get(key, value), shorter) for key, value in settings.items()}
    if "max_epochs" in less:
        less["max_epochs"] = max(1, less["max_epochs"] // shorter)
    if isinstance(settings.get("forget"), float):
        less["forget"] = 0.2
    if (name := str(settings.get("class_path")).rpartition(".")[2]) in NARROW:
        less["init_args"] |= NARROW[name]
    return less


def run(name: str, scenarios: list[str] | None = None, shorter: int = 200, **own: Any) -> dict[str, Report]:
    """Run an experiment of a paper; return the reports by scenario, "" where there are none."""
    content = fewer(yaml.safe_load((PAPERS / f"{name}.yaml").read_text()), shorter)
    if scenarios:
        content["scenarios"] = {each: content["scenarios"][each] for each in scenarios}
    content |= {
        "seeds": 1,
        "retrain_2": False,
        "short_retrainings": [],
        "quiet": True,
        "output_dir": "out",
        **own,
    }
    content["trainer"] = {"accelerator": "cpu"}
    Path("small.yaml").write_text(yaml.safe_dump(content))
    assert main(["compare", "--config=small.yaml", "--threads=1"]) == 0
    found = {each: Path("out", each) for each in content.get("scenarios", [""])}
    reports = {each: json.loads((folder / "report.json").read_text()) for each, folder in found.items()}
    assert not any(report["failures"] for report in reports.values())
    return reports


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for module in (torchvision.datasets.svhn, torchvision.datasets.cifar):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: True)


@pytest.mark.slow
def test_celeba_gives_the_forgetting_quality_and_weighs_its_classes() -> None:
    write_celeba(Path("data"), 60)
    (report,) = run("akbari/celeba").values()
    for method in ("fine_tune", "neg_grad_plus"):
        measured = {name: value["mean"] for name, value in report["models"][method].items()}
        assert 0 <= measured["forgetting_quality/epsilon_mean"] <= 50
        assert 0 <= measured["forgetting_quality/score"] <= 1
        assert "forgetting_quality/final" in measured
    weights = {
        model: torch.load(f"out/{model}/seed_0/model.ckpt", weights_only=True)["hyper_parameters"][
            "class_weight"
        ]
        for model in ("source", "retrain", "fine_tune", "neg_grad_plus")
    }
    rows = [row.split() for row in Path("data/celeba/list_attr_celeba.txt").read_text().splitlines()[2:42]]
    young = np.array([int(row[2]) > 0 for row in rows])
    kept = np.ones(40, bool)
    kept[np.load("out/source/seed_0/split.npz")["forget"]] = False
    assert report["data"]["n_forget"] == 4, "one person of ten"

    def balanced(counted: np.ndarray) -> list[float]:
        return [len(counted) / (2 * (counted == kind).sum()) for kind in (0, 1)]

    assert weights.pop("retrain") == pytest.approx(balanced(young[kept])), "counted in what is kept"
    assert all(each == pytest.approx(balanced(young)) for each in weights.values())


def charts(report: Report, folder: str, filename: str) -> list[Chart]:
    """Return what the page of a comparison draws under such a name."""
    (figure,) = (each for each in FIGURES if each.filename == filename)
    return figure.charts(report, read_details(folder, report))


@pytest.mark.slow
def test_purchase_in_two_clusters_shows_posteriors_at_three_degrees_of_over_fitting() -> None:
    write_purchase(Path("data"), 150)
    sureness = []
    for name, report in run("chen_huang_wang_2021/figure_10", shorter=20, page=False).items():
        (chart,) = charts(report, f"out/{name}", "posteriors_*.png")
        panels = {panel.title: {one.name: one for one in panel.series} for panel in chart.panels}
        assert panels.keys() >= {"forget set", "non-member set"}
        for series in panels.values():
            assert list(series) == ["source", "retrain", "wgan"], "before, as it should be, and after"
        before = panels["forget set"]["source"]
        sureness.append(np.average(before.x[1:], weights=before.y))
    assert len(sureness) == 3
    assert sureness == sorted(sureness), (
        "the longer it is trained, the surer it is of what is to be forgotten"
    )


@pytest.mark.slow
def test_purchase_shows_the_weight_of_the_generators_loss() -> None:
    write_purchase(Path("data"), 300)
    (report,) = run("chen_huang_wang_2021/figures_8_9", shorter=20, page=False).values()
    (chart,) = charts(report, "out", "sweep_*.png")
    drawn = {panel.metric: panel.series[0] for panel in chart.panels}
    for metric in ("accuracy/test", "membership_inference/fnr", "membership_inference_top_3/auc"):
        assert list(drawn[metric].x) == [0.2, 0.4, 0.6, 0.8, 1.0]


EXPERIMENTS = sorted(str(file.relative_to(PAPERS).with_suffix("")) for file in PAPERS.rglob("*.yaml"))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs(name: str) -> None:
    write_all(Path("data"))
    content = yaml.safe_load((PAPERS / f"{name}.yaml").read_text())
    different = {}
    for scenario, changes in content.get("scenarios", {}).items():
        data = changes.get("data", {}).get("init_args", {}).get("datamodule", {})
        different.setdefault(str((changes.get("source"), data)), scenario)
    reports = run(name, [*different.values()], page=False)
    assert all(len(report["models"]) >= 3 for report in reports.values())
