"""The accuracies over the epochs that a comparison logs of every method."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import assert_same_state, toy_data
from test_compare import CPU, toy_compare

from lightning_unlearn import WGAN, MethodRun
from lightning_unlearn.callbacks import Backdoor
from lightning_unlearn.data import ColumnTrigger, Poison, splits

NAMES = [f"accuracy/{stream}" for stream in ("forget", "retain", "test")]


def compared(folder: Path, **trainer: Any) -> dict[str, Any]:
    assert not toy_compare(folder, seeds=1, evaluators=[], trainer={**CPU, **trainer}).failed
    weights = torch.load(folder / "reference_kl" / "seed_0" / "model.ckpt", weights_only=True)
    log = folder / "reference_kl" / "seed_0" / "log" / "metrics.csv"
    rows = list(csv.DictReader(log.open())) if log.is_file() else []
    curve = [[float(row[name]) for name in NAMES] for row in rows if row.get(NAMES[0])]
    source = json.loads((folder / "source" / "seed_0" / "metrics.json").read_text())["metrics"]
    return {"state": weights["state_dict"], "curve": curve, "source": [source[name] for name in NAMES]}


@pytest.mark.slow
def test_looking_changes_no_weight_and_without_a_logger_nobody_looks(tmp_path: Path) -> None:
    looked, blind = compared(tmp_path / "a"), compared(tmp_path / "b", logger=False)
    assert len(looked["curve"]) == 3
    assert blind["curve"] == []
    assert_same_state(looked["state"], blind["state"])


@pytest.mark.slow
def test_two_processes_log_one_curve(tmp_path: Path) -> None:
    found = compared(tmp_path, strategy="ddp_fork", devices=2)
    assert len(found["curve"]) == 3
    assert found["curve"][0] == pytest.approx(found["source"]), "this method starts from the source"


def test_large_sets_are_looked_at_in_part_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_ENOUGH", 5)
    positions = torch.arange(100, 400, 3).numpy()
    some = splits.some_of(positions, seed=1)
    assert len(set(some)) == 5
    assert set(some) <= set(positions)
    assert list(some) == sorted(some)
    assert list(splits.some_of(positions, seed=1)) == list(some)
    assert list(splits.some_of(positions, seed=2)) != list(some)
    assert list(splits.some_of(positions[:4], seed=1)) == list(positions[:4])


@pytest.mark.slow
def test_all_that_is_logged_of_a_method_with_two_optimizers_stands_on_one_axis(tmp_path: Path) -> None:
    run = MethodRun(
        lambda source: WGAN(source, retain_fraction=0.5),
        "reference_kl",
        {"max_epochs": 2, "log_every_n_steps": 1},
    )
    evaluators = [lambda: Backdoor(every_n_epochs=1)]
    poisoned = toy_data(nonmember=10, backdoor=Poison(ColumnTrigger([0]), target_label=0))
    toy_compare(tmp_path, seeds=1, methods=[run], evaluators=evaluators, data=lambda: poisoned)
    with (tmp_path / "reference_kl" / "seed_0" / "log" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    last = {
        name: max(int(row["step"]) for row in rows if row[name])
        for name in ("accuracy/test", "backdoor/clean_accuracy", "time/total_s")
    }
    assert set(last.values()) == {4}, "two epochs of two steps: 12 samples to forget in batches of 8"


@pytest.mark.slow
def test_an_evaluator_that_watches_is_added_without_training_the_baseline_again(tmp_path: Path) -> None:
    poisoned = toy_data(nonmember=10, backdoor=Poison(ColumnTrigger([0]), target_label=0))

    def trained(*evaluators: Any) -> dict[str, int]:
        assert not toy_compare(tmp_path, seeds=1, evaluators=list(evaluators), data=lambda: poisoned).failed
        names = ("source", "retrain", "reference_kl")
        return {name: (tmp_path / name / "seed_0" / "training.json").stat().st_mtime_ns for name in names}

    first, more, fewer = (trained(), trained(lambda: Backdoor(every_n_epochs=1)), trained())
    assert (first["source"], first["retrain"]) == (more["source"], more["retrain"])
    assert first["reference_kl"] < more["reference_kl"], "there was no curve to show"
    assert fewer == more
    often = trained(lambda: Backdoor(every_n_epochs=2))
    assert often["reference_kl"] > more["reference_kl"], "another curve is shown than was asked for"
    assert often["retrain"] == first["retrain"]
