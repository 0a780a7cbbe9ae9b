"""The dashboard as code: complete, without a login, and sent only with one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.wandb_server import ENTITY, wandb_server

from lightning_unlearn.cli.main import main
from lightning_unlearn.reports import FIGURES, METRICS

pytest.importorskip("wandb_workspaces")


def panels(content: Any, mark: str = "view_type") -> list[dict[str, Any]]:
    """Find every panel, wherever it stands."""
    if isinstance(content, dict):
        here = [content] if mark in content else []
        return here + [panel for value in content.values() for panel in panels(value, mark)]
    return [panel for item in content for panel in panels(item, mark)] if isinstance(content, list) else []


def shown(content: Any, view: str) -> list[dict[str, Any]]:
    return [panel["config"] for panel in panels(content) if panel["view_type"] == view]


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("dashboard") / "deep" / "dashboard.json"
    assert main(["dashboard", "--entity=me", "--project=mine", "--group=digits", f"--output={file}"]) == 0
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_both_are_built_and_show_one_comparison(dashboard: dict[str, Any]) -> None:
    workspace, report = dashboard["workspace"], dashboard["report"]
    assert (workspace["entity"], workspace["project"]) == ("me", "mine")
    (runs,) = workspace["spec"]["section"]["run_sets"]
    assert [(f["key"]["name"], f["op"], f["value"]) for f in runs["filters"]["filters"]] == [
        ("group", "=", "digits")
    ]
    grids = [block for block in report["spec"]["blocks"] if block["type"] == "panel-grid"]
    filters = [
        [(f["key"]["name"], f["value"]) for f in grid["metadata"]["run_sets"][0]["filters"]["filters"]]
        for grid in grids
    ]
    assert all(each[0] == ("group", "digits") for each in filters)
    assert ("jobType", ["source", "retrain", "retrain_2"]) in filters[-1], "the controls stand alone"


@pytest.mark.parametrize("kind", ["workspace", "report"])
def test_every_score_has_its_panel(dashboard: dict[str, Any], kind: str) -> None:
    content = dashboard[kind]
    bars = {name for panel in shown(content, "Bar Chart") for name in panel["metrics"]}
    wanted = {name for name, metric in METRICS.items() if metric.direction}
    assert wanted | {"unlearning_degree/null", "time/prepare_s"} <= bars
    assert {panel["group_by"] for panel in shown(content, "Bar Chart")} == {"model.value"}
    assert "gap_closed" in bars
    trade_offs = {(panel["x_axis"], panel["y_axis"]) for panel in shown(content, "Scatter Plot")}
    assert trade_offs == {
        ("summary:accuracy/test", f"summary:{name}")
        for name, metric in METRICS.items()
        if metric.decides == "forgetting"
    }
    curves = shown(content, "Run History Line Plot")
    assert {panel["x_axis"] for panel in curves} == {"trainer/global_step"}
    assert {"train/loss", "train/gradient_norm", "train/accuracy_forget"} <= {
        name for panel in curves for name in panel["metrics"] or []
    }
    text = json.dumps(content)
    for table in ("verdicts", "comparison", "overview", "scores", "forgetting/answers"):
        assert f'"val": "{table}"' in text
    media = {key for panel in shown(content, "Media Browser") for key in panel["media_keys"]}
    assert media == {f"figures/{Path(f.filename).stem}" for f in FIGURES if "*" not in f.filename}


def test_the_answer_comes_first_of_six_sections(dashboard: dict[str, Any]) -> None:
    sections = dashboard["workspace"]["spec"]["section"]["panel_bank_config"]["sections"]
    named = [section["name"] for section in sections if section["panels"]]
    assert named[0] == "Answer"
    assert len(named) <= 6
    headings = [
        block["children"][0]["text"]
        for block in dashboard["report"]["spec"]["blocks"]
        if block["type"] == "heading"
    ]
    assert headings[0] == "Answer"


def test_panels_do_not_lie_on_each_other(dashboard: dict[str, Any]) -> None:
    for section in dashboard["workspace"]["spec"]["section"]["panel_bank_config"]["sections"]:
        places = [(panel["layout"]["x"], panel["layout"]["y"]) for panel in section["panels"]]
        assert len(set(places)) == len(places), section["name"]
        assert all(x + 8 <= 24 for x, _ in places)


def test_without_a_file_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["workspace"]["project"] == "lightning-unlearn"
    assert content["workspace"]["spec"]["section"]["run_sets"][0]["filters"]["filters"] == []


def test_sending_needs_a_login(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NETRC", os.devnull)
        patch.delenv("WANDB_API_KEY", raising=False)
        assert main(["dashboard", "--push"]) == 2
    assert "wandb login" in capsys.readouterr().err


def pushed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: W&B keeps a login to the end of one."""
    command = [sys.executable, "-m", "lightning_unlearn", "dashboard", "--push", *arguments]
    told = {**os.environ, **environment}
    return subprocess.run(command, env=told, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_with_a_login_both_are_sent(dashboard: dict[str, Any]) -> None:
    with wandb_server("mine") as server:
        done = pushed("--project=mine", "--group=digits", **server.environment)
    assert done.returncode == 0, done.stderr
    assert server.unknown == set()
    (workspace,), (report,) = server.variables("UpsertView2"), server.variables("upsertView")
    for sent, kind in ((workspace, "project-view"), (report, "runs")):
        told = {key: sent[key] for key in ("entityName", "projectName", "displayName", "type")}
        assert list(told.values()) == [ENTITY, "mine", "Unlearning: digits", kind]
    for name, sent in (("workspace", workspace), ("report", report)):
        spec = json.loads(sent["spec"])
        assert len(panels(spec, "viewType")) == len(panels(dashboard[name])) > 20, name
    for kind in ("Workspace", "Report"):
        assert f"{kind}: {server.url}/{ENTITY}/mine" in done.stdout


@pytest.mark.slow
def test_a_server_that_is_not_there_is_named() -> None:
    with wandb_server() as server:
        gone = server.environment
    done = pushed(**gone)
    assert done.returncode == 1
    assert "error: W&B did not take the dashboard" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "wandb_workspaces", None)
        patch.delitem(sys.modules, "lightning_unlearn.trackers.dashboard", raising=False)
        assert main(["dashboard"]) == 2
    assert "pip install 'lightning-unlearn[dashboards]'" in capsys.readouterr().err


def test_two_ways_out_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "--push", "--output=x.json"]) == 2
    assert "one of them goes without the other" in capsys.readouterr().err
