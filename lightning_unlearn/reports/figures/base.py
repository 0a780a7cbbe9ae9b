"""What all figures share: how one is declared, colours, labels and the axes that several of them have."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.glossary import (
    CONTROLS,
    absent,
    describe,
    format_value,
    half_width,
    ordered_models,
    wrap_name,
)
from lightning_unlearn.reports.schema import Report, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

# Okabe & Ito's palette, told apart under every common colour blindness; black is for the retrained model.
BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
)
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)))
CONTROL_LOOKS: dict[str, dict[str, Any]] = {
    "source": {"color": "#8C8C8C", "linestyle": (0, (4, 2, 1, 2))},
    "retrain": {"color": "#000000", "linestyle": (0, (4, 2))},
    "retrain_2": {"color": "#555555", "linestyle": (0, (2, 2))},
}
IDEAL: dict[str, Any] = {"color": VERMILION, "linestyle": (0, (1.2, 1.2)), "linewidth": 1.6}
"""How a line for what is known without measuring it looks: guessing, or an untrained model."""
GRID: dict[str, Any] = {"color": "#E0E0E0", "linewidth": 0.8}
WHISKER = "#444444"

MODEL_KEYWORD = "Model"
"""Under which a PNG file says to which model it belongs."""
_KEY_LENGTH = 80
"""Characters that a key may take of a file's name; file systems allow 255 bytes in all."""
_ROW_INCHES = 0.36
_LABEL_WIDTH = 26
"""Characters of a model's name in one line of a figure."""
_MAX_LABEL_LINES = 3
_LINE_INCHES = 0.165
"""Height of one line of a 10-point label."""

Draw = Callable[[Report, Details], "Figure | Mapping[str, Figure] | None"]


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
    draw: Draw
    of_model: bool = False

    def key(self, filename: str) -> str | None:
        """Return what stands for the ``*`` in a file's name ("" without one), None for files of another kind.

        Example:
            >>> spec = FigureSpec("sweep_*.png", "Sweep of *", "", lambda report, details: None)
            >>> spec.key("sweep_alpha.png"), spec.key("time.png")
            ('alpha', None)
        """
        before, star, after = self.filename.partition("*")
        found = re.fullmatch(f"{re.escape(before)}({'.+' if star else ''}){re.escape(after)}", filename)
        return None if found is None else found[1]

    def figures(self, report: Report, details: Details) -> list[DrawnFigure]:
        """Draw; empty where there is nothing to draw."""
        drawn = self.draw(report, details) or {}
        several = drawn if isinstance(drawn, Mapping) else {"": drawn}
        files = file_keys(list(several))
        figures = []
        for key, figure in several.items():
            words = {"Title": self.title.replace("*", key), "Description": self.alt.replace("*", key)}
            if self.of_model:
                words[MODEL_KEYWORD] = key
            figures.append(DrawnFigure(self.filename.replace("*", files[key]), words, figure))
        return figures


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


def declare(filename: str, title: str, alt: str, *, of_model: bool = False) -> Callable[[Draw], FigureSpec]:
    """Make a figure of the function below, see :class:`FigureSpec`; it is listed in ``figures/__init__.py``."""
    return lambda draw: FigureSpec(filename, title, alt, draw, of_model)


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


# ---------------------------------------------------------------------------------------------- what there is to draw


def models_with(report: Report, metrics: Sequence[str]) -> list[str]:
    """Return the models that have at least one of the metrics, controls first."""
    return [
        name for name in ordered_models(report) if any(metric in report["models"][name] for metric in metrics)
    ]


def measured(report: Report, metrics: Sequence[str]) -> list[str]:
    """Return those of the metrics that at least one model has."""
    return [metric for metric in metrics if any(metric in values for values in report["models"].values())]


def noted(report: Report, details: Details, evaluator: str, *keys: str) -> dict[str, list[Mapping[str, Any]]]:
    """Return what an evaluator noted, model by model and run by run, where it noted all of the keys."""
    found = {}
    for name in ordered_models(report):
        runs = [cast(Mapping[str, Any], run).get(evaluator, {}) for run in details.get(name, {}).values()]
        if complete := [run for run in runs if run.keys() >= {*keys}]:
            found[name] = complete
    return found


# ---------------------------------------------------------------------------------------------- figures and panels


def new_figure(width: float, height: float) -> Figure:
    """Return a figure outside pyplot, so that nobody's current figure changes and nothing stays in memory."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panel_grid(
    items: Sequence[T],
    columns: int,
    *,
    panel: tuple[float, float],
    around: tuple[float, float],
    least_height: float = 0.0,
    **shared: Any,
) -> tuple[Figure, list[tuple[Axes, T, bool]]]:
    """Return a figure with a panel an item, in rows of equal length.

    Args:
        items: What the panels show.
        columns: The most panels in a row.
        panel: Width and height of a panel in inches.
        around: What the figure takes beside them.
        least_height: The least height of the figure.
        **shared: Whether panels share axes.

    Returns:
        The figure, and for each item its axes and whether no panel stands below it.
    """
    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    width, height = around[0] + panel[0] * columns, around[1] + panel[1] * rows
    figure = new_figure(width, max(height, least_height))
    grid = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for axes in grid[len(items) :]:
        axes.set_axis_off()
    lowest = [place + columns >= len(items) for place in range(len(items))]
    return figure, list(zip(grid, items, lowest, strict=False))


def legend(figure: Figure, handles: Mapping[str, Any], place: str = "right upper", **more: Any) -> None:
    """Put a legend outside the panels, each label with its handle."""
    look: dict[str, Any] = {"loc": f"outside {place}", "frameon": False, "handlelength": 3.0}
    figure.legend(handles.values(), handles.keys(), **look, **more)


def line_handle(label: str, **look: Any) -> Any:
    """Return a legend's entry for a line that is drawn as ``look`` says."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **look)


# ---------------------------------------------------------------------------------------------- words and looks


def model_label(name: str, width: int = _LABEL_WIDTH) -> str:
    """Break a model's name into lines, and keep matplotlib from reading it as a formula."""
    return wrap_name(name, width, _MAX_LABEL_LINES).replace("$", r"\$")


def typeset(text: str, width: int | None = None) -> str:
    """Set the names of the sets as formulas, and break a text into lines of so many characters."""
    lines = [text] if width is None else textwrap.wrap(text, width)
    return "\n".join(lines).replace("$", r"\$").replace("D_f", "$D_f$").replace("D_r", "$D_r$")


def line_styles(models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Give each model a colour, a marker and a dash that together no other of up to 42 methods has."""
    styles = {control: {**look, "marker": "*"} for control, look in CONTROL_LOOKS.items()}
    for index, name in enumerate(name for name in models if name not in CONTROLS):
        styles[name] = {
            "color": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[index % len(MARKERS)],
            "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
        }
    return styles


def reference_line(
    axes: Axes, report: Report, metric: str, *, along: str = "x", control: str = "retrain"
) -> None:
    """Mark a control's mean as a broken line, and the retrained model's 95% interval as a band too."""
    target = report["models"].get(control, {}).get(metric)
    if target is None:
        return
    scale = describe(metric, report).scale
    line, band = (axes.axvline, axes.axvspan) if along == "x" else (axes.axhline, axes.axhspan)
    look = CONTROL_LOOKS[control]
    line(target["mean"] * scale, linewidth=1.2, zorder=1.5, **look)
    if control == "retrain" and target["ci95"] is not None:
        low, high = target["ci95"]
        band(low * scale, high * scale, color=look["color"], alpha=0.10, linewidth=0, zorder=0.5)


def control_handles(
    report: Report, metrics: Sequence[str], controls: Sequence[str] = ("retrain",)
) -> dict[str, Any]:
    """Return a legend's entries for the lines of :func:`reference_line`, for the controls that have one."""
    labels = {"source": "source model", "retrain": "retrained model"}
    return {
        labels[control]: line_handle(labels[control], **CONTROL_LOOKS[control])
        for control in controls
        if any(metric in report["models"].get(control, {}) for metric in metrics)
    }


# ---------------------------------------------------------------------------------------------- a row a model


def rows_height(models: Sequence[str], inches: float = _ROW_INCHES) -> float:
    """Return the inches that one row a model takes; rows grow with the longest name."""
    lines = max(model_label(name).count("\n") + 1 for name in models)
    return max(inches, _LINE_INCHES * lines + 0.06) * max(len(models), 3)


def model_rows(axes: Axes, models: Sequence[str]) -> None:
    """Give each model a row, the first at the top, with its name at the left."""
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.set_yticks(range(len(models)), [model_label(name) for name in models])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", **GRID)


def row_text(axes: Axes, row: float, text: str, **look: Any) -> None:
    """Print something at the right of a row."""
    axes.text(1.03, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9, **look)


def metric_bars(axes: Axes, report: Report, metric: str, models: Sequence[str]) -> None:
    """Draw one metric as horizontal bars with intervals, and print the numbers in a column at the right."""
    about = describe(metric, report)
    scale, ends = about.scale, [0.0]
    model_rows(axes, models)
    for row, name in enumerate(models):
        value = report["models"][name].get(metric)
        if value is None:
            row_text(axes, row, absent(report, name, metric) or "not measured")
            continue
        tint = CONTROL_LOOKS.get(name, {"color": BLUE})["color"]
        axes.barh(row, value["mean"] * scale, height=0.66, color=tint, zorder=2)
        if (half := half_width(value)) is not None:
            whisker(axes, value["mean"] * scale, row, half * scale)
        row_text(axes, row, format_value(about, value))
        ends.append(value["mean"])
    reference_line(axes, report, metric)
    if about.ideal is not None:
        axes.axvline(about.ideal * scale, zorder=1.6, **IDEAL)
    if min(ends) >= 0 and max(ends) <= 1:
        axes.set_xlim(0, scale)
    axes.set_title(typeset(about.label, 30))
    axes.set_xlabel(typeset(about.short_heading))


def whisker(axes: Axes, mean: float, row: float, half: float) -> None:
    """Draw an interval over a bar, grey with a light edge: a black one is lost on the retrained model's black bar."""
    for tint, line in (("white", 3.2), (WHISKER, 1.4)):
        axes.errorbar(
            mean, row, xerr=half, fmt="none", ecolor=tint, elinewidth=line, capsize=3, capthick=line, zorder=3
        )


def interval(value: Value) -> list[float]:
    """Return the ends of a value's 95% interval, or its mean where there is none."""
    return value["ci95"] or [value["mean"]]
