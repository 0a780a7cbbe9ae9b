"""``lightning-unlearn dashboard``: the W&B workspace and report of a comparison, as JSON or on the server."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from lightning_unlearn.cli.parsing import Parser
from lightning_unlearn.core.files import write_json_atomic
from lightning_unlearn.metrics import DeclaredMetric
from lightning_unlearn.reports import METRICS, read_json
from lightning_unlearn.reports.glossary import declared_in


def run(args: list[str]) -> int:
    """Parse the arguments of ``dashboard``, and print, save or send it."""
    parser = Parser(
        "dashboard",
        "--report runs/digits/report.json --output dashboard.json",
        "Build a W&B workspace and report for the runs of a comparison. Prints their JSON, which needs no "
        "login, or sends them.",
    )
    parser.add_argument(
        "--entity", default="", help="W&B user or team; with --push the login's own if left out"
    )
    parser.add_argument("--project", default="lightning-unlearn", help="W&B project (default: %(default)s)")
    parser.add_argument("--group", help="only the runs of this group, that is of one comparison")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="report.json whose metrics are shown, those of your evaluators too",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--push", action="store_true", help="save both on the W&B server; needs a login")
    where.add_argument("--output", type=Path, metavar="FILE", help="write the JSON to a file")
    parsed = parser.parse_args(args)
    try:
        from lightning_unlearn.trackers.dashboard import build_report, build_workspace, to_json
    except ModuleNotFoundError as error:
        return _failed(
            2, f"dashboards need wandb-workspaces ({error}): pip install 'lightning-unlearn[dashboards]'"
        )
    metrics = METRICS if parsed.report is None else declared_in(read_json(parsed.report))
    if parsed.push:
        return _push(parsed.entity, parsed.project, parsed.group, metrics)
    content = {
        "workspace": to_json(build_workspace(parsed.entity, parsed.project, parsed.group, metrics)),
        # with a project in it, a report would be looked up on the server; the dashboard's own is put in when pushed
        "report": to_json(build_report("", "", parsed.group, metrics)),
    }
    if parsed.output is None:
        print(json.dumps(content, indent=2))
    else:
        print(f"Dashboard: {write_json_atomic(parsed.output, content)}")
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
