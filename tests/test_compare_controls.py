"""The controls of a comparison: a second retraining, and retrainings that are stopped short."""

import json
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from helpers.toys import Net, toy_data
from test_compare import reference_kl, timeless, toy_compare

from lightning_unlearn import MethodRun, SourceRun
from lightning_unlearn.callbacks import ForgettingQuality
from lightning_unlearn.comparison.controls import Rates, RatesRecorder, short_name, short_run
from lightning_unlearn.data import Classes, Split
from lightning_unlearn.methods import Retrain
from lightning_unlearn.methods.base.source import read_checkpoint
from lightning_unlearn.models import Classifier
from lightning_unlearn.reports.floor import needed_in_words
from lightning_unlearn.reports.verdict import margins_in_words

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
    assert models["retrain"]["epochs/needed"]["mean"] <= models["retrain"]["epochs/trained"]["mean"] == 4
    assert "after" in str(needed_in_words(result.report))
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
    # a recipe that falls by itself keeps its course, from its first step to its last
    ending = rates_of([(0, 0.1), (50, 0.05), (99, 0.001)])
    assert ending[0] == pytest.approx(0.1)
    assert ending[(steps - 1) // 2 + (steps > 1)] == pytest.approx(0.05 if steps > 1 else 0.1)
    assert steps == 1 or ending[-1] == pytest.approx(0.001)


def test_a_short_run_is_the_retraining_but_for_its_length() -> None:
    class Mine:
        pass

    given = {"max_epochs": 9, "callbacks": Mine(), "gradient_clip_val": 1.0}
    trained = {"steps": 50, "rates": [[(0, 0.1)]]}
    run, rates = short_run(MethodRun(Retrain, "retrain", given, 7), trained, 0.001)
    assert run.label == short_name(0.001) == "retrain_0.1pct"
    assert run.batch_size == 7
    assert run.trainer["max_steps"] == 1
    assert run.trainer["max_epochs"] == 9, "a recipe may read it"
    assert run.trainer["gradient_clip_val"] == 1.0
    assert run.trainer["callbacks"] is given["callbacks"]
    assert (rates.steps, rates.long_steps, rates.rates) == (1, 50, trained["rates"])


def test_parameter_groups_may_come_and_choose_their_own_rates(tmp_path: Path) -> None:
    class Trainer:
        global_step = 0
        is_global_zero = True

        def __init__(self) -> None:
            self.optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)]

    trainer: Any = Trainer()
    recorder = RatesRecorder(tmp_path / "rates.json")
    recorder.on_train_batch_start(trainer)
    trainer.optimizers[0].add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": None})
    trainer.global_step = 3
    recorder.on_train_batch_start(trainer)
    recorder.on_train_end(trainer, None)  # type: ignore[arg-type]
    assert json.loads((tmp_path / "rates.json").read_text())["rates"] == [[[0, 0.5]], [[3, 0.0]]]
    Rates(2, 4, recorder.rates).on_train_batch_start(trainer)
    assert trainer.optimizers[0].param_groups[1]["lr"] is None


class Counts(L.Callback):
    """Counts the fits that it takes part in."""

    fits: ClassVar[list[int]] = []

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count."""
        self.fits.append(trainer.global_step)


@pytest.mark.slow
def test_a_short_retraining_has_the_callbacks_of_all_and_a_recipe_that_reads_the_epochs(
    tmp_path: Path,
) -> None:
    class Cycle(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, 0.1, epochs=self.trainer.max_epochs, steps_per_epoch=50
            )
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    Counts.fits.clear()
    result = toy_compare(
        tmp_path, source=SourceRun(lambda: Cycle(Net()), {"max_epochs": 2}), seeds=1, methods=[], evaluators=[],
        trainer={"accelerator": "cpu", "callbacks": [Counts()]}, **SHORT,
    )  # fmt: skip
    assert not result.failed, result.report["failures"]
    assert len(Counts.fits) == 5, "source, three retrainings in full or half, one in a tenth"
    (tmp_path / "retrain" / "seed_0" / "rates.json").unlink()
    again = toy_compare(
        tmp_path, source=SourceRun(lambda: Cycle(Net()), {"max_epochs": 2}), seeds=1, methods=[], evaluators=[],
        trainer={"accelerator": "cpu", "callbacks": [Counts()]}, **SHORT,
    )  # fmt: skip
    assert not again.failed, "what is missing is made again"


def test_a_method_may_not_be_called_like_a_control(tmp_path: Path) -> None:
    for name in ("retrain_2", "Retrain_5pct"):
        with pytest.raises(ValueError, match="that of another run"):
            toy_compare(tmp_path, methods=[MethodRun(reference_kl, name, {"max_epochs": 1})])
    with pytest.raises(
        ValueError, match=r"short_retrainings must .* got 10\.0: a share, so that 10% is 0\.1; \[\] trains"
    ):
        toy_compare(tmp_path, short_retrainings=[10.0])


def splits_of(folder: Path) -> list[Split]:
    return [Split.load(folder / "source" / f"seed_{seed}" / "split.npz") for seed in range(2)]


@pytest.mark.slow
def test_each_seed_draws_its_own_sets_and_is_kept(tmp_path: Path) -> None:
    def once() -> Any:
        return toy_compare(tmp_path, vary="all", evaluators=[])

    first = once()
    assert not first.failed, first.report["failures"]
    one, other = splits_of(tmp_path)
    assert set(one.forget) != set(other.forget)
    assert set(one.nonmember) != set(other.nonmember)
    assert first.report["data"]["split"] == "forget and non-member sets drawn anew in each seed"
    assert not (tmp_path / "split.npz").exists()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")}
    assert timeless(once().report) == timeless(first.report)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    # what each seed measures, it measures on its own split
    net = Classifier(Net())
    net.load_state_dict(read_checkpoint(tmp_path / "source" / "seed_1" / "model.ckpt")["state_dict"])
    data = toy_data(other.forget.tolist(), nonmember=10)
    data.setup("fit")
    right = torch.cat([net(x).argmax(1) == y for x, y in data.loader("forget")]).double().mean()
    assert first.report["models"]["source"]["accuracy/forget"]["values"][1] == pytest.approx(float(right))


@pytest.mark.slow
def test_a_list_or_a_given_source_keeps_the_forget_set(tmp_path: Path) -> None:
    listed = toy_compare(
        tmp_path / "a", vary="all", methods=[], evaluators=[], data=lambda: toy_data([1, 2, 3], nonmember=10)
    )
    words = "one forget set, non-members drawn anew in each seed: training noise only"
    assert listed.report["data"]["split"] == words
    checkpoint = str(tmp_path / "a" / "source" / "seed_0" / "model.ckpt")
    source = SourceRun(lambda: Classifier(Net()), {"max_epochs": 1}, checkpoint)
    given = toy_compare(tmp_path / "b", vary="all", source=source, methods=[], evaluators=[])
    assert given.report["data"]["split"] == words
    one, other = splits_of(tmp_path / "b")
    assert set(one.forget) == set(other.forget)
    kept = toy_compare(
        tmp_path / "c", vary="all", methods=[], evaluators=[],
        data=lambda: toy_data(nonmember=10, split_path=tmp_path / "kept.npz"),
    )  # fmt: skip
    assert kept.report["data"]["split"] == "one split for all seeds: training noise only"


def test_data_that_are_not_built_anew_are_refused(tmp_path: Path) -> None:
    data = toy_data(nonmember=10)
    with pytest.raises(ValueError, match="the same object twice"):
        toy_compare(tmp_path, vary="all", data=lambda: data)


@pytest.mark.slow
def test_on_one_split_an_attacks_interval_is_over_its_samples_too(tmp_path: Path) -> None:
    report = toy_compare(tmp_path, methods=[], seeds=3).report
    value = report["models"]["retrain"]["membership_inference/auc"]
    low, high = value["ci95"]
    assert low <= value["mean"] <= high
    assert high - low > 0.1, "ten non-members cannot tell more"


@pytest.mark.slow
def test_with_half_of_a_class_left_no_model_is_close(tmp_path: Path) -> None:
    reports = [
        toy_compare(
            tmp_path / name,
            source=SourceRun(lambda: Classifier(Net()), {"max_epochs": 10}),
            data=lambda rule=rule: toy_data(rule),
            methods=[],
            evaluators=[],
            seeds=1,
        ).report
        for name, rule in (("class", Classes(0)), ("random", 0.2))
    ]
    of_class, of_random = (report["metrics"]["accuracy/forget"]["margin"] for report in reports)
    known, left = (reports[0]["models"][model]["accuracy/forget"]["mean"] for model in ("source", "retrain"))
    assert known - left > 0.2, "the class was not learned"
    assert (of_class, of_random) == (0.1, None)
    assert "forget accuracy: ±10.00 points" in margins_in_words(reports[0])


@pytest.mark.slow
def test_margins_are_declared_in_the_report(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no evaluator measured nothing/here"):
        report = toy_compare(
            tmp_path, methods=[], evaluators=[], seeds=1, margins={"accuracy/test": 0.05, "nothing/here": 1.0}
        ).report
    assert report["metrics"]["accuracy/test"]["margin"] == 0.05
    assert "a loss of 5.00 points" in margins_in_words(report)
    with pytest.raises(ValueError, match=r"margins.* must be above 0"):
        toy_compare(tmp_path, margins={"accuracy/test": 0.0})
