"""Reports from results: JSON, terminal table, figures, page; nothing here knows how results were made."""

from lightning_unlearn.reports.details import Details, RunDetails, read_details
from lightning_unlearn.reports.figures import (
    FIGURES,
    FigureSpec,
    ForgettingAxis,
    draw_figures,
    find_sweeps,
    forgetting_axis,
    posterior_histograms,
)
from lightning_unlearn.reports.glossary import CONTROLS, METRICS, describe
from lightning_unlearn.reports.merge import merge, rebuild
from lightning_unlearn.reports.page import write_page
from lightning_unlearn.reports.schema import (
    SCHEMA_VERSION,
    Failure,
    Report,
    Value,
    build_report,
    read_json,
    summarise,
    validate,
    versions,
    write_json,
)
from lightning_unlearn.reports.table import comparison_table, render_text
from lightning_unlearn.reports.verdict import Finding, Verdict, judge, judge_all, separates
from lightning_unlearn.reports.writer import write_all

__all__ = [
    "CONTROLS",
    "FIGURES",
    "METRICS",
    "SCHEMA_VERSION",
    "Details",
    "Failure",
    "FigureSpec",
    "Finding",
    "ForgettingAxis",
    "Report",
    "RunDetails",
    "Value",
    "Verdict",
    "build_report",
    "comparison_table",
    "describe",
    "draw_figures",
    "find_sweeps",
    "forgetting_axis",
    "judge",
    "judge_all",
    "merge",
    "posterior_histograms",
    "read_details",
    "read_json",
    "rebuild",
    "render_text",
    "separates",
    "summarise",
    "validate",
    "versions",
    "write_all",
    "write_json",
    "write_page",
]
