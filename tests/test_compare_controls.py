"""The controls of a comparison: a second retraining, and retrainings that are stopped short."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import Net
from test_compare import reference_kl, timeless, toy_compare

from lightning_unlearn import MethodRun, SourceRun
from lightning_unlearn.callbacks import ForgettingQuality
from lightning_unlearn.comparison.controls import Rates, short_name, short_run
from lightning_unlearn.methods import Retrain
from lightning_unlearn.methods.base.source import read_checkpoint
from lightning_unlearn.models import Classifier

SHORT = {"retrain_2": True, "short_retrainings": [0.1, 0.5]}


def falling(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


@pytest.mark.slow
def test_the_controls_are_trained_audited_and_kept(tmp_path: Path) -> None:
    def once() -> Any:
        source = SourceRun(lambda: Classifier(Net(), lr_scheduler=falling), {"max_epochs": 4})
        return toy_compare(tmp_path, source=source, seeds=1, evaluators=[], **SHORT)

    result = once()
    assert not result.failed, result.report["failures"]
    models = result.report["models"]
    assert list(models) == [
        "source",
        "retrain",
        "retrain_2",
        "retrain_10pct",
        "retrain_50pct",
        "reference_kl",
    ]
    assert "similarity" in models["retrain_2"]
    assert "similarity" not in models["retrain"]
    assert models["retrain"]["epochs/needed"]["mean"] <= 4
    folders = {name: tmp_path / name / "seed_0" for name in models}
    weights = {
        name: torch.cat([p.flatten() for p in read_checkpoint(folder / "model.ckpt")["state_dict"].values()])
        for name, folder in folders.items()
    }
    assert not torch.allclose(weights["retrain"], weights["retrain_2"])
    trained = json.loads((folders["retrain"] / "rates.json").read_text())
    steps = {name: json.loads((folders[name] / "facts.json").read_text())["steps"] for name in models}
    assert steps["retrain"] == steps["retrain_2"] == trained["steps"]
    assert steps["retrain_50pct"] == round(0.5 * trained["steps"])
    assert [rate for _, rate in trained["rates"][0]] == pytest.approx([1e-3, 5e-4, 2.5e-4, 1.25e-4])
    before = {name: (folder / "model.ckpt").stat().st_mtime_ns for name, folder in folders.items()}
    again = once()
    assert timeless(again.report) == timeless(result.report)
    assert before == {name: (folder / "model.ckpt").stat().st_mtime_ns for name, folder in folders.items()}


@pytest.mark.slow
def test_many_models_are_not_trained_for_the_short_ones(tmp_path: Path) -> None:
    def quality() -> ForgettingQuality:
        return ForgettingQuality(models=4)

    result = toy_compare(
        tmp_path, source=SourceRun(lambda: Classifier(Net()), {"max_epochs": 2}), seeds=1, methods=[],
        evaluators=[quality], **SHORT,
    )  # fmt: skip
    assert not result.failed, result.report["failures"]
    measured = {
        name for name, values in result.report["models"].items() if "forgetting_quality/score" in values
    }
    assert measured == {"source", "retrain"}


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_the_rates_are_compressed_and_end_near_zero(steps: int) -> None:
    class Trainer:
        global_step = 0

        def __init__(self) -> None:
            self.optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=9.0)]

    def rates_of(changes: list[tuple[int, float]]) -> list[float]:
        trainer, callback, found = Trainer(), Rates(steps, 100, [changes]), []
        for step in range(steps):
            trainer.global_step = step
            callback.on_train_batch_start(trainer)  # type: ignore[arg-type]
            found.append(trainer.optimizers[0].param_groups[0]["lr"])
        return found

    constant = rates_of([(0, 0.1)])
    assert constant[0] == pytest.approx(0.1)
    assert constant == sorted(constant, reverse=True)
    assert steps == 1 or constant[-1] == pytest.approx(0.002)
    # a recipe that falls by itself keeps its course: at half of the steps the rate of step 50
    ending = rates_of([(0, 0.1), (50, 0.05), (90, 0.001)])
    assert ending[0] == pytest.approx(0.1)
    assert ending[steps // 2] == pytest.approx(0.05 if steps > 1 else 0.1)


def test_a_short_run_is_the_retraining_but_for_its_length() -> None:
    class Mine:
        pass

    given = {"max_epochs": 9, "callbacks": Mine(), "gradient_clip_val": 1.0}
    run = short_run(MethodRun(Retrain, "retrain", given, 7), {"steps": 50, "rates": [[(0, 0.1)]]}, 0.001)
    assert run.label == short_name(0.001) == "retrain_0.1pct"
    assert run.batch_size == 7
    assert run.trainer["max_steps"] == 1
    assert run.trainer["max_epochs"] == -1
    assert run.trainer["gradient_clip_val"] == 1.0
    assert [type(callback).__name__ for callback in run.trainer["callbacks"]] == ["Mine", "Rates"]


def test_a_method_may_not_be_called_like_a_control(tmp_path: Path) -> None:
    for name in ("retrain_2", "Retrain_5pct"):
        with pytest.raises(ValueError, match="that of another run"):
            toy_compare(tmp_path, methods=[MethodRun(reference_kl, name, {"max_epochs": 1})])
    with pytest.raises(ValueError, match=r"short_retrainings must .* got 1"):
        toy_compare(tmp_path, short_retrainings=[1])
