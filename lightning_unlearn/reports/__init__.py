"""Reports from results: report.json, terminal table, figures and page."""

from lightning_unlearn.reports.certificate import write_certificate
from lightning_unlearn.reports.details import Details, RunDetails, read_details
from lightning_unlearn.reports.figures import FIGURES, draw_figures, posterior_histograms
from lightning_unlearn.reports.glossary import CONTROLS, METRICS, describe
from lightning_unlearn.reports.merge import merge, rebuild
from lightning_unlearn.reports.page import write_page
from lightning_unlearn.reports.schema import Failure, Report, Value, build_report, read_json, write_json
from lightning_unlearn.reports.table import render_text
from lightning_unlearn.reports.verdict import Verdict, judge, judge_all
from lightning_unlearn.reports.writer import write_all

__all__ = [
    "CONTROLS",
    "FIGURES",
    "METRICS",
    "Details",
    "Failure",
    "Report",
    "RunDetails",
    "Value",
    "Verdict",
    "build_report",
    "describe",
    "draw_figures",
    "judge",
    "judge_all",
    "merge",
    "posterior_histograms",
    "read_details",
    "read_json",
    "rebuild",
    "render_text",
    "write_all",
    "write_certificate",
    "write_json",
    "write_page",
]
