"""What evaluators declare of their metrics reaches table, page and figures; a user's evaluator is first class."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
from test_compare import toy_compare
from torch import nn

from lightning_unlearn import callbacks
from lightning_unlearn.callbacks import Audit, Backdoor, Evaluator, MembershipInference
from lightning_unlearn.cli.main import main
from lightning_unlearn.metrics import DeclaredMetric
from lightning_unlearn.metrics.declared import COST
from lightning_unlearn.reports import (
    METRICS,
    build_report,
    describe,
    draw_figures,
    judge,
    merge,
    read_json,
    render_text,
    write_json,
    write_page,
)
from lightning_unlearn.reports.figures.trade_off import forgetting_axis
from lightning_unlearn.reports.glossary import best_and_worst
from lightning_unlearn.reports.schema import Report, validate

SURE = "sureness/mean"


class Sureness(Evaluator):
    """An evaluator of a user's own."""

    default_name = "sureness"
    metrics: ClassVar = {
        SURE: DeclaredMetric(
            "Sureness: mean over D_f",
            "sureness",
            "Mean largest posterior on the forget set.",
            unit="bits",
            direction="lower",
            decides="forgetting",
            ideal=0.1,
        )
    }

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        sure = float(audit.outputs(model, "forget").posteriors.amax(dim=1).mean())
        return {f"{self.name}/mean": sure, f"{self.name}/not_declared": 1.0}


def sure_report(**methods: tuple[float, ...]) -> Report:
    """Three seeds; the retrained model's mean is 0.5 and its interval about [0.450, 0.550]."""
    values = {"source": (0.9, 0.9, 0.9), "retrain": (0.48, 0.5, 0.52), **methods}
    test = {"source": 0.9, "retrain": 0.89}
    runs = {
        model: {
            seed: {"accuracy/test": test.get(model, 0.88) + seed / 1000, SURE: value}
            for seed, value in enumerate(each)
        }
        for model, each in values.items()
    }
    declared = {**callbacks.ForgettingMetrics.metrics, **Sureness().declared()}
    return build_report(runs, seeds=range(3), config={}, data={}, environment={}, metrics=declared)


@pytest.mark.slow
def test_a_comparison_keeps_what_was_declared_and_the_page_is_made_from_it(tmp_path: Path) -> None:
    result = toy_compare(tmp_path / "out", seeds=1, evaluators=[Sureness], methods=[])
    assert not result.failed
    report = read_json(tmp_path / "out" / "report.json")
    told = report["metrics"]
    assert told[SURE] == dataclasses.asdict(Sureness.metrics[SURE])
    assert set(told) == {name for metrics in report["models"].values() for name in metrics} - {
        "sureness/not_declared"
    }
    # as where the class cannot be imported: nothing but the file says what the metric is
    main(["report", str(tmp_path / "out"), f"--output={tmp_path / 'again'}"])
    for page in (tmp_path / "out" / "report.html", tmp_path / "again" / "report.html"):
        text = page.read_text(encoding="utf-8")
        assert "Sureness: mean over D_f [bits]" in text
        assert "Mean largest posterior on the forget set. Good: lower. Ideal: 0.100 bits." in text
        assert f'data-metric="{SURE}"' in text
    assert (tmp_path / "again" / "figures" / "differences.png").is_file()
    assert read_json(tmp_path / "again" / "report.json")["metrics"] == told


def test_it_decides_in_table_and_page_and_is_drawn(tmp_path: Path) -> None:
    report = sure_report(better=(0.45, 0.45, 0.45), near=(0.5, 0.5, 0.5), worse=(0.88, 0.88, 0.88))
    answers = {name: judge(report, name).by_metric[SURE].status for name in ("better", "near", "worse")}
    assert answers == {"better": "close", "near": "close", "worse": "not close"}
    assert best_and_worst(report, SURE) == ({"better"}, {"worse"})
    text = render_text(report)
    assert re.search(r"verdict\s+accuracy\s+sureness", text)
    assert re.search(r"bits", text)
    figures = draw_figures(report, tmp_path)
    assert {path.name for path in figures} == {"differences.png", "trade_off.png"}
    choice = forgetting_axis(report)
    assert choice is not None
    assert (choice.metric, choice.reason) == (SURE, "separates")
    page = write_page(report, tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'title="Mean largest posterior on the forget set.">sureness' in page
    assert '"title":"Sureness: mean over D_f"' in page, "it has a panel"


def test_it_stands_in_a_sweep() -> None:
    from lightning_unlearn.reports.figures import FIGURES

    report = sure_report(own_1=(0.6,) * 3, own_2=(0.5,) * 3, own_3=(0.4,) * 3)
    (sweep,) = [spec for spec in FIGURES if spec.filename == "sweep_*.png"]
    figure: Any = sweep.draw(report, {})
    assert "sureness [bits]" in [panel.y for panel in figure["own"]]


def test_another_name_is_told_apart() -> None:
    renamed = Sureness(name="again").declared()
    assert renamed["again/mean"].label == "Sureness: mean over D_f (again)"
    assert renamed["again/mean"].decides == "forgetting"
    assert Backdoor().declared() == Backdoor.metrics
    attack = MembershipInference(name="boosted").declared()
    assert set(attack) == {
        name.replace("membership_inference", "boosted") for name in MembershipInference.metrics
    }
    assert "accuracy/test" in callbacks.ForgettingMetrics(name="other").declared()


def test_an_older_file_is_read_as_before(tmp_path: Path) -> None:
    report = sure_report(own=(0.5, 0.5, 0.5))
    del report["metrics"]
    validate(report)
    assert describe("accuracy/test", report) == METRICS["accuracy/test"]
    assert describe(SURE, report).label == "sureness: mean"
    assert SURE not in judge(report, "own").by_metric


def test_merged_reports_keep_the_declarations_of_all() -> None:
    ours, theirs = sure_report(a=(0.5, 0.5, 0.5)), sure_report(b=(0.5, 0.5, 0.5))
    del ours["metrics"][SURE]
    with pytest.warns(UserWarning, match="no hash"):
        merged = merge([ours, theirs], ["ours", "theirs"])
    assert describe(SURE, merged) == Sureness.metrics[SURE]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": ""}, "label must not be empty"),
        ({"label": "a", "direction": "up"}, "direction of 'a' must be one of"),
        ({"label": "a", "decides": "all"}, "decides of 'a' must be one of"),
        ({"label": "a", "decides": "utility", "direction": "higher"}, "give its margin"),
        ({"label": "a", "margin": 0}, "margin of 'a' must be above 0"),
        ({"label": "a", "digits": -1}, "digits of 'a' must lie in \\[0, 10\\]"),
        ({"label": "a", "unit": None}, "unit must be a text"),
    ],
)
def test_what_cannot_be_declared_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeclaredMetric(**arguments)
    report: Any = sure_report()
    report["metrics"][SURE] = arguments
    with pytest.raises(ValueError, match="not a valid report: metrics"):
        validate(report)


def test_every_evaluator_declares_what_it_measures() -> None:
    for name in callbacks.__all__:
        kind = getattr(callbacks, name)
        if hasattr(kind, "default_name"):
            assert kind.metrics, name
            assert all(metric.explanation for metric in kind.metrics.values())
            assert kind.metrics.items() <= METRICS.items()
    assert COST.items() <= METRICS.items()
    json.dumps({name: dataclasses.asdict(metric) for name, metric in METRICS.items()})


def test_the_dashboard_of_a_report_shows_it(tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    report, dashboard = tmp_path / "report.json", tmp_path / "dashboard.json"
    write_json(sure_report(), report)
    assert main(["dashboard", f"--report={report}", f"--output={dashboard}"]) == 0
    text = dashboard.read_text(encoding="utf-8")
    assert '"Sureness: mean over D_f [bits]"' in text
    assert f'"summary:{SURE}"' in text
    assert "klom/mean" not in text
