"""The figures: which are drawn, what their marks stand at, and that they disturb nobody."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_unlearn import reports
from lightning_unlearn.reports import FIGURES, draw_figures, posterior_histograms
from lightning_unlearn.reports.figures import Details
from lightning_unlearn.reports.schema import Report

MakeDetails = Callable[[Report], Details]


def spec(filename: str) -> Any:
    return next(entry for entry in FIGURES if entry.filename == filename)


@pytest.mark.parametrize("fixture", ["large_report", "one_seed_report"])
def test_all_figures_are_pictures(
    request: pytest.FixtureRequest, tmp_path: Path, make_details: MakeDetails, fixture: str
) -> None:
    from matplotlib.image import imread

    report = request.getfixturevalue(fixture)
    paths = draw_figures(report, tmp_path / "figures", make_details(report))
    assert [path.name for path in paths] == [entry.filename for entry in FIGURES]
    assert sorted(paths) == sorted((tmp_path / "figures").iterdir())
    for path in paths:
        picture = imread(path)
        assert min(picture.shape[:2]) >= 250
        # A blank or nearly blank canvas has hardly a dark pixel.
        assert (picture[..., :3].mean(axis=2) < 0.5).mean() > 0.002


def test_absent_metrics_draw_nothing_and_remove_what_is_stale(tmp_path: Path, small_report: Report) -> None:
    assert {path.name for path in draw_figures(small_report, tmp_path)} == {
        "accuracy.png", "membership_inference.png", "trade_off.png", "time.png",
    }  # fmt: skip
    (tmp_path / "own.png").write_bytes(b"the user's own file")
    for metrics in small_report["models"].values():
        for name in [name for name in metrics if name.startswith(("membership_inference", "time"))]:
            del metrics[name]
    assert {path.name for path in draw_figures(small_report, tmp_path)} == {"accuracy.png", "trade_off.png"}
    assert {path.name for path in tmp_path.iterdir()} == {"accuracy.png", "trade_off.png", "own.png"}


def test_report_without_models_has_no_figures(tmp_path: Path, small_report: Report) -> None:
    small_report["models"] = {}
    assert draw_figures(small_report, tmp_path) == []


def test_bars_stand_at_the_means(small_report: Report) -> None:
    figure = spec("accuracy.png").draw(small_report, {})
    for axes, metric in zip(
        figure.axes, ("accuracy/forget", "accuracy/retain", "accuracy/test"), strict=True
    ):
        widths = [patch.get_width() for patch in axes.patches if patch.get_height() == pytest.approx(0.66)]
        expected = [
            100 * small_report["models"][model][metric]["mean"]
            for model in ("source", "retrain", "reference_kl")
        ]
        assert widths == pytest.approx(expected)
        dashed = [
            line.get_xdata()[0]
            for line in axes.lines
            if len(set(line.get_xdata())) == 1 and line.get_linestyle() == "--"
        ]
        assert 100 * small_report["models"]["retrain"][metric]["mean"] in dashed


def test_trade_off_points_stand_at_the_means(large_report: Report) -> None:
    figure = spec("trade_off.png").draw(large_report, {})
    axes = figure.axes[0]
    found = {
        container.get_label(): (container.lines[0].get_xdata()[0], container.lines[0].get_ydata()[0])
        for container in axes.containers
    }
    assert len(found) == len(large_report["models"])
    metrics = large_report["models"]["wgan"]
    assert found["wgan"] == pytest.approx(
        (100 * metrics["accuracy/test"]["mean"], 100 * metrics["membership_inference/accuracy"]["mean"])
    )
    looks = {
        (container.lines[0].get_color(), container.lines[0].get_marker()) for container in axes.containers
    }
    assert len(looks) == len(found)


def test_time_axis_is_a_log_only_for_a_wide_range(small_report: Report) -> None:
    assert spec("time.png").draw(small_report, {}).axes[0].get_xscale() == "linear"
    for name in ("time/total_s", "time/prepare_s", "time/unlearn_s"):
        value: Any = small_report["models"]["reference_kl"][name]
        value["mean"] /= 100
        value["ci95"] = [end / 100 for end in value["ci95"]]
    axes = spec("time.png").draw(small_report, {}).axes[0]
    assert axes.get_xscale() == "log"
    assert not axes.patches  # a bar's length would mean nothing


def test_no_labels_overlap(large_report: Report, make_details: MakeDetails) -> None:
    """The visible texts of each figure, measured by the renderer, keep clear of each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for entry in FIGURES:
        figure = entry.draw(large_report, make_details(large_report))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        boxes = [
            (text.get_text(), text.get_window_extent(renderer))
            for text in figure.findobj(Text)
            if text.get_visible() and text.get_text().strip() and text.axes is not None
            and text.get_window_extent(renderer).width > 0
        ]  # fmt: skip
        # Tick labels outside the limits are found too but not drawn; the canvas clips them away.
        width, height = canvas.get_width_height()
        drawn = [
            (name, box)
            for name, box in boxes
            if box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width + 1 and box.y1 <= height + 1
        ]
        for index, (name, box) in enumerate(drawn):
            for other_name, other in drawn[index + 1 :]:
                overlap_x = min(box.x1, other.x1) - max(box.x0, other.x0)
                overlap_y = min(box.y1, other.y1) - max(box.y0, other.y0)
                same = name == other_name and abs(box.x0 - other.x0) < 1 and abs(box.y0 - other.y0) < 1
                assert same or overlap_x <= 1 or overlap_y <= 2, (
                    f"{entry.filename}: {name!r} on {other_name!r}"
                )


def test_confusion_matrices_are_summed_over_the_seeds(small_report: Report) -> None:
    details: Details = {
        "source": {
            0: {"membership_inference": {"confusion": [[3, 1], [2, 2]]}},
            1: {"membership_inference": {"confusion": [[4, 0], [1, 3]]}},
        }
    }
    texts = [
        text.get_text() for text in spec("membership_confusion.png").draw(small_report, details).axes[0].texts
    ]
    assert texts == ["87.5 %\n(7)", "12.5 %\n(1)", "37.5 %\n(3)", "62.5 %\n(5)"]


def test_roc_curves_are_averaged_over_the_seeds(small_report: Report) -> None:
    details: Details = {
        "source": {
            0: {"membership_inference": {"fpr": [0, 1], "tpr": [0, 1]}},
            1: {"membership_inference": {"fpr": [0, 0.5, 1], "tpr": [0, 1, 1]}},
        }
    }
    line = next(
        line
        for line in spec("membership_roc.png").draw(small_report, details).axes[0].lines
        if line.get_label() == "source"
    )
    x, y = line.get_data()
    assert np.interp(0.5, x, y) == pytest.approx((0.5 + 1.0) / 2)
    assert np.interp(0.25, x, y) == pytest.approx((0.25 + 0.5) / 2)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"confusion": [[1, 2, 3], [4, 5, 6]]}, "2 rows of 2 counts"),
        ({"confusion": [[1, -2], [4, 5]]}, "2 rows of 2 counts"),
        ({"fpr": [0, 1, 0.5], "tpr": [0, 0.5, 1]}, "fpr must ascend"),
        ({"fpr": [0, 1], "tpr": [0, 0.5, 1]}, "as long as tpr"),
    ],
)
def test_wrong_details_are_refused(tmp_path: Path, small_report: Report, run: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_figures(small_report, tmp_path, {"source": {0: {"membership_inference": run}}})
    assert not list(tmp_path.glob(".*"))


def test_posterior_histograms_hold_the_shares() -> None:
    values = np.random.default_rng(0).beta(2, 1, 500)
    figure = posterior_histograms({"a": {"forget set": values, "retain set": values[:100]}}, bins=10)
    stairs = {patch.get_label(): patch.get_data() for patch in figure.axes[0].patches}
    counts, edges = np.histogram(values, bins=10, range=(0, 1))
    assert stairs["forget set"].values == pytest.approx(100 * counts / 500)
    assert stairs["forget set"].edges == pytest.approx(edges)
    assert stairs["retain set"].values.sum() == pytest.approx(100)


@pytest.mark.parametrize(
    ("posteriors", "bins", "message"),
    [
        ({}, 10, "at least one model"),
        ({"a": {}}, 10, "at least one set"),
        ({"a": {"s": []}}, 10, "n > 0"),
        ({"a": {"s": [0.5, 1.5]}}, 10, "lie in"),
        ({"a": {"s": [0.5, float("nan")]}}, 10, "lie in"),
        ({"a": {"s": [[0.5]]}}, 10, "shape"),
        ({"a": {"s": [0.5]}}, 1, "bins must be at least 2"),
        ({"a": {str(index): [0.5] for index in range(7)}}, 10, "at most 6"),
    ],
)
def test_wrong_posteriors_are_refused(posteriors: Any, bins: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        posterior_histograms(posteriors, bins=bins)


def test_dollar_in_a_name_is_no_formula(tmp_path: Path, small_report: Report) -> None:
    small_report["models"]["a$_{b$"] = small_report["models"].pop("reference_kl")
    assert draw_figures(small_report, tmp_path)


def test_importing_the_room_loads_no_heavy_library() -> None:
    """Other packages may load them all the same, so the modules' own imports are read and not sys.modules."""
    heavy = {"matplotlib", "jinja2", "scipy", "wandb", "pandas", "sklearn", "yaml"}
    for file in Path(reports.__file__).parent.glob("*.py"):
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            names += [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & heavy, file.name


def test_drawing_leaves_pyplot_as_it_was(tmp_path: Path, small_report: Report) -> None:
    import matplotlib
    from matplotlib import pyplot

    backend, before = matplotlib.get_backend(), matplotlib.rcParams.copy()
    assert draw_figures(small_report, tmp_path)
    assert pyplot.get_fignums() == []
    assert matplotlib.get_backend() == backend
    assert matplotlib.rcParams == before
