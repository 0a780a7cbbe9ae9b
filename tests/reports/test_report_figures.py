"""The figures: which are drawn, what their marks stand at, and that they disturb nobody."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_unlearn import reports
from lightning_unlearn.reports import FIGURES, Details, build_report, draw_figures, posterior_histograms
from lightning_unlearn.reports.figures.sweeps import find_sweeps
from lightning_unlearn.reports.figures.trade_off import ForgettingAxis, forgetting_axis
from lightning_unlearn.reports.schema import Report, summarise

MakeDetails = Callable[[Report], Details]


def spec(filename: str) -> Any:
    return next(entry for entry in FIGURES if entry.filename == filename)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fixture", "present", "absent"),
    [
        ("attacked_report", {"sweep_wgan_alpha.png", "sweep_reference_kl_lambda.png"}, set()),
        (
            "one_seed_report",
            set(),
            {"backdoor.png", "unlearning_degree.png", "relearn_time.png", "sweep_*.png"},
        ),
    ],
)
def test_all_figures_are_pictures(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_details: MakeDetails,
    fixture: str,
    present: set[str],
    absent: set[str],
) -> None:
    from matplotlib.image import imread

    report = request.getfixturevalue(fixture)
    details = make_details(report)
    paths = draw_figures(report, tmp_path / "figures", details)
    once = {entry.filename for entry in FIGURES} - {"sweep_*.png", "training_*.png", "scores_*.png"}
    once -= {"cost_quality.png"}  # these reports have no short retrainings
    once |= {f"training_{model}.png" for model, runs in details.items() if "training_curves" in runs[0]}
    assert {path.name for path in paths} == (once | present) - absent
    order = [
        next(place for place, entry in enumerate(FIGURES) if entry.key(path.name) is not None)
        for path in paths
    ]
    assert order == sorted(order)
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
    (tmp_path / "sweep_gone.png").write_bytes(b"a sweep of an earlier report")
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
        (100 * metrics["accuracy/test"]["mean"], 100 * metrics["membership_inference/hit_rate"]["mean"])
    )
    looks = {
        (container.lines[0].get_color(), container.lines[0].get_marker()) for container in axes.containers
    }
    assert len(looks) == len(found)


def test_no_share_above_all_of_it_is_written_on_an_axis(large_report: Report) -> None:
    """The axes reach a little beyond 100, so that no marker is cut."""
    for values in large_report["models"].values():
        for value in values.values():
            value["mean"], value["ci95"] = 0.99, [0.62, 1.2]
    axes = spec("trade_off.png").draw(large_report, {}).axes[0]
    for ticks, limits in ((axes.get_xticks(), axes.get_xlim()), (axes.get_yticks(), axes.get_ylim())):
        assert limits[1] > 102
        assert len(ticks) >= 4
        assert max(ticks) == 100


def test_time_axis_is_a_log_only_for_a_wide_range(small_report: Report) -> None:
    assert spec("time.png").draw(small_report, {}).axes[0].get_xscale() == "linear"
    for name in ("time/total_s", "time/prepare_s", "time/unlearn_s"):
        value: Any = small_report["models"]["reference_kl"][name]
        value["mean"] /= 100
        value["ci95"] = [end / 100 for end in value["ci95"]]
    axes = spec("time.png").draw(small_report, {}).axes[0]
    assert axes.get_xscale() == "log"
    assert not axes.patches  # a bar's length would mean nothing


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["large_report", "attacked_report", "one_seed_report"])
def test_no_labels_overlap(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, make_details: MakeDetails, fixture: str
) -> None:
    """The visible texts of each figure, measured by the renderer, keep clear of each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    report = request.getfixturevalue(fixture)
    details = make_details(report)
    seen: list[Text] = []
    draw = Text.draw

    def record(self: Text, *arguments: Any) -> None:
        seen.append(self)  # a tick's label outside the limits exists as well, but is not drawn
        draw(self, *arguments)

    monkeypatch.setattr(Text, "draw", record)
    for entry in FIGURES:
        for one in entry.figures(report, details):
            filename = one.filename
            canvas = FigureCanvasAgg(one.figure)
            seen.clear()
            canvas.draw()
            width, height = canvas.get_width_height()
            drawn = [
                (text.get_text(), text.get_window_extent(canvas.get_renderer()))
                for text in seen
                if text.get_visible() and text.get_text().strip()
            ]
            assert len(drawn) > 3
            for name, box in drawn:
                inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
                assert inside, f"{filename}: {name!r} is cut off"
            for index, (name, box) in enumerate(drawn):
                for other_name, other in drawn[index + 1 :]:
                    overlap_x = min(box.x1, other.x1) - max(box.x0, other.x0)
                    overlap_y = min(box.y1, other.y1) - max(box.y0, other.y0)
                    same = name == other_name and abs(box.x0 - other.x0) < 1 and abs(box.y0 - other.y0) < 1
                    assert same or overlap_x <= 1 or overlap_y <= 2, f"{filename}: {name!r} on {other_name!r}"


def controls(
    source: dict[str, tuple[float, ...]], retrain: dict[str, tuple[float, ...]], **models: Any
) -> Report:
    """Build a report from the values of each model's metrics, one a seed."""
    every = {"source": source, "retrain": retrain, **models}
    count = len(next(iter(source.values())))
    runs = {
        model: {seed: {name: values[seed] for name, values in metrics.items()} for seed in range(count)}
        for model, metrics in every.items()
        if metrics
    }
    return build_report(runs, seeds=range(count), config={}, data={}, environment={})


BACKDOOR, ATTACK, FORGET = "backdoor/success_rate_forget", "membership_inference/hit_rate", "accuracy/forget"
# Mean 0.50, half-width 4.3027 * 0.02 / sqrt(3) = 0.0497: the interval is [0.450, 0.550].
AROUND = (0.48, 0.50, 0.52)
INSIDE, OUTSIDE = (0.54,) * 3, (0.56,) * 3


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({BACKDOOR: OUTSIDE, ATTACK: OUTSIDE, FORGET: OUTSIDE}, (BACKDOOR, "separates")),
        ({BACKDOOR: INSIDE, ATTACK: OUTSIDE, FORGET: OUTSIDE}, (ATTACK, "separates")),
        ({BACKDOOR: INSIDE, ATTACK: INSIDE, FORGET: OUTSIDE}, (FORGET, "separates")),
        ({ATTACK: INSIDE, FORGET: OUTSIDE}, (FORGET, "separates")),
        ({BACKDOOR: INSIDE, ATTACK: INSIDE, FORGET: INSIDE}, (ATTACK, "no separation")),
        ({FORGET: INSIDE}, (FORGET, "no separation")),
    ],
)
def test_trade_off_is_drawn_against_what_tells_the_controls_apart(
    source: dict[str, tuple[float, ...]], expected: tuple[str, str]
) -> None:
    retrain = dict.fromkeys((BACKDOOR, ATTACK, FORGET), AROUND)
    choice = forgetting_axis(controls(source, retrain))
    assert choice is not None
    assert (choice.metric, choice.reason) == expected


def test_trade_off_with_one_seed_takes_the_widest_gap() -> None:
    source = {BACKDOOR: (0.10,), ATTACK: (0.60,), FORGET: (1.00,)}
    retrain = {BACKDOOR: (0.02,), ATTACK: (0.50,), FORGET: (0.97,)}
    assert forgetting_axis(controls(source, retrain)) == ForgettingAxis(ATTACK, "widest gap")
    assert forgetting_axis(controls(source, source)) == ForgettingAxis(ATTACK, "no separation")
    assert forgetting_axis(controls(source, {})) == ForgettingAxis(ATTACK, "no controls")
    assert forgetting_axis(controls({"accuracy/test": (0.9,)}, {})) is None


def test_trade_off_says_what_it_is_drawn_against() -> None:
    test = {"accuracy/test": (0.90, 0.91, 0.92)}
    report = controls({ATTACK: INSIDE, FORGET: OUTSIDE, **test}, {ATTACK: AROUND, FORGET: AROUND, **test})
    axes = spec("trade_off.png").draw(report, {}).axes[0]
    assert axes.get_ylabel() == "Accuracy on the forget set $D_f$ [%]"
    assert "tells the source model" in axes.get_title(loc="left")
    blind = controls({ATTACK: INSIDE, **test}, {ATTACK: AROUND, **test})
    assert "no forgetting metric" in spec("trade_off.png").draw(blind, {}).axes[0].get_title(loc="left")


def named(*models: str) -> Report:
    return controls({"accuracy/test": (0.9,)}, {}, **{model: {"accuracy/test": (0.8,)} for model in models})


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (("a_1", "a_2"), {}),
        (("a_1", "a_2", "a_2.0"), {}),
        (("a_10", "a_2", "a_1e-3"), {"a": [1e-3, 2.0, 10.0]}),
        (("a-b=.5", "a-b=1", "a-b=-2"), {"a-b": [-2.0, 0.5, 1.0]}),
        (("x_0.1_k_1", "x_0.1_k_2", "x_0.1_k_3", "x_0.2_k_1"), {"x_0.1_k": [1.0, 2.0, 3.0]}),
        (("a_1", "a_2", "a_3", "b 1", "b 2", "b 3"), {"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]}),
        (("resnet18", "resnet34", "resnet50", "_1", "_2", "_3", "v_1.2.3", "v_1.2.4", "v_1.2.5"), {}),
    ],
)
def test_sweeps_are_found_by_their_names(models: tuple[str, ...], expected: dict[str, list[float]]) -> None:
    assert {
        stem: [value for value, _ in members] for stem, members in find_sweeps(named(*models)).items()
    } == expected


def test_sweep_stands_at_the_means_and_skips_what_is_missing(attacked_report: Report) -> None:
    del attacked_report["models"]["wgan_alpha_0.6"]["membership_inference/fnr"]
    figures = spec("sweep_*.png").draw(attacked_report, {})
    assert set(figures) == {"wgan_alpha", "reference_kl_lambda"}
    panels = {axes.get_ylabel(): axes for axes in figures["wgan_alpha"].axes if axes.get_ylabel()}
    assert list(panels) == [
        "test accuracy [%]", "forget accuracy [%]", "backdoor on $D_f$ [%]", "recovered accuracy [%]",
        "MIA FNR [%]", "MIA AUC", "degree", "similarity",
    ]  # fmt: skip
    for heading, metric, values in (
        ("test accuracy [%]", "accuracy/test", (0.2, 0.6, 1.0)),
        ("MIA FNR [%]", "membership_inference/fnr", (0.2, 1.0)),
    ):
        (line,) = panels[heading].containers[0].lines[:1]
        x, y = line.get_data()
        means = [100 * attacked_report["models"][f"wgan_alpha_{value}"][metric]["mean"] for value in values]
        assert list(x) == list(values)
        assert y == pytest.approx(means)
        low, high = panels[heading].containers[0].lines[1]
        ends = [attacked_report["models"][f"wgan_alpha_{value}"][metric]["ci95"] for value in values]
        assert low.get_ydata() == pytest.approx([100 * end[0] for end in ends])
        assert high.get_ydata() == pytest.approx([100 * end[1] for end in ends])
        level = {
            round(float(drawn.get_ydata()[0]), 9)
            for drawn in panels[heading].lines
            if len(drawn.get_ydata()) == 2 and drawn.get_ydata()[0] == drawn.get_ydata()[1]
        }
        assert level == {
            round(100 * attacked_report["models"][control][metric]["mean"], 9)
            for control in ("source", "retrain")
        }
        assert panels[heading].get_xscale() == "linear"
    assert all(
        axes.get_xscale() == "log" for axes in figures["reference_kl_lambda"].axes if axes.get_ylabel()
    )


@pytest.mark.parametrize(
    ("values", "scale", "thinned"),
    [
        (("1", "10", "20"), "linear", None),
        (("1", "10", "20.5"), "log", None),
        (("0", "1", "20"), "linear", "1"),
        (("0", "1", "50"), "symlog", None),
        (("-1", "1", "50"), "linear", "1"),
    ],
)
def test_parameter_axis_is_a_log_beyond_a_factor_of_twenty(
    values: tuple[str, ...], scale: str, thinned: str | None
) -> None:
    figures = spec("sweep_*.png").draw(named(*(f"k_{value}" for value in values)), {})
    axes = figures["k"].axes[0]
    assert axes.get_xscale() == scale
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == [value for value in values if value != thinned]
    low, high = axes.get_xlim()
    assert low < float(values[0])
    assert float(values[-1]) < high


def test_crowded_parameters_get_fewer_ticks() -> None:
    figures = spec("sweep_*.png").draw(named(*(f"k_{value}" for value in range(100, 150))), {})
    labels = [label.get_text() for label in figures["k"].axes[0].get_xticklabels()]
    assert 3 <= len(labels) <= 15
    assert labels[0] == "100"


def test_sweeps_of_like_names_get_files_of_their_own(tmp_path: Path) -> None:
    stems = ("a b", "a/b", "A_b", "..", "a" * 300)
    report = named(*(f"{stem}_{value}" for stem in stems for value in (1, 2, 3)))
    names = [path.name for path in draw_figures(report, tmp_path) if path.name.startswith("sweep")]
    assert len({name.lower() for name in names}) == len(stems)
    assert all(path.parent == tmp_path for path in tmp_path.rglob("*.png"))
    assert "sweep_a_b.png" in names
    assert "sweep_a_b-2.png" in names


def test_backdoor_bars_stand_at_the_means(attacked_report: Report) -> None:
    figure = spec("backdoor.png").draw(attacked_report, {})
    metrics = ("success_rate_forget", "success_rate_test", "recovered_accuracy")
    for axes, metric in zip(figure.axes, metrics, strict=True):
        widths = [patch.get_width() for patch in axes.patches if patch.get_height() == pytest.approx(0.66)]
        assert widths == pytest.approx(
            [100 * values[f"backdoor/{metric}"]["mean"] for values in attacked_report["models"].values()]
        )


def curve_of(*runs: dict[str, list[float]]) -> Details:
    return {"reference_kl": {seed: {"backdoor": {"curve": run}} for seed, run in enumerate(runs)}}


def test_backdoor_curve_is_the_mean_over_the_seeds_with_its_interval(small_report: Report) -> None:
    details = curve_of(
        {"epoch": [0, 1, 2], "success_rate_forget": [0.9, 0.4, 0.1]},
        {"epoch": [0, 2], "success_rate_forget": [0.8, 0.3]},
        {"epoch": [0, 1, 2, 3], "success_rate_forget": [1.0, 0.4, 0.2, 0.0]},
    )
    (axes,) = spec("backdoor_curve.png").draw(small_report, details).axes
    (line,) = axes.lines
    assert list(line.get_xdata()) == [0, 2]  # the epochs that every seed measured
    assert line.get_ydata() == pytest.approx([90, 20])
    (band,) = axes.collections
    ends = {tuple(point) for point in band.get_paths()[0].vertices.round(6)}
    half = (
        4.302652729749464 * 10 / 3**0.5
    )  # Student t with two degrees of freedom; both spreads are 10 points
    for epoch, mean in ((0, 90), (2, 20)):
        assert (epoch, round(max(mean - half, 0), 6)) in ends
        assert (epoch, round(min(mean + half, 100), 6)) in ends


def test_backdoor_curve_of_one_seed_has_no_band(small_report: Report) -> None:
    details = curve_of({"epoch": [0, 1], "clean_accuracy": [0.9, 0.8]})
    (axes,) = spec("backdoor_curve.png").draw(small_report, details).axes
    assert not axes.collections
    assert axes.lines[0].get_ydata() == pytest.approx([90, 80])


def test_a_model_that_never_relearned_has_no_bar(attacked_report: Report) -> None:
    for model, values in attacked_report["models"].items():
        values["relearn_time/reached"] = summarise([float(model != "top_k")] * 3)
    del attacked_report["models"]["top_k"]["relearn_time/steps"]
    bars, *_ = spec("relearn_time.png").draw(attacked_report, {}).axes
    drawn = [bar for bar in bars.patches if bar.get_height() == pytest.approx(0.66)]
    assert len(drawn) == len(attacked_report["models"]) - 1
    assert [text.get_text() for text in bars.texts].count("never") == 1


def test_relearn_time_stands_beside_the_course_of_the_loss(attacked_report: Report) -> None:
    runs = {
        seed: {"relearn_time": {"target": 0.1, "losses": losses, "losses_fresh": [3.0, 1.0]}}
        for seed, losses in enumerate(([2.0, 0.5, 0.1], [1.0, 0.1], [3.0, 0.0]))
    }
    figure = spec("relearn_time.png").draw(attacked_report, {"top_k": runs})
    bars, losses = figure.axes
    models = attacked_report["models"]
    ordered = ["source", "retrain", *(name for name in models if name not in ("source", "retrain"))]
    assert [
        bar.get_width() for bar in bars.patches if bar.get_height() == pytest.approx(0.66)
    ] == pytest.approx([models[name]["relearn_time/steps"]["mean"] for name in ordered])
    lines = {line.get_label(): list(line.get_ydata()) for line in losses.lines}
    assert lines["top_k"] == pytest.approx([2.0, 0.2]), "the mean, up to where the first seed ends"
    assert lines["untrained model"] == pytest.approx([3.0, 1.0])
    assert lines["counts as learned"][0] == pytest.approx(0.1)
    assert len(spec("relearn_time.png").draw(attacked_report, {}).axes) == 1


def test_no_legend_hides_a_curve(small_report: Report) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    steps = list(range(0, 101, 10))
    for level in (1.0, 0.6, 0.0):
        curves = {f"accuracy/{name}": {"step": steps, "value": [level] * 11} for name in ("forget", "retain", "test")}  # fmt: skip
        runs: Any = {0: {"training_curves": curves}}
        figure = spec("training_*.png").draw(small_report, {"reference_kl": runs})["reference_kl"]
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        axes = figure.axes[0]
        legend = axes.get_legend()
        assert legend is not None
        box = legend.get_window_extent(canvas.get_renderer())
        assert not any(box.contains(*axes.transData.transform((step, 100 * level))) for step in steps)
        assert axes.get_window_extent().contains(box.x0, box.y0), "it reaches into the next panel"
        assert axes.get_window_extent().contains(box.x1, box.y1), "it reaches into the next panel"


def test_training_curves_are_those_that_were_logged(small_report: Report) -> None:
    steps = [9, 19, 29]
    runs = {
        seed: {
            "training_curves": {
                "train/ce": {"step": steps, "value": [1.0 + seed, 0.5, 0.25]},
                "train/loss": {"step": steps, "value": [2.0 + seed, 1.0, 0.5]},
                "train/gradient_norm": {"step": steps, "value": [3.0, 2.0, 1.0]},
                # the last seed stopped early
                "accuracy/forget": {"step": [10, 20][: 2 - seed // 2], "value": [0.9, 0.3][: 2 - seed // 2]},
                "accuracy/test": {"step": [10, 20], "value": [0.8, 0.7]},
                "train/accuracy_retain": {"step": steps, "value": [0.5, 0.6, 0.7]},
                "backdoor/combined": {"step": [0, 20], "value": [0.5, 0.9]},
            }
        }
        for seed in (0, 1, 2)
    }
    figures = spec("training_*.png").draw(small_report, {"reference_kl": runs})
    assert set(figures) == {"reference_kl"}
    panels = {axes.get_title(): axes for axes in figures["reference_kl"].axes if axes.get_title()}
    assert list(panels) == [
        "train/loss", "train/ce", "Accuracy (dashed: retrained)", "Accuracy on the batches", "train/gradient_norm",
    ]  # fmt: skip
    assert [panels[name].get_ylabel() for name in panels] == [
        "loss", "loss", "accuracy [%]", "accuracy [%]", "Euclidean norm",
    ]  # fmt: skip
    *thin, mean = panels["train/loss"].lines
    assert [list(line.get_ydata()) for line in thin] == [[2.0 + seed, 1.0, 0.5] for seed in (0, 1, 2)]
    assert list(mean.get_xdata()) == steps
    assert list(mean.get_ydata()) == pytest.approx([3.0, 1.0, 0.5])
    accuracy = panels["Accuracy (dashed: retrained)"]
    thick = {line.get_label(): line for line in accuracy.lines if not line.get_label().startswith("_")}
    assert list(thick["forget set"].get_xdata()) == [10], "the mean stands where every seed was measured"
    assert list(thick["test set"].get_ydata()) == pytest.approx([80.0, 70.0])
    dashed = [line.get_ydata()[0] for line in accuracy.lines if line.get_linestyle() == "--"]
    assert dashed == [
        pytest.approx(100 * small_report["models"]["retrain"][f"accuracy/{name}"]["mean"])
        for name in ("forget", "test")
    ]


@pytest.mark.slow
def test_each_file_says_what_it_shows(
    tmp_path: Path, small_report: Report, make_details: MakeDetails
) -> None:
    from PIL import Image

    name = "méthode/*$1"
    small_report["models"][name] = small_report["models"].pop("reference_kl")
    details = {name: make_details(small_report)[name]}
    for path in draw_figures(small_report, tmp_path, details):
        words = Image.open(path).info
        entry = next(entry for entry in FIGURES if entry.key(path.name) is not None)
        assert (words.get("Model") == name) == entry.of_model
        assert words["Title"] == entry.title.replace("*", name)
        assert words["Description"] == entry.alt.replace("*", name)
    assert (tmp_path / "training_m_thode_1.png").exists()


def test_unlearning_degree_is_never_without_its_control(attacked_report: Report) -> None:
    figure = spec("unlearning_degree.png").draw(attacked_report, {})
    both, difference = figure.axes
    models = attacked_report["models"]
    for axes, metrics in ((both, ("degree", "null")), (difference, ("calibrated",))):
        shown = [container.lines[0].get_xdata()[0] for container in axes.containers]
        expected = [
            values[f"unlearning_degree/{metric}"]["mean"] for values in models.values() for metric in metrics
        ]
        assert shown == pytest.approx(expected)
    marked = [text.get_text() for text in both.texts if text.get_text().endswith("1/3")]
    assert len(marked) == 1  # top_k, whose second seed did not meet the constraint
    assert marked[0].startswith(f"{models['top_k']['unlearning_degree/degree']['mean']:.3f}")
    assert any("constraint" in text.get_text() for text in figure.legends[0].texts)
    for values in models.values():
        values.pop("unlearning_degree/constraint_met")
    figure = spec("unlearning_degree.png").draw(attacked_report, {})
    assert not any("constraint" in text.get_text() for text in figure.legends[0].texts)


def test_posteriors_before_and_after_stand_over_each_other(small_report: Report) -> None:
    values = {"source": [0.9999] * 4, "retrain": [0.5, 0.5, 0.9, 0.9], "reference_kl": [0.5, 0.9, 0.9, 0.9]}
    details: Details = {
        model: {0: {"posteriors": {"non-member set": [0.5], "forget set": shown}}}
        for model, shown in values.items()
    }
    figure = spec("posterior_change.png").draw(small_report, details)
    assert [axes.get_title() for axes in figure.axes] == ["forget set", "non-member set"]
    found = {patch.get_linestyle(): patch.get_data() for patch in figure.axes[0].patches}
    assert len(found) == 3
    for model, data in zip(values, found.values(), strict=True):
        # Bins that are equally wide in the log-odds between 1e-6 and 1 - 1e-6.
        odds = np.log(data.edges / (1 - data.edges))
        assert np.diff(odds) == pytest.approx(2 * np.log(999999) / len(data.values), rel=1e-6)
        expected = np.histogram(np.log(np.divide(values[model], 1 - np.array(values[model]))), odds)[0]
        assert data.values == pytest.approx(25 * expected)
    del details["source"]
    assert spec("posterior_change.png").draw(small_report, details) is None


def test_log_odds_axis_keeps_what_is_beyond_its_ends() -> None:
    figure = posterior_histograms({"a": {"forget set": [0.0, 1.0, 1.0, 0.5]}}, bins=5, scale="log-odds")
    assert figure.axes[0].patches[0].get_data().values == pytest.approx([25, 0, 25, 0, 50])


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


def test_unknown_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="scale must be one of 'linear', 'log-odds', got 'log'"):
        posterior_histograms({"a": {"s": [0.5]}}, scale="log")  # type: ignore[arg-type]


def test_dollar_in_a_name_is_no_formula(tmp_path: Path, small_report: Report) -> None:
    small_report["models"]["a$_{b$"] = small_report["models"].pop("reference_kl")
    assert draw_figures(small_report, tmp_path)


def test_importing_the_room_loads_no_heavy_library() -> None:
    """Other packages may load them all the same, so the modules' own imports are read and not sys.modules."""
    heavy = {"matplotlib", "jinja2", "scipy", "wandb", "pandas", "sklearn", "yaml"}
    for file in Path(reports.__file__).parent.rglob("*.py"):
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
