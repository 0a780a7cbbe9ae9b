"""The figures: which are drawn, what their marks stand at, and that they disturb nobody."""

import ast
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_unlearn import reports
from lightning_unlearn.reports import FIGURES, Details, build_report, draw_figures, posterior_histograms
from lightning_unlearn.reports.figures.base import Panel, Series, chart_looks, colour, looks, picture
from lightning_unlearn.reports.figures.sweeps import find_sweeps
from lightning_unlearn.reports.figures.trade_off import ForgettingAxis, forgetting_axis
from lightning_unlearn.reports.glossary import describe
from lightning_unlearn.reports.schema import Report, summarise

MakeDetails = Callable[[Report], Details]


def panels(filename: str, report: Report, details: Details | None = None) -> Any:
    """Return the panels of a figure, or of several by their keys."""
    return next(entry for entry in FIGURES if entry.filename == filename).draw(report, details or {})


def named_series(panel: Panel) -> dict[str, Series]:
    return {one.name: one for one in panel.series if not one.faint}


@pytest.mark.slow
def test_all_figures_are_pictures(tmp_path: Path, attacked_report: Report, make_details: MakeDetails) -> None:
    from matplotlib.image import imread
    from PIL import Image

    name = "m\u00e9thode/*$1_{b$"
    attacked_report["models"][name] = attacked_report["models"].pop("top_k")
    paths = draw_figures(attacked_report, tmp_path / "figures", make_details(attacked_report))
    assert [path.name for path in paths] == [
        "cost_quality.png", "differences.png", "trade_off.png", "sweep_wgan_alpha.png", "sweep_reference_kl_lambda.png",
        "backdoor_curve.png", "relearn_time.png", "membership_roc.png",
    ]  # fmt: skip
    assert sorted(paths) == sorted((tmp_path / "figures").iterdir())
    for path in paths:
        shown = imread(path)
        assert min(shown.shape[:2]) >= 250
        # A blank or nearly blank canvas has hardly a dark pixel.
        assert (shown[..., :3].mean(axis=2) < 0.5).mean() > 0.002
        entry = next(entry for entry in FIGURES if entry.key(path.name) is not None)
        words, key = Image.open(path).info, str(entry.key(path.name))
        assert words["Title"] == entry.title.replace("*", key)
        assert words["Description"].startswith(entry.alt.replace("*", key))


def test_absent_metrics_draw_nothing_and_remove_what_is_stale(tmp_path: Path, small_report: Report) -> None:
    assert {path.name for path in draw_figures(small_report, tmp_path)} == {
        "cost_quality.png", "differences.png", "trade_off.png",
    }  # fmt: skip
    (tmp_path / "own.png").write_bytes(b"the user's own file")
    (tmp_path / "sweep_gone.png").write_bytes(b"a sweep of an earlier report")
    for metrics in small_report["models"].values():
        for name in metrics.keys() - {"accuracy/test", "accuracy/forget"}:
            del metrics[name]
    drawn = {path.name for path in draw_figures(small_report, tmp_path)}
    assert "cost_quality.png" not in drawn
    assert {path.name for path in tmp_path.iterdir()} == drawn | {"own.png"}
    small_report["models"] = {}
    assert draw_figures(small_report, tmp_path) == []


def test_differences_stand_at_the_paired_differences(small_report: Report) -> None:
    (panel,) = (each for each in panels("differences.png", small_report) if each.metric == "accuracy/test")
    values = {
        model: np.array(metrics["accuracy/test"]["values"])
        for model, metrics in small_report["models"].items()
    }
    assert panel.rows == ["source", "reference_kl"], "the retrained model is the line"
    for row, model in enumerate(panel.rows):
        one = named_series(panel)[model]
        assert one.x == pytest.approx([100 * (values[model] - values["retrain"]).mean()])
        assert one.y == [row]
        low, high = one.ends[0]  # type: ignore[misc]
        assert low < one.x[0] < high
        assert one.x[0] - low == pytest.approx(high - one.x[0])
    (line,) = panel.lines
    assert (line.along, line.at, line.ends) == ("x", 0.0, (-1.0, 1.0)), (
        "the margin of test accuracy is a point"
    )


def test_a_blind_metric_stands_apart(large_report: Report) -> None:
    for model in ("source", "retrain"):
        large_report["models"][model]["membership_inference/auc"] = dict(  # type: ignore[assignment]
            large_report["models"]["retrain"]["membership_inference/auc"]
        )
    seen = {panel.metric for panel in panels("differences.png", large_report)}
    blind = {panel.metric for panel in panels("blind.png", large_report)}
    assert "membership_inference/auc" in blind
    assert "membership_inference/hit_rate" in seen
    assert not blind & seen
    one_seed = controls(
        {"accuracy/forget": (0.9,)}, {"accuracy/forget": (0.9,)}, a={"accuracy/forget": (0.9,)}
    )
    assert panels("blind.png", one_seed) == [], "one seed cannot show that a metric is blind"
    assert named_series(panels("differences.png", one_seed)[0])["a"].ends == [None]


def test_trade_off_points_stand_at_the_means(large_report: Report) -> None:
    (panel,) = panels("trade_off.png", large_report)
    found = named_series(panel)
    assert found.keys() == large_report["models"].keys()
    metrics = large_report["models"]["wgan"]
    assert found["wgan"].x == pytest.approx([100 * metrics["accuracy/test"]["mean"]])
    assert found["wgan"].y == pytest.approx([100 * metrics[panel.metric]["mean"]])
    for values in large_report["models"].values():
        for value in values.values():
            value["mean"], value["ci95"] = 0.99, [0.62, 1.2]
    (panel,) = panels("trade_off.png", large_report)
    assert panel.limits("x")[1] < 105, "no share above all of it"


def test_no_two_of_39_methods_look_alike(large_report: Report) -> None:
    found = looks([f"method_{number}" for number in range(39)])
    colours = [colour(look) for look in found.values()]
    assert len(set(colours)) == 39
    channels = np.array([[int(one[at : at + 2], 16) for at in (1, 3, 5)] for one in colours])
    apart = np.abs(channels[:, None] - channels[None]).max(-1) + 255 * np.eye(39)
    assert apart.min() >= 8
    for first, second in zip(found.values(), list(found.values())[1:], strict=False):
        assert first.shape != second.shape
    trade, cost = (
        chart_looks(large_report, panels(f"{name}.png", large_report))
        for name in ("trade_off", "cost_quality")
    )
    assert trade["wgan"] == cost["wgan"], "a method looks alike in every chart"


@pytest.mark.parametrize(
    ("hue", "lightness", "chroma", "expected"),
    [(29.23, 0.62796, 0.25768, "#ff0000"), (142.5, 0.86644, 0.29483, "#00ff00"), (0.0, 1.0, 0.0, "#ffffff")],
)
def test_colours_are_those_of_oklch(hue: float, lightness: float, chroma: float, expected: str) -> None:
    """sRGB's corners, whose coordinates CSS Color 4 lists."""
    from lightning_unlearn.reports.figures.base import Look

    assert colour(Look(hue, lightness, chroma, 0)) == expected


def test_limits_hold_all_means_and_cut_long_whiskers() -> None:
    panel = Panel("x", "y", [Series("a", [1.0, 100.0], [0.0, 10.0], [(-500.0, 2.0), (9.0, 11.0)])], log="x")
    low, high = panel.limits("y")
    assert (low, high) == (pytest.approx(-10.7), pytest.approx(11.7))
    low, high = panel.limits("x")
    assert math.log10(low) == pytest.approx(-0.14)
    assert math.log10(high) == pytest.approx(2.14)
    flat = Panel("x", "y", [Series("a", [1.0], [0.0])])
    assert flat.limits("y")[0] < 0 < flat.limits("y")[1]


def test_cost_and_quality_stand_where_they_were_measured(small_report: Report) -> None:
    models = small_report["models"]
    models["retrain_10pct"] = {name: dict(value) for name, value in models["retrain"].items()}  # type: ignore[misc]
    models["retrain_10pct"]["time/total_s"] = {
        "mean": 1.4, "std": 0.0, "ci95": [1.4, 1.4], "values": [1.4, 1.4, 1.4],
    }  # fmt: skip
    accuracy, gap = panels("cost_quality.png", small_report)
    found = named_series(accuracy)
    share = np.mean(
        [
            100 * own / whole
            for own, whole in zip(
                models["reference_kl"]["time/total_s"]["values"],
                models["retrain"]["time/total_s"]["values"],
                strict=True,
            )
        ]
    )
    assert found["reference_kl"].x == pytest.approx([share])
    assert found["reference_kl"].y == pytest.approx([100 * models["reference_kl"]["accuracy/test"]["mean"]])
    assert found["retraining, stopped short"].x == pytest.approx([10, 100], rel=0.02)
    source, retrain, own = (
        models[name][gap.metric]["mean"] for name in ("source", "retrain", "reference_kl")
    )
    assert named_series(gap)["reference_kl"].y == pytest.approx([100 * (own - source) / (retrain - source)])
    assert gap.lines[0].at == pytest.approx(100)


def test_the_line_of_short_retrainings_is_seen_unless_it_would_press_the_methods_together() -> None:
    def lowest(first: float) -> tuple[float, float]:
        test, time = "accuracy/test", "time/total_s"
        models = {
            "retrain": (0.97, 10.0),
            "retrain_5pct": (first, 0.5),
            "good": (0.98, 1.0),
            "bad": (0.96, 1.0),
        }
        scores = {name: {test: (accuracy,), time: (t,)} for name, (accuracy, t) in models.items()}
        (panel,) = panels(
            "cost_quality.png", controls({test: (0.95,), time: (10.0,)}, scores.pop("retrain"), **scores)
        )
        return panel.limits("y")

    assert lowest(0.935)[0] < 93.5
    low, high = lowest(0.50)
    assert low > 50
    assert (high - low) / 4 <= 2.0, "the methods, two points apart, still fill a quarter of the panel"


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


BACKDOOR, ATTACK, FORGET = "backdoor/success_rate_forget", "membership_inference/auc", "accuracy/forget"
HIT_RATE = "membership_inference/hit_rate"  # decides nothing, since it moves with a model's confidence alone
# Mean 0.50, half-width 4.3027 * 0.02 / sqrt(3) = 0.0497: the interval is [0.450, 0.550].
AROUND = (0.48, 0.50, 0.52)
INSIDE, OUTSIDE = (0.54,) * 3, (0.56,) * 3


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({BACKDOOR: OUTSIDE, ATTACK: OUTSIDE, FORGET: OUTSIDE}, (BACKDOOR, "separates")),
        ({BACKDOOR: INSIDE, ATTACK: OUTSIDE, FORGET: OUTSIDE}, (FORGET, "separates")),
        ({BACKDOOR: INSIDE, ATTACK: OUTSIDE, FORGET: INSIDE}, (ATTACK, "separates")),
        ({ATTACK: INSIDE, FORGET: OUTSIDE}, (FORGET, "separates")),
        ({BACKDOOR: INSIDE, ATTACK: INSIDE, FORGET: INSIDE}, (ATTACK, "no separation")),
        ({FORGET: INSIDE}, (FORGET, "no separation")),
        ({HIT_RATE: OUTSIDE, FORGET: OUTSIDE}, (FORGET, "separates")),
        ({HIT_RATE: OUTSIDE, FORGET: INSIDE}, (FORGET, "no separation")),
        ({HIT_RATE: OUTSIDE}, (HIT_RATE, "separates")),
    ],
)
def test_trade_off_is_drawn_against_what_tells_the_controls_apart(
    source: dict[str, tuple[float, ...]], expected: tuple[str, str]
) -> None:
    retrain = dict.fromkeys(source, AROUND)
    choice = forgetting_axis(controls(source, retrain))
    assert choice is not None
    assert (choice.metric, choice.reason) == expected


def test_trade_off_with_one_seed_takes_the_widest_gap() -> None:
    source = {BACKDOOR: (0.10,), ATTACK: (0.60,), FORGET: (1.00,), HIT_RATE: (0.94,)}
    retrain = {BACKDOOR: (0.02,), ATTACK: (0.50,), FORGET: (0.97,), HIT_RATE: (0.43,)}
    assert forgetting_axis(controls(source, retrain)) == ForgettingAxis(ATTACK, "widest gap")
    assert forgetting_axis(controls(source, source)) == ForgettingAxis(ATTACK, "no separation")
    assert forgetting_axis(controls(source, {})) == ForgettingAxis(ATTACK, "no controls")
    assert forgetting_axis(controls({"accuracy/test": (0.9,)}, {})) is None


def test_trade_off_says_what_it_is_drawn_against() -> None:
    test = {"accuracy/test": (0.90, 0.91, 0.92)}
    report = controls({ATTACK: INSIDE, FORGET: OUTSIDE, **test}, {ATTACK: AROUND, FORGET: AROUND, **test})
    (panel,) = panels("trade_off.png", report)
    assert panel.y == "Accuracy on the forget set D_f [%]"
    assert "tells the source model" in panel.title
    blind = controls({ATTACK: INSIDE, **test}, {ATTACK: AROUND, **test})
    assert "no forgetting metric" in panels("trade_off.png", blind)[0].title


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
    figures = panels("sweep_*.png", attacked_report)
    assert set(figures) == {"wgan_alpha", "reference_kl_lambda"}
    by_heading = {panel.y: panel for panel in figures["wgan_alpha"]}
    assert list(by_heading) == [
        "test accuracy [%]", "forget accuracy [%]", "retain minus forget accuracy [%]", "backdoor on D_f [%]", "recovered accuracy [%]",
        "MIA FNR [%]", "MIA AUC", "degree", "similarity",
    ]  # fmt: skip
    for heading, metric, values in (
        ("test accuracy [%]", "accuracy/test", (0.2, 0.6, 1.0)),
        ("MIA FNR [%]", "membership_inference/fnr", (0.2, 1.0)),
    ):
        (one,) = by_heading[heading].series
        models = [attacked_report["models"][f"wgan_alpha_{value}"][metric] for value in values]
        assert one.x == list(values)
        assert one.y == pytest.approx([100 * value["mean"] for value in models])
        assert [end for ends in one.ends for end in ends or ()] == pytest.approx(
            [100 * end for value in models for end in value["ci95"] or ()]
        )
        assert {line.name: line.at for line in by_heading[heading].lines} == pytest.approx(
            {name: 100 * attacked_report["models"][name][metric]["mean"] for name in ("source", "retrain")}
        )
        assert by_heading[heading].log == ""
    assert all(panel.log == "x" for panel in figures["reference_kl_lambda"])


def test_a_sweep_shows_where_retain_and_forget_accuracy_are_furthest_apart(attacked_report: Report) -> None:
    for value, low, high in (("0.2", 0.7, 0.9), ("0.6", 0.5, 0.95), ("1.0", 0.6, 0.8)):
        for name, mean in (("forget", low), ("retain", high)):
            numbers = [mean, mean + 0.01, None] if name == "forget" else [mean - 0.02, mean, mean]
            attacked_report["models"][f"wgan_alpha_{value}"][f"accuracy/{name}"] = summarise(numbers)
    drawn = panels("sweep_*.png", attacked_report)["wgan_alpha"]
    (panel,) = (each for each in drawn if each.y == "retain minus forget accuracy [%]")
    assert panel.title == "retain minus forget accuracy: largest at 0.6"
    (one,) = panel.series
    assert (one.x, one.y) == ([0.2, 0.6, 1.0], pytest.approx([18.5, 43.5, 18.5])), (
        "paired, where both are known"
    )
    assert "accuracy/retain_minus_forget" not in attacked_report["models"]["wgan_alpha_0.6"]


@pytest.mark.parametrize(
    ("values", "log"),
    [(("1", "10", "20"), ""), (("1", "10", "20.5"), "x"), (("0", "1", "50"), ""), (("-1", "1", "50"), "")],
)
def test_parameter_axis_is_a_log_beyond_a_factor_of_twenty(values: tuple[str, ...], log: str) -> None:
    (panel,) = panels("sweep_*.png", named(*(f"k_{value}" for value in values)))["k"]
    assert panel.log == log
    assert panel.limits("x")[0] < float(values[0])


def test_sweeps_of_like_names_get_files_of_their_own(tmp_path: Path) -> None:
    stems = ("a b", "a/b", "A_b", "..", "a" * 300)
    report = named(*(f"{stem}_{value}" for stem in stems for value in (1, 2, 3)))
    entry = next(one for one in FIGURES if one.filename == "sweep_*.png")
    names = [chart.filename for chart in entry.charts(report, {})]
    assert len({name.lower() for name in names}) == len(stems)
    assert not any("/" in name for name in names)
    assert {"sweep_a_b.png", "sweep_a_b-2.png"} <= set(names)


def curve_of(*runs: dict[str, list[float]]) -> Details:
    return {"reference_kl": {seed: {"backdoor": {"curve": run}} for seed, run in enumerate(runs)}}


def test_backdoor_curve_is_the_mean_over_the_seeds_with_its_interval(small_report: Report) -> None:
    details = curve_of(
        {"epoch": [0, 1, 2], "success_rate_forget": [0.9, 0.4, 0.1]},
        {"epoch": [0, 2], "success_rate_forget": [0.8, 0.3]},
        {"epoch": [0, 1, 2, 3], "success_rate_forget": [1.0, 0.4, 0.2, 0.0]},
    )
    ((one,),) = (panel.series for panel in panels("backdoor_curve.png", small_report, details))
    assert one.x == [0, 2]  # the epochs that every seed measured
    assert one.y == pytest.approx([90, 20])
    half = (
        4.302652729749464 * 10 / 3**0.5
    )  # Student t with two degrees of freedom; both spreads are 10 points
    assert one.ends == [pytest.approx((mean - half, mean + half)) for mean in (90, 20)]
    details = curve_of({"epoch": [0, 1], "clean_accuracy": [0.9, 0.8]})
    assert panels("backdoor_curve.png", small_report, details)[0].series[0].ends == [None, None]


def test_loss_while_relearning_is_the_mean_up_to_where_the_first_seed_ends(attacked_report: Report) -> None:
    runs: Any = {
        seed: {"relearn_time": {"target": 0.1, "losses": losses, "losses_fresh": [3.0, 1.0]}}
        for seed, losses in enumerate(([2.0, 0.5, 0.1], [1.0, 0.1], [3.0, 0.0]))
    }
    (panel,) = panels("relearn_time.png", attacked_report, {"top_k": runs})
    assert named_series(panel)["top_k"].y == pytest.approx([2.0, 0.2])
    assert named_series(panel)["untrained model"].y == pytest.approx([3.0, 1.0])
    assert panel.lines[0].at == pytest.approx(0.1)
    assert panels("relearn_time.png", attacked_report) == []


def test_training_curves_are_those_that_were_logged(small_report: Report) -> None:
    steps = [9, 19, 29]
    runs: Any = {
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
    figures = panels("training_*.png", small_report, {"reference_kl": runs})
    assert {name for name, each in figures.items() if each} == {"reference_kl"}
    by_title = {panel.title: panel for panel in figures["reference_kl"]}
    assert {title: panel.y for title, panel in by_title.items()} == {
        "train/loss": "loss", "train/ce": "loss", "Accuracy (dashed: retrained)": "accuracy [%]",
        "Accuracy on the batches": "accuracy [%]", "train/gradient_norm": "Euclidean norm",
    }  # fmt: skip
    loss = by_title["train/loss"]
    assert [one.y for one in loss.series if one.faint] == [[2.0 + seed, 1.0, 0.5] for seed in (0, 1, 2)]
    assert named_series(loss)["reference_kl"].y == pytest.approx([3.0, 1.0, 0.5])
    accuracy = by_title["Accuracy (dashed: retrained)"]
    assert named_series(accuracy)["forget set"].x == [10], "the mean stands where every seed was measured"
    assert named_series(accuracy)["test set"].y == pytest.approx([80.0, 70.0])
    assert [line.at for line in accuracy.lines] == [
        pytest.approx(100 * small_report["models"]["retrain"][f"accuracy/{name}"]["mean"])
        for name in ("forget", "test")
    ]


def test_posteriors_before_and_after_stand_over_each_other(small_report: Report) -> None:
    values = {"source": [0.9999] * 4, "retrain": [0.5, 0.5, 0.9, 0.9], "reference_kl": [0.5, 0.9, 0.9, 0.9]}
    details: Details = {
        model: {0: {"posteriors": {"non-member set": [0.5], "forget set": shown}}}
        for model, shown in values.items()
    }
    figures = panels("posteriors_*.png", small_report, details)
    assert list(figures) == ["reference_kl"]
    assert [panel.title for panel in figures["reference_kl"]] == ["forget set", "non-member set"]
    found = named_series(figures["reference_kl"][0])
    assert list(found) == ["source", "retrain", "reference_kl"]
    for model, one in found.items():
        # Bins that are equally wide in the log-odds between 1e-6 and 1 - 1e-6.
        assert np.diff(one.x) == pytest.approx(2 * np.log(999999) / len(one.y), rel=1e-6)
        expected = np.histogram(np.log(np.divide(values[model], 1 - np.array(values[model]))), one.x)[0]
        assert one.y == pytest.approx(25 * expected)


def test_weights_before_and_after_stand_over_each_other(small_report: Report) -> None:
    """Shares from quantiles against those that numpy counts; each model's of both seeds."""
    scales = {"source": 1.0, "retrain": 1.5, "reference_kl": 0.5}
    drawn = {
        m: [np.random.default_rng(seed).normal(0, s, 20001) for seed in (0, 1)] for m, s in scales.items()
    }
    details: Details = {
        model: {
            seed: {"weights": np.quantile(each, np.linspace(0, 1, 201)).tolist()}
            for seed, each in enumerate(runs)
        }
        for model, runs in drawn.items()
    }
    figures = panels("weights_*.png", small_report, details)
    assert list(figures) == ["reference_kl"]
    found = named_series(figures["reference_kl"][0])
    assert list(found) == list(scales)
    for model, one in found.items():
        assert one.x == pytest.approx(found["source"].x)
        expected = np.mean([100 * np.histogram(each, one.x)[0] / len(each) for each in drawn[model]], axis=0)
        assert one.y == pytest.approx(expected, abs=0.25)
    assert sum(found["source"].y) == pytest.approx(99, abs=0.2), "half a percent on either side lies beyond"
    assert not panels("weights_*.png", small_report, {"reference_kl": details["reference_kl"]})


def test_roc_curves_are_averaged_over_the_seeds(small_report: Report) -> None:
    details: Details = {
        "source": {
            0: {"membership_inference": {"fpr": [0, 1], "tpr": [0, 1]}},
            1: {"membership_inference": {"fpr": [0, 0.5, 1], "tpr": [0, 1, 1]}},
        }
    }
    linear, _ = panels("membership_roc.png", small_report, details)
    one = named_series(linear)["source"]
    assert np.interp(0.5, one.x, one.y) == pytest.approx((0.5 + 1.0) / 2)
    assert np.interp(0.26, one.x, one.y) == pytest.approx((0.26 + 0.52) / 2)


def test_posterior_histograms_hold_the_shares() -> None:
    values = np.random.default_rng(0).beta(2, 1, 500)
    figure = posterior_histograms({"a": {"forget set": values, "retain set": values[:100]}}, bins=10)
    counts, edges = np.histogram(values, bins=10, range=(0, 1))
    by_set = [axes.get_title() for axes in figure.axes]
    assert by_set == ["a"], "a panel a model"
    forget, retain = (patch.get_data() for patch in figure.axes[0].patches)
    assert forget.values == pytest.approx(100 * counts / 500)
    assert forget.edges == pytest.approx(edges)
    assert retain.values.sum() == pytest.approx(100)
    figure = posterior_histograms({"a": {"forget set": [0.0, 1.0, 1.0, 0.5]}}, bins=5, scale="log-odds")
    assert figure.axes[0].patches[0].get_data().values == pytest.approx([25, 0, 25, 0, 50]), "beyond its ends"


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


def test_a_long_name_of_an_axis_stays_within_the_picture() -> None:
    name = describe(ATTACK).heading
    panel = Panel(
        "x", name, [Series("a", [0.0, 1.0], [0.0, 1.0])], "A title in four lines, as long as this one " * 3
    )
    figure = picture([panel], {})
    figure.canvas.draw()
    box = figure.axes[0].yaxis.label.get_window_extent()
    assert 0 <= box.y0 < box.y1 <= figure.bbox.height


def test_a_picture_shows_its_data() -> None:
    series = [
        Series("a$_{b$", [1.0], [2.0], [(1.5, 2.5)], kind="points"),
        Series("line", [0.0, 1.0], [0.0, 1.0]),
    ]
    figure = picture([Panel("x", "y", series, "title")], looks(["a$_{b$", "line"]))
    whisker, point, line = figure.axes[0].lines
    assert list(whisker.get_ydata()) == [1.5, 2.5]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (1.0, 2.0)
    assert list(line.get_xdata()) == [0.0, 1.0]
    assert len(figure.legends[0].texts) == 2
    figure.canvas.draw()  # a dollar in a name is no formula


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
