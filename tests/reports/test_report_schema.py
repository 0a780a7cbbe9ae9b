"""The contract of report.json: summaries against scipy, alignment by seed, strictness, round trips."""

import copy
import getpass
import json
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_unlearn.reports import build_report, read_json, write_json
from lightning_unlearn.reports.schema import Report, summarise, validate, versions


@pytest.mark.parametrize("n", [2, 3, 5, 17])
def test_summary_agrees_with_scipy(n: int) -> None:
    values = np.random.default_rng(n).normal(0.9, 0.05, n)
    summary = summarise(values.tolist())
    expected = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert summary["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert summary["std"] == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert summary["ci95"] == pytest.approx(list(expected), rel=1e-9)


def test_one_seed_has_no_spread() -> None:
    assert summarise([0.5]) == {"mean": 0.5, "std": None, "ci95": None, "values": [0.5]}


def test_equal_values_have_an_interval_of_width_zero() -> None:
    summary = summarise([0.1] * 3)
    assert (summary["mean"], summary["std"]) == (0.1, 0.0)
    assert summary["ci95"] == pytest.approx([0.1, 0.1], abs=1e-15)


def test_missing_seed_is_left_out_of_the_mean() -> None:
    assert summarise([1.0, None, 3.0]) == {**summarise([1.0, 3.0]), "values": [1.0, None, 3.0]}


@pytest.mark.parametrize("values", [[], [None], [1.0, float("nan")], [float("inf")]])
def test_summary_refuses_what_has_no_mean(values: list[float | None]) -> None:
    with pytest.raises(ValueError, match="values must"):
        summarise(values)


def minimal(
    runs: dict[str, dict[int, dict[str, float]]], seeds: tuple[int, ...] = (0, 1), **more: Any
) -> Report:
    return build_report(runs, seeds=seeds, **{"config": {}, "data": {}, "environment": {}, **more})


def test_values_follow_the_seeds_and_absent_metrics_stay_absent() -> None:
    report = minimal({"a": {7: {"x": 7.0, "y": 1.0}, 3: {"x": 3.0}}, "failed": {}}, seeds=(3, 7, 5))
    assert report["seeds"] == [3, 7, 5]
    assert report["models"]["a"]["x"]["values"] == [3.0, 7.0, None]
    assert report["models"]["a"]["y"] == {"mean": 1.0, "std": None, "ci95": None, "values": [None, 1.0, None]}
    assert set(report["models"]) == {"a"}
    assert set(report["models"]["a"]) == {"x", "y"}


def test_number_that_is_none_is_a_failure_and_not_a_value() -> None:
    report = minimal({"a": {0: {"x": float("nan"), "y": float("inf")}, 1: {"x": 2.0}}})
    assert report["models"]["a"]["x"]["values"] == [None, 2.0]
    assert "y" not in report["models"]["a"]
    assert [(entry["seed"], entry["error"]) for entry in report["failures"]] == [
        (0, "x came out as nan"),
        (0, "y came out as inf"),
    ]


def test_tensors_and_numpy_scalars_are_numbers() -> None:
    report = minimal({"a": {0: {"x": torch.tensor(0.5)}, 1: {"x": np.float64(0.25)}}})  # type: ignore[dict-item]
    assert report["models"]["a"]["x"]["values"] == [0.5, 0.25]


def test_seed_outside_the_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"holds the seeds \[9\]"):
        minimal({"a": {9: {"x": 1.0}}})


def test_config_becomes_plain() -> None:
    class Colour(Enum):
        RED = "red"

    config = {
        "path": Path("a") / "b",
        "tuple": (1, 2.5),
        "set": {"b", "a"},
        "enum": Colour.RED,
        "array": np.arange(2),
        "tensor": torch.tensor(3),
        "limits": [float("inf"), -float("inf"), float("nan")],
        5: True,
    }
    plain = minimal({}, config=config)["config"]
    assert plain == {
        "path": str(Path("a") / "b"),
        "tuple": [1, 2.5],
        "set": ["a", "b"],
        "enum": "red",
        "array": [0, 1],
        "tensor": 3,
        "limits": [".inf", "-.inf", ".nan"],
        "5": True,
    }
    json.dumps(plain, allow_nan=False)


def test_config_without_plain_form_is_refused_by_its_place() -> None:
    with pytest.raises(TypeError, match=r"config\.a\[1\]\.b is a object"):
        minimal({}, config={"a": [0, {"b": object()}]})


def test_round_trip(tmp_path: Path, large_report: Report) -> None:
    path = write_json(large_report, tmp_path / "report.json")
    assert read_json(path) == large_report
    assert list(tmp_path.iterdir()) == [path]


def test_the_hit_rate_s_earlier_name_is_written_and_read(small_report: Report, tmp_path: Path) -> None:
    path = write_json(small_report, tmp_path / "report.json")
    written = json.loads(path.read_text())
    for values in written["models"].values():
        assert values["membership_inference/accuracy"] == values["membership_inference/hit_rate"]
        del values["membership_inference/hit_rate"]
    written["schema_version"] = 1
    written["metrics"] = {"membership_inference/accuracy": {"label": "Accuracy", "decides": "forgetting"}}
    path.write_text(json.dumps(written))
    read = read_json(path)
    assert read["metrics"] == {}
    assert read["models"] == small_report["models"]


def test_report_has_the_contract_s_keys(large_report: Report) -> None:
    assert list(large_report) == [
        "schema_version", "versions", "config", "seeds", "data", "models", "failures",
    ]  # fmt: skip
    assert large_report["schema_version"] == 2
    for metrics in large_report["models"].values():
        for value in metrics.values():
            assert list(value) == ["mean", "std", "ci95", "values"]
            assert len(value["values"]) == 3


def corrupt(path: tuple[Any, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(report: dict[str, Any]) -> None:
        for key in path[:-1]:
            report = report[key]
        if value is KeyError:
            del report[path[-1]]
        else:
            report[path[-1]] = value

    return apply


VALUE = ("models", "retrain", "accuracy/test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (corrupt(("schema_version",), 3), "schema_version: Input should be 1 or 2, got 3"),
        (corrupt(("schema_version",), KeyError), "schema_version: Field required"),
        (corrupt(("seeds",), []), "seeds: List should have at least 1 item"),
        (corrupt(("seeds",), [0, 0, 1]), "seeds must differ"),
        (corrupt(("seeds",), [0, 1]), "must hold one entry for each of 2 seeds"),
        (corrupt(("data",), KeyError), "data: Field required"),
        (corrupt(("models",), []), "models: Input should be a valid dictionary"),
        (corrupt((*VALUE, "std"), KeyError), "std: Field required"),
        (corrupt((*VALUE, "mean"), float("nan")), "mean: Input should be a finite number, got nan"),
        (corrupt((*VALUE, "mean"), 0.5), "the values have the mean"),
        (corrupt((*VALUE, "std"), -1.0), "std: Input should be greater than or equal to 0"),
        (corrupt((*VALUE, "ci95"), None), "std and ci95 must be null with one number and only then"),
        (corrupt((*VALUE, "ci95"), [0.0, 0.1]), "does not hold the mean"),
        (corrupt((*VALUE, "values"), [0.9, "0.9", 0.9]), r"values\.1: Input should be a valid number"),
        (corrupt((*VALUE, "values"), [None, None, None]), "at least one"),
        (corrupt(("ledger",), {"request": "17"}), "ledger: Input should be a valid list"),
        (corrupt(("ledger",), ["17"]), r"ledger\.0: Input should be a valid dictionary"),
        (corrupt(("failures",), [{"model": "a"}]), r"failures\.0\.seed: Field required"),
        (
            corrupt(("failures",), [{"model": "a", "seed": "0", "error": ""}]),
            r"failures\.0\.seed: Input should be a valid integer",
        ),
    ],
)
def test_broken_report_is_refused(
    small_report: Report, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    broken: Any = copy.deepcopy(small_report)
    change(broken)
    with pytest.raises(ValueError, match=message):
        validate(broken)
    with pytest.raises(ValueError, match=message):
        write_json(broken, tmp_path / "report.json")
    assert list(tmp_path.iterdir()) == []


def test_one_number_may_not_claim_an_interval(one_seed_report: Report) -> None:
    one_seed_report["models"]["retrain"]["accuracy/test"]["ci95"] = [0.0, 1.0]
    with pytest.raises(ValueError, match="std and ci95 must be null"):
        validate(one_seed_report)


def test_reading_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json"):
        read_json(tmp_path / "bad.json")


def test_versions_name_the_machine_and_nobody() -> None:
    found = versions()
    assert {
        "lightning_unlearn",
        "python",
        "torch",
        "lightning",
        "torchvision",
        "platform",
        "cpu",
        "gpu",
    } <= set(found)
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["cpu"]
    assert len(found["gpu"]) == torch.cuda.device_count()
    text = json.dumps(found)
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    assert getpass.getuser() not in text.split()
