"""What all figures share: the data of a chart, looks, and its drawing as a picture.

A chart is data: the page draws it in the browser, where it can be asked and filtered, :func:`picture` with matplotlib.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.glossary import (
    LEAST_SEEDS,
    describe,
    interval_of,
    method_names,
    ordered_models,
    wrap_name,
)
from lightning_unlearn.reports.schema import Report, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = "retraining, stopped short"
GUESSING = "guessing"
_SHAPES = "os^DvPX"
"""Markers, as matplotlib names them."""
_INK = {
    "retrain": "#000000",
    FLOOR: "#000000",
    "retrain_2": "#666666",
    "source": "#8C8C8C",
    GUESSING: "#8C8C8C",
}
"""What is no method is grey or black."""
_GRID: dict[str, Any] = {"color": "#E0E0E0", "linewidth": 0.8}
_FEW = 15
"""Up to so many points of a line each is marked, or a reader would take a line between two for many."""
_KEY_LENGTH = 80
"""Characters that a key may take of a file's name; file systems allow 255 bytes in all."""
_LABEL_WIDTH, _LABEL_LINES = 26, 3

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Series:
    """What a panel shows of one model, or of one set of samples.

    Attributes:
        name: Its name, by which it gets its look.
        x: Where its points lie.
        y: As many; in a panel with rows their places, and of steps one less than the edges in ``x``.
        ends: Ends of each point's interval, of ``y``, or of ``x`` in a panel with rows; may be empty.
        kind: How it is drawn; "points" bear their name.
        faint: Whether it is drawn behind, as one seed behind the mean.
        look: The model whose look it has; its own without one.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    ends: Sequence[Interval] = ()
    kind: Literal["points", "line", "steps"] = "line"
    faint: bool = False
    look: str = ""


class Line(NamedTuple):
    """A line across a panel: what it stands for, the axis it is read on, its place and the ends of a band."""

    name: str
    along: Literal["x", "y"]
    at: float
    ends: Interval = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        x: Name of the axis.
        y: Name of the axis.
        series: What it shows.
        title: Its heading.
        metric: The metric it shows, by which the page can hide it.
        lines: What it is read against.
        log: Which axes are logarithmic.
        rows: Names of the rows, the first at the top, in which points lie; without any, ``y`` is a number.
        least: Ends that both axes' limits keep within, such as 0 and 100 for shares, by axis.
    """

    x: str
    y: str
    series: Sequence[Series]
    title: str = ""
    metric: str = ""
    lines: Sequence[Line] = ()
    log: str = ""
    rows: Sequence[str] = ()
    within: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def limits(self, axis: Literal["x", "y"]) -> tuple[float, float]:
        """Return what the axis shows: all means, and intervals as far as they do not press the means together."""
        if axis == "y" and self.rows:
            return len(self.rows) - 0.4, -0.6
        onto, back = (math.log10, lambda number: 10**number) if axis in self.log else (float, float)
        means = [onto(at) for one in self.series for at in getattr(one, axis)]
        means += [onto(line.at) for line in self.lines if line.along == axis]
        whiskers = [end for one in self.series for ends in one.ends if ends for end in ends]
        whiskers = whiskers if (axis == "x") == bool(self.rows) else []
        low, high = min(means), max(means)
        room = high - low or 0.1 * abs(high) or 0.1
        reach = [min(max(onto(end), low - room), high + room) for end in whiskers]
        low, high = min([low, *reach]), max([high, *reach])
        low, high = low - 0.07 * room, high + 0.07 * room
        if axis in self.within:
            least, most = self.within[axis]
            low, high = max(low, least - 0.03 * (most - least)), min(high, most + 0.03 * (most - least))
        return back(low), back(high)


Panels = Sequence[Panel]


@dataclass(frozen=True)
class Chart:
    """One figure of a report, ready to be drawn.

    Attributes:
        filename: Its name under ``figures/``.
        title: Its heading.
        alt: What it shows, in words, for those who cannot see it.
        panels: Its panels.
        model: The model it belongs to, or "".
    """

    filename: str
    title: str
    alt: str
    panels: Panels
    model: str = ""


@dataclass(frozen=True)
class FigureSpec:
    """One figure of the report, or one kind of figure of which there may be several.

    Attributes:
        filename: Its name under ``figures/``. For several figures of one kind it holds a ``*``, which stands
            for the key of each.
        title: Its heading on the page; a ``*`` is the key here too.
        alt: What it shows, in words, for those who cannot see it; a ``*`` likewise. Of intervals it says nothing, as
            :func:`with_intervals` does.
        draw: Returns its panels, none where the report lacks what it needs; where ``filename`` holds a ``*``, it
            returns each figure's under its key.
        of_model: Whether the keys are models' names, and each figure belongs to its model.
    """

    filename: str
    title: str
    alt: str
    draw: Callable[[Report, Details], Panels | Mapping[str, Panels]]
    of_model: bool = False

    def key(self, filename: str) -> str | None:
        """Return what stands for the ``*`` in a file's name ("" without one), None for files of another kind.

        Example:
            >>> spec = FigureSpec("sweep_*.png", "Sweep of *", "", lambda report, details: [])
            >>> spec.key("sweep_alpha.png"), spec.key("time.png")
            ('alpha', None)
        """
        before, star, after = self.filename.partition("*")
        found = re.fullmatch(f"{re.escape(before)}({'.+' if star else ''}){re.escape(after)}", filename)
        return None if found is None else found[1]

    def charts(self, report: Report, details: Details) -> list[Chart]:
        """Return the figures; empty where there is nothing to draw."""
        drawn = self.draw(report, details)
        several = drawn if isinstance(drawn, Mapping) else {"": drawn}
        files = file_keys(list(several))
        return [
            Chart(
                self.filename.replace("*", files[key]),
                self.title.replace("*", key),
                with_intervals(self.alt.replace("*", key), panels),
                panels,
                key if self.of_model else "",
            )
            for key, panels in several.items()
            if panels
        ]


def declare(
    filename: str, title: str, alt: str, *, of_model: bool = False
) -> Callable[[Callable[[Report, Details], Panels | Mapping[str, Panels]]], FigureSpec]:
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


def measured(report: Report, metrics: Iterable[str]) -> list[str]:
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


def goal_line(
    report: Report, metric: str, along: Literal["x", "y"] = "y", model: str = "retrain"
) -> list[Line]:
    """Return the line at a control's mean, with its interval as a band, if it has the metric."""
    value = report["models"].get(model, {}).get(metric)
    if value is None:
        return []
    scale = describe(metric, report).scale
    return [Line(model, along, value["mean"] * scale, scaled(value, scale))]


def scaled(value: Value, scale: float, zero: float = 0.0) -> Interval:
    """Return the ends of the interval that may be shown, counted from ``zero`` in units of ``1 / scale``."""
    interval = interval_of(value)
    if interval is None:
        return None
    low, high = sorted((end - zero) * scale for end in interval)
    return low, high


def with_intervals(alt: str, panels: Panels) -> str:
    """Add to what a figure shows in words whether it has intervals, where it has room for them."""
    ends = [each for panel in panels for one in panel.series for each in one.ends]
    if not ends:
        return alt
    if not any(ends):
        return f"{alt} No intervals: fewer than {LEAST_SEEDS} seeds."
    drawn = "Bars" if any(panel.rows for panel in panels) else "Bars and bands"
    return f"{alt} {drawn} are 95% intervals."


def within(metric: str, report: Report) -> tuple[float, float]:
    """Return what a metric can be: 0 to 100 of a share, as far as all means keep to it."""
    means = [values[metric]["mean"] for values in report["models"].values() if metric in values]
    share = describe(metric, report).unit == "%" and all(0 <= mean <= 1 for mean in means)
    return (0.0, 100.0) if share else (-math.inf, math.inf)


# ---------------------------------------------------------------------------------------------- looks


class Look(NamedTuple):
    """How a series is told apart: by its colour (hue in degrees, lightness and chroma, OKLCH) and its shape's place."""

    hue: float
    lightness: float
    chroma: float
    shape: int


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Give each method a colour that no other of dozens has, and each neighbour another shape.

    Hues go round by the golden angle, so that they are well apart however many there are, in three lightnesses.

    Example:
        >>> found = looks([f"method_{number}" for number in range(40)])
        >>> len({look[:3] for look in found.values()})
        40
    """
    return {
        name: Look(
            round((137.508 * place + 250) % 360, 1),
            (0.56, 0.67, 0.45)[place // 13 % 3],
            0.14,
            place % len(_SHAPES),
        )
        for place, name in enumerate(name for name in names if name not in _INK)
    }


def colour(look: Look) -> str:
    """Return the look's colour for a white ground as #rrggbb (Ottosson, "A perceptual color space", 2020)."""
    from matplotlib.colors import to_hex

    a, b = (look.chroma * part(math.radians(look.hue)) for part in (math.cos, math.sin))
    long = (look.lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (look.lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (look.lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )
    clipped = [min(max(part, 0.0), 1.0) for part in linear]
    red, green, blue = (12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055 for c in clipped)
    return str(to_hex((red, green, blue)))


def chart_looks(report: Report, panels: Panels) -> dict[str, Look]:
    """Return the looks of a chart's series: a method has the same in every chart."""
    named = [one.look or one.name for panel in panels for one in panel.series]
    methods = method_names(report)
    return looks([*methods, *dict.fromkeys(name for name in named if name not in methods)])


# ---------------------------------------------------------------------------------------------- the picture


def typeset(text: str, width: int = 40, most: int | None = None) -> str:
    """Break a text into lines, and set nothing as a formula but the names of the sets."""
    lines = wrap_name(text, width, most) if most else "\n".join(textwrap.wrap(text, width))
    return lines.replace("$", r"\$").replace("D_f", "$D_f$").replace("D_r", "$D_r$")


def picture(panels: Panels, look_of: Mapping[str, Look]) -> Figure:
    """Draw panels with matplotlib, outside pyplot, so that nobody's current figure changes.

    Args:
        panels: The panels, at least one.
        look_of: The looks of the series, by name; what has none is grey or black.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    tallest = max(len(panel.rows) for panel in panels)
    names = {one.name for panel in panels for one in panel.series} - {
        row for panel in panels for row in panel.rows
    }
    height = max((0.3 * tallest + 1.2 if tallest else 3.1) * rows, 1.2 + 0.24 * len(names))
    figure = Figure(figsize=((3.9 if columns > 1 else 6.0) * columns + 1.6, height), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    handles: dict[str, Any] = {}
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid, panels, strict=False):
        for one in panel.series:
            handle = _draw_series(axes, panel, one, look_of.get(one.look or one.name))
            if not (one.faint or one.name in panel.rows):
                handles.setdefault(typeset(one.name, _LABEL_WIDTH, _LABEL_LINES), handle)
        _draw_axes(axes, panel)
    if len(handles) > 1:
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
    return figure


def _draw_series(axes: Axes, panel: Panel, one: Series, look: Look | None) -> Any:
    ink = colour(look) if look else _INK.get(one.look or one.name, "#000000")
    dash = "--" if look is None and one.name != FLOOR else "-"
    if one.kind == "steps":
        return axes.stairs(one.y, one.x, color=ink, linestyle=dash, linewidth=1.8, baseline=None)
    marker = _SHAPES[look.shape] if look else "*"
    if one.kind == "points":
        ends = one.ends or [None] * len(one.x)
        for x, y, found in zip(one.x, one.y, ends, strict=True):
            if found and panel.rows:
                axes.plot(found, (y, y), color=ink, linewidth=1.4, zorder=3)
            elif found:
                axes.plot((x, x), found, color=ink, linewidth=1.4, zorder=3)
        return axes.plot(one.x, one.y, marker, color=ink, markersize=9, markeredgecolor="white", zorder=4)[0]
    if one.faint:
        return axes.plot(one.x, one.y, color=ink, linewidth=0.8, alpha=0.4)[0]
    if one.ends and all(one.ends):
        low, high = zip(*(ends for ends in one.ends if ends), strict=True)
        axes.fill_between(one.x, low, high, color=ink, alpha=0.1, linewidth=0)
    shown = marker if len(one.x) <= _FEW else ""
    return axes.plot(one.x, one.y, color=ink, linestyle=dash, marker=shown, markersize=4.5, linewidth=1.8)[0]


def _draw_axes(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for axis in panel.log:
        {"x": axes.set_xscale, "y": axes.set_yscale}[axis]("log")
        ticked = axes.xaxis if axis == "x" else axes.yaxis
        ticked.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ticked.set_minor_formatter(NullFormatter())
    for line in panel.lines:
        across, band = (axes.axvline, axes.axvspan) if line.along == "x" else (axes.axhline, axes.axhspan)
        across(line.at, color=_INK.get(line.name, "#000000"), linestyle="--", linewidth=1.2, zorder=1.5)
        if line.ends:
            band(*line.ends, color="#000000", alpha=0.08, linewidth=0, zorder=0.5)
    axes.set(
        xlim=panel.limits("x"), ylim=panel.limits("y"), xlabel=typeset(panel.x), ylabel=typeset(panel.y, 26)
    )
    axes.set_title(typeset(panel.title, 36), fontsize=10.5)
    if panel.rows:
        axes.set_yticks(
            range(len(panel.rows)), [typeset(name, _LABEL_WIDTH, _LABEL_LINES) for name in panel.rows]
        )
    axes.grid(**_GRID)
