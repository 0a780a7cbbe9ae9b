"""What all figures share: the types of their input, their registration, colours and axes; draws no figure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.glossary import CONTROLS, describe, ordered_models, wrap_name
from lightning_unlearn.reports.schema import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "CONTROL_LOOKS",
    "DASHES",
    "DPI",
    "GREEN",
    "GRID",
    "GUESS_DASH",
    "METHOD_COLOURS",
    "MODEL_KEYWORD",
    "ORANGE",
    "PURPLE",
    "RETRAIN_DASH",
    "SOURCE_COLOUR",
    "STYLE",
    "VERMILION",
    "WHISKER",
    "DrawnFigure",
    "FigureSpec",
    "control_handles",
    "file_keys",
    "line_styles",
    "measured",
    "metric_title",
    "model_colour",
    "model_label",
    "models_with",
    "new_figure",
    "reference_line",
    "register",
    "rows_height",
    "short_heading",
    "typeset",
    "whisker",
]

# Okabe & Ito's palette, told apart under every common colour blindness; black is for the retrained model.
BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
)
METHOD_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)))
SOURCE_COLOUR, RETRAIN_COLOUR = "#8C8C8C", "#000000"
SOURCE_DASH: Any = (0, (4, 2, 1, 2))
RETRAIN_DASH: Any = (0, (4, 2))
GUESS_DASH: Any = (0, (1.2, 1.2))
CONTROL_LOOKS = {"source": (SOURCE_COLOUR, SOURCE_DASH), "retrain": (RETRAIN_COLOUR, RETRAIN_DASH)}
"""Colour and dash of each control."""
GRID: dict[str, Any] = {"color": "#E4E4E4", "linewidth": 0.8}
WHISKER = "#444444"

DPI = 150
"""Pixels an inch of every figure that is written."""
MODEL_KEYWORD = "Model"
"""Under which a PNG file says to which model it belongs."""
_KEY_LENGTH = 80
"""Characters that a key may take of a file's name; file systems allow 255 bytes in all."""
ROW_INCHES = 0.36
LABEL_WIDTH = 26
"""Characters of a model's name in one line of a figure."""
MAX_LABEL_LINES = 3
LINE_INCHES = 0.165
"""Height of one line of a 10-point label."""

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.labelsize": 10.0,
    "legend.fontsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.usetex": False,
}


_Draw = Callable[[Report, Details], "Figure | Mapping[str, Figure] | None"]


@dataclass(frozen=True)
class FigureSpec:
    """One figure of the report, or one kind of figure of which there may be several.

    Attributes:
        filename: Its name under ``figures/``. For several figures of one kind it holds a ``*``, which stands
            for the key of each.
        title: Its heading on the page; a ``*`` is the key here too.
        alt: What it shows, in words, for those who cannot see it; a ``*`` likewise.
        draw: Returns the figure, or None where the report lacks what it needs; where ``filename`` holds a
            ``*``, it returns each figure under its key.
        of_model: Whether the keys are models' names, and each figure belongs to its model.
    """

    filename: str
    title: str
    alt: str
    draw: _Draw
    of_model: bool = False

    def key(self, filename: str) -> str | None:
        """Return what stands for the ``*`` in a file's name ("" without one), None for files of another kind.

        Example:
            >>> spec = FigureSpec("sweep_*.png", "Sweep of *", "", lambda report, details: None)
            >>> spec.key("sweep_alpha.png"), spec.key("time.png")
            ('alpha', None)
        """
        before, _, after = self.filename.partition("*")
        pattern = re.escape(before) + ("(.+)" + re.escape(after) if "*" in self.filename else "()")
        found = re.fullmatch(pattern, filename)
        return None if found is None else found[1]

    def figures(self, report: Report, details: Details) -> list[DrawnFigure]:
        """Draw; empty where there is nothing to draw."""
        drawn = self.draw(report, details)
        if drawn is None:
            return []
        if not isinstance(drawn, Mapping):
            return [DrawnFigure(self.filename, {"Title": self.title, "Description": self.alt}, drawn)]
        files = file_keys(list(drawn))
        return [
            DrawnFigure(
                self.filename.replace("*", files[key]),
                {
                    "Title": self.title.replace("*", key),
                    "Description": self.alt.replace("*", key),
                    **({MODEL_KEYWORD: key} if self.of_model else {}),
                },
                figure,
            )
            for key, figure in drawn.items()
        ]


@dataclass(frozen=True)
class DrawnFigure:
    """One figure, ready to be saved.

    Attributes:
        filename: Its name under ``figures/``.
        words: What its file says of itself: "Title" and "Description", keywords of the PNG standard, and under
            :data:`MODEL_KEYWORD` the model it belongs to.
        figure: The figure.
    """

    filename: str
    words: dict[str, str]
    figure: Figure


def file_keys(names: Sequence[str]) -> dict[str, str]:
    """Return for each name one that is fit for a file and that no other has, on any file system.

    Example:
        >>> file_keys(["alpha", "a/b", "a:b", "Alpha", "*"])
        {'alpha': 'alpha', 'a/b': 'a_b', 'a:b': 'a_b-2', 'Alpha': 'Alpha-2', '*': 'unnamed'}
    """
    keys: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        key = base = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._-")[:_KEY_LENGTH] or "unnamed"
        number = 2
        # Some file systems do not tell capitals apart.
        while key.lower() in taken:
            key, number = f"{base}-{number}", number + 1
        taken.add(key.lower())
        keys[name] = key
    return keys


def register(
    figures: list[FigureSpec], filename: str, title: str, alt: str, *, of_model: bool = False
) -> Callable[[_Draw], _Draw]:
    """Enter the function below into a list of figures, see :class:`FigureSpec`."""

    def enter(draw: _Draw) -> _Draw:
        figures.append(FigureSpec(filename, title, alt, draw, of_model))
        return draw

    return enter


def new_figure(width: float, height: float) -> Figure:
    """Return a figure outside pyplot, so that nobody's current figure changes and nothing stays in memory."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def model_label(name: str, width: int = LABEL_WIDTH) -> str:
    """Break a model's name into lines, and keep matplotlib from reading it as a formula."""
    return wrap_name(name, width, MAX_LABEL_LINES).replace("$", r"\$")


def rows_height(models: Sequence[str]) -> float:
    """Return the inches that one row a model takes; rows grow with the longest name."""
    lines = max(model_label(name).count("\n") + 1 for name in models)
    return max(ROW_INCHES, LINE_INCHES * lines + 0.06) * max(len(models), 3)


def typeset(text: str) -> str:
    """Set the names of the sets as formulas."""
    return text.replace("D_f", "$D_f$").replace("D_r", "$D_r$")


def model_colour(name: str) -> str:
    """Return the colour of a model where methods need not be told apart."""
    return {"source": SOURCE_COLOUR, "retrain": RETRAIN_COLOUR}.get(name, BLUE)


def line_styles(models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Give each model a colour, a marker and a dash that together no other of up to 42 methods has."""
    styles: dict[str, dict[str, Any]] = {
        "source": {"color": SOURCE_COLOUR, "marker": "*", "linestyle": SOURCE_DASH},
        "retrain": {"color": RETRAIN_COLOUR, "marker": "*", "linestyle": RETRAIN_DASH},
    }
    methods = [name for name in models if name not in CONTROLS]
    for index, name in enumerate(methods):
        styles[name] = {
            "color": METHOD_COLOURS[index % len(METHOD_COLOURS)],
            "marker": MARKERS[index % len(MARKERS)],
            "linestyle": DASHES[index // len(METHOD_COLOURS) % len(DASHES)],
        }
    return styles


def whisker(axes: Axes, mean: float, row: float, half: float) -> None:
    """Draw an interval over a bar, grey with a light edge: a black one is lost on the retrained model's black bar."""
    for tint, line in (("white", 3.2), (WHISKER, 1.4)):
        axes.errorbar(
            mean, row, xerr=half, fmt="none", ecolor=tint, elinewidth=line, capsize=3, capthick=line, zorder=3
        )


def reference_line(
    axes: Axes, report: Report, metric: str, *, along: str = "x", control: str = "retrain"
) -> None:
    """Mark a control's mean as a broken line, and the retrained model's 95% interval as a band too."""
    target = report["models"].get(control, {}).get(metric)
    if target is None:
        return
    scale = describe(metric, report).scale
    line, band = (axes.axvline, axes.axvspan) if along == "x" else (axes.axhline, axes.axhspan)
    tint, dash = CONTROL_LOOKS[control]
    line(target["mean"] * scale, color=tint, linestyle=dash, linewidth=1.2, zorder=1.5)
    if control == "retrain" and target["ci95"] is not None:
        low, high = target["ci95"]
        band(low * scale, high * scale, color=tint, alpha=0.10, linewidth=0, zorder=0.5)


def control_handles(
    report: Report, metrics: Sequence[str], controls: Sequence[str] = ("retrain",)
) -> list[Any]:
    """Return a legend's entries for the lines of :func:`reference_line`, for the controls that have one."""
    from matplotlib.lines import Line2D

    names = {"source": "source model", "retrain": "retrained model"}
    handles = []
    for control in controls:
        if any(metric in report["models"].get(control, {}) for metric in metrics):
            tint, dash = CONTROL_LOOKS[control]
            handles.append(Line2D([], [], color=tint, linestyle=dash, label=names[control]))
    return handles


def metric_title(metric: DeclaredMetric, width: int = 30) -> str:
    """Return a metric's full name in lines, the names of the sets set as formulas."""
    return typeset("\n".join(textwrap.wrap(metric.label, width)))


def short_heading(metric: DeclaredMetric) -> str:
    """Return a metric's short name with its unit, for an axis."""
    return typeset(metric.short_heading)


def models_with(report: Report, metrics: Sequence[str]) -> list[str]:
    """Return the models that have at least one of the metrics, controls first."""
    return [
        name for name in ordered_models(report) if any(metric in report["models"][name] for metric in metrics)
    ]


def measured(report: Report, metrics: Sequence[str]) -> list[str]:
    """Return those of the metrics that at least one model has."""
    return [metric for metric in metrics if any(metric in values for values in report["models"].values())]
