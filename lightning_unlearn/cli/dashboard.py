"""``lightning-unlearn dashboard``: the W&B workspace and report of a comparison, as JSON or on the server."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from lightning_unlearn.core.files import write_json_atomic
from lightning_unlearn.metrics import DeclaredMetric
from lightning_unlearn.reports import METRICS, read_json
from lightning_unlearn.reports.glossary import declared_in

EXAMPLE = "--report runs/digits/report.json --output dashboard.json"


def run(
    *,
    entity: str = "",
    project: str = "lightning-unlearn",
    group: str | None = None,
    report: Path | None = None,
    push: bool = False,
    output: Path | None = None,
) -> int:
    """Build a W&B workspace and report for the runs of a comparison.

    Prints their JSON, which needs no login, or sends them.

    Args:
        entity: W&B user or team; with --push the login's own if left out.
        project: W&B project (lightning-unlearn).
        group: Only the runs of this group, that is of one comparison.
        report: The report.json whose metrics are shown, those of your evaluators too.
        push: Save both on the W&B server; needs a login.
        output: File to write the JSON to, in place of --push.
    """
    if push and output is not None:
        return _failed(2, "--push and --output: one of them goes without the other")
    try:
        from lightning_unlearn.trackers.dashboard import build_report, build_workspace, to_json
    except ModuleNotFoundError as error:
        return _failed(
            2, f"dashboards need wandb-workspaces ({error}): pip install 'lightning-unlearn[dashboards]'"
        )
    metrics = METRICS if report is None else declared_in(read_json(report))
    if push:
        return _push(entity, project, group, metrics)
    content = {
        "workspace": to_json(build_workspace(entity, project, group, metrics)),
        # with a project in it, a report would be looked up on the server; the dashboard's own is put in when pushed
        "report": to_json(build_report("", "", group, metrics)),
    }
    if output is None:
        print(json.dumps(content, indent=2))
    else:
        print(f"Dashboard: {write_json_atomic(output, content)}")
    return 0


def _push(entity: str, project: str, group: str | None, metrics: Mapping[str, DeclaredMetric]) -> int:
    import wandb

    from lightning_unlearn.trackers.dashboard import build_report, build_workspace

    try:
        if not wandb.login(prompt=False):
            return _failed(
                2, "--push needs a login to W&B: run `wandb login` first, or use --output to save the JSON"
            )
        entity = entity or str(wandb.Api().default_entity)
        print(f"Workspace: {build_workspace(entity, project, group, metrics).save().url}")
        print(f"Report: {build_report(entity, project, group, metrics).save().url}")
    except Exception as error:  # W&B documents none; unknown keys, no network, no project all differ
        return _failed(
            1,
            f"W&B did not take the dashboard: {type(error).__name__}: {error}\n(the project must hold a run already; "
            "--output saves the JSON without asking the server)",
        )
    return 0


def _failed(status: int, message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
