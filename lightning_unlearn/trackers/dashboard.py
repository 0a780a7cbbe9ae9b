"""The W&B workspace and report of a comparison, built from the report's glossary; sends nothing by itself.

Needs ``wandb-workspaces``, the extra ``dashboards``. A metric that the glossary learns gets its panel here by itself.
"""

import json
from typing import Any, Literal

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from lightning_unlearn.core.compat import workspace_json
from lightning_unlearn.reports.figures import FIGURES
from lightning_unlearn.reports.glossary import METRICS

__all__ = ["build_report", "build_workspace", "to_json"]

_UTILITY = "accuracy/test"
_FORGETTING = [name for name, metric in METRICS.items() if metric.decides == "forgetting"]
_NULLS = ["unlearning_degree/degree", "unlearning_degree/null", "unlearning_degree/calibrated"]
_COST = [name for name in METRICS if name.startswith("time/") or name == "acceleration"]
_MEMORY = ["memory/process_peak_mib", "memory/gpu_peak_mib"]
_SCORES = [name for name, metric in METRICS.items() if metric.direction and name not in {*_NULLS, *_COST}]
_STEP = "trainer/global_step"
_CURVES = {
    "Loss": ["train/loss"],
    "Accuracy on the batches of D_f and D_r": ["train/accuracy_forget", "train/accuracy_retain"],
    "Accuracy over the epochs": ["accuracy/forget", "accuracy/retain", "accuracy/test", "val/accuracy"],
    "Similarity": ["train/similarity"],
    "Norm of the gradients": ["train/gradient_norm"],
}
_TERMS = r"train/.*"
_TABLES = ["overview", "comparison", "scores", "membership_inference/samples"]
_HOW_TO_READ = (
    "**No number without its floor and its ceiling.** `source` is the model that forgot nothing, `retrain` the one "
    "that was trained without the forget set. A method has forgotten as far as it is like `retrain`, not as far as a "
    "score is small. Where a score also moves for a model that merely changed, its null control stands beside it."
)


def build_workspace(entity: str, project: str, group: str | None = None) -> ws.Workspace:
    """Build a workspace with the trade-off, the scores beside their controls, curves, cost, tables and figures.

    Args:
        entity: User or team.
        project: The project.
        group: Group of the runs to show, which is that of one comparison; None shows all.

    Returns:
        The workspace, not saved.
    """
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"Unlearning: {group}" if group else "Unlearning",
        sections=[
            ws.Section(name=name, panels=panels, is_open=name in ("Trade-off", "Scores"))
            for name, panels in _sections().items()
        ],
        settings=ws.WorkspaceSettings(x_axis=_STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(filters=ws.And(ws.Metric("group") == group) if group else ""),
    )


def build_report(entity: str, project: str, group: str | None = None) -> wr.Report:
    """Build a report of the same panels with words between them, and the controls in runs of their own.

    Args:
        entity: User or team; empty, as the project, to write the JSON without asking the server.
        project: The project.
        group: Group of the runs to show; None shows all.

    Returns:
        The report, not saved.
    """

    def runs(name: str, *conditions: str) -> wr.Runset:
        told = [f"group == {json.dumps(group)}"] if group else []
        return wr.Runset(
            entity=entity, project=project, name=name, filters=" and ".join([*told, *conditions])
        )

    trained = runs("models", 'jobType != "evaluate"')
    controls = runs("controls", 'jobType in ["source", "retrain"]')
    summary = runs("comparison", 'jobType == "evaluate"')
    of_section = {"Null controls": controls, "Tables": summary, "Figures": summary}
    blocks: list[Any] = [wr.MarkdownBlock(text=_HOW_TO_READ), wr.TableOfContents()]
    for name, panels in _sections().items():
        blocks += [wr.H1(text=name), wr.PanelGrid(runsets=[of_section.get(name, trained)], panels=panels)]
    blocks += [
        wr.H1(text="The controls alone"),
        wr.P(text="How far a score can tell them apart is how much it can say about a method."),
        wr.PanelGrid(
            runsets=[controls], panels=_place([_bars([name], METRICS[name].heading) for name in _FORGETTING])
        ),
    ]
    return wr.Report(
        project=project,
        entity=entity,
        title=f"Unlearning: {group}" if group else "Unlearning",
        description="Unlearning methods beside the source and the retrained model",
        blocks=blocks,
        width="fluid",
    )


def to_json(built: ws.Workspace | wr.Report) -> Any:
    """Return what would be sent to the server, as plain values; asks nobody.

    Args:
        built: A workspace, or a report without entity and project.
    """
    return json.loads(workspace_json(built))


def _sections() -> dict[str, list[Any]]:
    """Return the panels under their headings; new ones, since a panel belongs to one place."""
    figures = [
        f"figures/{spec.filename.removesuffix('.png')}" for spec in FIGURES if "*" not in spec.filename
    ]
    sections: dict[str, list[Any]] = {
        "Trade-off": [
            wr.ScatterPlot(
                title=f"{METRICS[name].label} against {METRICS[_UTILITY].label.lower()}",
                x=wr.SummaryMetric(_UTILITY),
                y=wr.SummaryMetric(name),
                legend_template="${run:displayName}",
            )
            for name in _FORGETTING
        ],
        "Scores": [wr.MarkdownPanel(markdown=_HOW_TO_READ)]
        + [_bars([name], METRICS[name].heading) for name in _SCORES],
        "Null controls": [_bars([name], METRICS[name].heading) for name in _NULLS],
        "Curves": [
            *(
                wr.LinePlot(title=title, x=_STEP, y=list(names), **_grouped("minmax"))
                for title, names in _CURVES.items()
            ),
            wr.LinePlot(title="All terms of the losses", x=_STEP, metric_regex=_TERMS),
        ],
        "Membership inference": [
            wr.CustomChart(
                query={"summaryTable": {"tableKey": "membership_inference/roc_table"}},
                chart_name="wandb/line/v0",
                chart_fields={"x": "false positive rate", "y": "true positive rate"},
                chart_strings={"title": "Membership inference: ROC"},
            )
        ],
        "Cost": [_bars([name], METRICS[name].heading) for name in _COST]
        + [_bars([name], name, "max") for name in _MEMORY],
        "Tables": [wr.WeavePanelSummaryTable(table_name=name) for name in _TABLES],
        "Figures": [
            wr.MediaBrowser(title=name.removeprefix("figures/"), media_keys=[name]) for name in figures
        ],
    }
    return {name: _place(panels) for name, panels in sections.items()}


def _bars(names: list[str], title: str, function: Literal["mean", "max"] = "mean") -> Any:
    """Return a bar a model, over its seeds."""
    return wr.BarPlot(
        title=title,
        metrics=list(names),
        groupby=wr.Config("model"),
        groupby_aggfunc=function,
        groupby_rangefunc="stddev",
        max_bars_to_show=100,
    )


def _grouped(spread: Literal["minmax", "stddev"]) -> dict[str, Any]:
    return {"groupby": wr.Config("model"), "groupby_aggfunc": "mean", "groupby_rangefunc": spread}


def _place(panels: list[Any]) -> list[Any]:
    """Lay panels out three a row; W&B would put all of them into one place."""
    for number, panel in enumerate(panels):
        panel.layout = wr.Layout(x=8 * (number % 3), y=6 * (number // 3), w=8, h=6)
    return panels
