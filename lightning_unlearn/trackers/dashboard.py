"""The W&B workspace and report of a comparison, built from what metrics declare of themselves.

Needs ``wandb-workspaces``, the extra ``dashboards``. What declares a direction gets its panel by itself.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from lightning_unlearn.core.compat import workspace_json
from lightning_unlearn.metrics.declared import COST, DeclaredMetric
from lightning_unlearn.reports.figures import FIGURES
from lightning_unlearn.reports.glossary import METRICS

Metrics = Mapping[str, DeclaredMetric]

_UTILITY = "accuracy/test"
_NULLS = ["unlearning_degree/degree", "unlearning_degree/null", "unlearning_degree/calibrated"]
_STEP = "trainer/global_step"
_CURVES = {
    "Loss": ["train/loss"],
    "Accuracy on the batches of D_f and D_r": ["train/accuracy_forget", "train/accuracy_retain"],
    "Accuracy over the epochs": ["accuracy/forget", "accuracy/retain", "accuracy/test", "val/accuracy"],
    "Similarity": ["train/similarity"],
    "Norm of the gradients": ["train/gradient_norm"],
}
_TERMS = r"train/.*"
_TABLES = ["overview", "comparison", "scores"]
_SAMPLES = ["forgetting/answers", "membership_inference/samples"]
_GAP = {"gap_closed": DeclaredMetric("Share of the gap between source and retrained model that is closed")}
_HOW_TO_READ = (
    "**No number without its floor and its ceiling.** `source` is the model that forgot nothing, `retrain` the one "
    "that was trained without the forget set. A method has forgotten as far as it is like `retrain`, not as far as a "
    "score is small. Where a score also moves for a model that merely changed, its null control stands beside it."
)


def build_workspace(
    entity: str, project: str, group: str | None = None, metrics: Metrics = METRICS
) -> ws.Workspace:
    """Build a workspace in six sections: answer, scores and controls, trade-off and cost, curves, samples, rest.

    Args:
        entity: User or team.
        project: The project.
        group: Group of the runs to show, which is that of one comparison; None shows all.
        metrics: The metrics to show, by what they declare.

    Returns:
        The workspace, not saved.
    """
    return ws.Workspace(
        entity=entity,
        project=project,
        name=_title(group),
        sections=[
            ws.Section(name=name, panels=panels, is_open=name in ("Answer", "Scores"))
            for name, panels in _sections(metrics).items()
        ],
        settings=ws.WorkspaceSettings(x_axis=_STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(filters=ws.And(ws.Metric("group") == group) if group else ""),
    )


def build_report(
    entity: str, project: str, group: str | None = None, metrics: Metrics = METRICS
) -> wr.Report:
    """Build a report of the same panels with words between them, and the controls in runs of their own.

    Args:
        entity: User or team; empty, as the project, to write the JSON without asking the server.
        project: The project.
        group: Group of the runs to show; None shows all.
        metrics: The metrics to show, by what they declare.

    Returns:
        The report, not saved.
    """

    def runs(name: str, condition: str) -> wr.Runset:
        told = f"group == {json.dumps(group)} and {condition}" if group else condition
        return wr.Runset(entity=entity, project=project, name=name, filters=told)

    trained = runs("models", 'jobType != "evaluate"')
    controls = runs("controls", 'jobType in ["source", "retrain", "retrain_2"]')
    summary = runs("comparison", 'jobType == "evaluate"')
    every = runs("all", 'jobType != ""')
    of_section = {"Answer": every, "Tables and figures": summary}
    blocks: list[Any] = [wr.MarkdownBlock(text=_HOW_TO_READ), wr.TableOfContents()]
    for name, panels in _sections(metrics).items():
        blocks += [wr.H1(text=name), wr.PanelGrid(runsets=[of_section.get(name, trained)], panels=panels)]
    blocks += [
        wr.H1(text="The controls alone"),
        wr.P(text="How far a score can tell them apart is how much it can say about a method."),
        wr.PanelGrid(runsets=[controls], panels=_place(_bars(metrics, _forgetting(metrics)))),
    ]
    return wr.Report(
        project=project,
        entity=entity,
        title=_title(group),
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


def _title(group: str | None) -> str:
    return f"Unlearning: {group}" if group else "Unlearning"


def _forgetting(metrics: Metrics) -> list[str]:
    return [name for name, metric in metrics.items() if metric.decides == "forgetting"]


def _sections(metrics: Metrics) -> dict[str, list[Any]]:
    """Return the panels under their headings; new ones, since a panel belongs to one place."""
    utility = METRICS[_UTILITY].label.lower()
    scores = [name for name, metric in metrics.items() if metric.direction and name not in {*_NULLS, *COST}]
    figures = [spec.filename.removesuffix(".png") for spec in FIGURES if "*" not in spec.filename]
    grouped: dict[str, Any] = {
        "groupby": wr.Config("model"),
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": "minmax",
    }
    sections: dict[str, list[Any]] = {
        "Answer": [
            wr.WeavePanelSummaryTable(table_name="verdicts"),
            *_bars(_GAP, _GAP),
            wr.MediaBrowser(title=figures[0], media_keys=[f"figures/{figures[0]}"]),
            wr.MarkdownPanel(markdown=_HOW_TO_READ),
        ],
        "Scores": [*_bars(metrics, scores), *_bars(METRICS, _NULLS)],
        "Trade-off and cost": [
            *(
                wr.ScatterPlot(
                    title=f"{metrics[name].label} against {utility}",
                    x=wr.SummaryMetric(_UTILITY),
                    y=wr.SummaryMetric(name),
                    legend_template="${run:displayName}",
                )
                for name in _forgetting(metrics)
            ),
            *_bars(COST, COST),
        ],
        "Curves": [
            *(wr.LinePlot(title=title, x=_STEP, y=names, **grouped) for title, names in _CURVES.items()),
            wr.LinePlot(title="All terms of the losses", x=_STEP, metric_regex=_TERMS),
        ],
        "Samples": [
            wr.CustomChart(
                query={"summaryTable": {"tableKey": "membership_inference/roc_table"}},
                chart_name="wandb/line/v0",
                chart_fields={"x": "false positive rate", "y": "true positive rate"},
                chart_strings={"title": "Membership inference: ROC"},
            ),
            *(wr.WeavePanelSummaryTable(table_name=name) for name in _SAMPLES),
        ],
        "Tables and figures": [
            *(wr.WeavePanelSummaryTable(table_name=name) for name in _TABLES),
            *(wr.MediaBrowser(title=name, media_keys=[f"figures/{name}"]) for name in figures[1:]),
        ],
    }
    return {name: _place(panels) for name, panels in sections.items()}


def _bars(metrics: Metrics, names: Iterable[str]) -> list[Any]:
    """Return a panel a metric with a bar a model, over its seeds; of a peak the highest."""
    return [
        wr.BarPlot(
            title=metrics[name].heading,
            metrics=[name],
            groupby=wr.Config("model"),
            groupby_aggfunc="max" if name.startswith("memory/") else "mean",
            groupby_rangefunc="stddev",
            max_bars_to_show=100,
        )
        for name in names
    ]


def _place(panels: list[Any]) -> list[Any]:
    """Lay panels out three a row; W&B would put all of them into one place."""
    for number, panel in enumerate(panels):
        panel.layout = wr.Layout(x=8 * (number % 3), y=6 * (number // 3), w=8, h=6)
    return panels
