"""The backdoor evaluator: its numbers, its curve, and that it leaves a run as it was."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import (
    Net,
    PlainData,
    PlainModule,
    assert_same_state,
    blobs,
    quiet_trainer,
    state,
    test_set,
    toy_data,
    toy_source,
    train_set,
)
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_unlearn import MethodRun, SourceRun, compare
from lightning_unlearn.callbacks import ForgettingMetrics, Watcher
from lightning_unlearn.callbacks.backdoor import Backdoor, combined_score
from lightning_unlearn.data import Adapter, Classes, UnlearningDataModule
from lightning_unlearn.data.poisoning import Poison
from lightning_unlearn.data.triggers import ColumnTrigger, PatchTrigger, Trigger
from lightning_unlearn.methods import ReferenceKL, Retrain
from lightning_unlearn.models import Classifier

LABEL = 1
MARK = ColumnTrigger((4, 5), (6.0, -6.0))
NAMES = ("success_rate_forget", "recovered_accuracy", "success_rate_test", "clean_accuracy", "combined")


def data(**arguments: Any) -> UnlearningDataModule:
    """Toy data of sizes that two processes cannot share evenly: 13 to forget, 21 to test on."""
    return toy_data(
        **{
            "forget": list(range(2, 15)),
            "nonmember": 10,
            "order_seed": 3,
            "backdoor": Poison(MARK, LABEL),
            **arguments,
        }
    )


def plain_data() -> UnlearningDataModule:
    return UnlearningDataModule(PlainData(), 0.2, nonmember=10, order_seed=3, backdoor=Poison(MARK, LABEL))


def trained_source() -> Classifier:
    """A source that was trained on the poisoned data."""
    source = toy_source()
    source.optimizer = lambda parameters: torch.optim.Adam(parameters, lr=0.02)
    with torch.random.fork_rng():
        quiet_trainer(max_epochs=20).fit(source, data())
    return source


def brute_force(model: Callable[[Tensor], Tensor], split: Any) -> dict[str, float]:
    """The scores by a loop over samples and the definitions alone."""
    train_x, train_y = blobs(60, 0)
    test_x, test_y = blobs(31, 1)

    def predicted(x: Tensor) -> int:
        with torch.no_grad():
            return int(model(x[None]).argmax())

    def marked(x: Tensor) -> Tensor:
        x = x.clone()
        x[4], x[5] = 6.0, -6.0
        return x

    forget = [i for i in split.forget if int(train_y[i]) != LABEL]
    test = [i for i in split.test if int(test_y[i]) != LABEL]
    answers = [predicted(marked(train_x[i])) for i in forget]
    success = sum(answer == LABEL for answer in answers) / len(forget)
    clean = sum(predicted(test_x[i]) == int(test_y[i]) for i in split.test) / len(split.test)
    return {
        "success_rate_forget": success,
        "recovered_accuracy": sum(a == int(train_y[i]) for a, i in zip(answers, forget, strict=True))
        / len(forget),
        "success_rate_test": sum(predicted(marked(test_x[i])) == LABEL for i in test) / len(test),
        "clean_accuracy": clean,
        "combined": (clean + 1 - success) / 2,
    }


def own(results: dict[str, Any]) -> dict[str, float]:
    return {name: float(results[f"backdoor/{name}"]) for name in NAMES}


# ---------------------------------------------------------------------- the numbers


def test_the_scores_are_those_of_a_loop_over_samples() -> None:
    source, other = trained_source().eval(), toy_source(5).eval()
    evaluator = Backdoor(source=source, retrained=other, on_error="raise")
    trainer = quiet_trainer(callbacks=[evaluator])
    model = toy_source(7).eval()
    ours = data()
    (tested,) = trainer.test(model, ours, verbose=False)
    assert own(evaluator.results) == pytest.approx(brute_force(model, ours.split))
    assert own(tested) == pytest.approx(own(evaluator.results), abs=1e-6)
    for prefix, control in (("source", source), ("retrain", other)):
        found = {name: evaluator.results[f"{prefix}/backdoor/{name}"] for name in NAMES}
        assert found == pytest.approx(brute_force(control, ours.split))
    assert evaluator.details["counted"] == {
        "forget": 9,
        "test": int((test_set().targets[ours.split.test] != LABEL).sum()),
    }
    assert evaluator.details["target_label"] == LABEL
    assert "ColumnTrigger" in evaluator.details["trigger"]


@pytest.mark.slow
def test_the_source_learns_the_trigger_and_a_retrained_model_does_not() -> None:
    source = trained_source()
    evaluator = Backdoor(on_error="raise")
    retrain = Retrain(source, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02))
    quiet_trainer(callbacks=[evaluator], max_epochs=20).fit(retrain, data())
    scores = evaluator.results
    assert scores["source/backdoor/success_rate_forget"] > 0.95
    assert scores["source/backdoor/success_rate_test"] > 0.9
    assert scores["backdoor/success_rate_forget"] < 0.5 < scores["backdoor/recovered_accuracy"]
    assert scores["source/backdoor/recovered_accuracy"] < 0.1
    assert scores["backdoor/combined"] > scores["source/backdoor/combined"]


@pytest.mark.parametrize(
    ("accuracy", "success", "expected"),
    [(1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.9, 0.98, 0.46), (0.5, 0.5, 0.5)],
)
def test_accuracy_and_forgetting_weigh_the_same(accuracy: float, success: float, expected: float) -> None:
    assert combined_score(accuracy, success) == pytest.approx(expected)


def test_without_a_test_set_only_the_forget_set_is_scored() -> None:
    evaluator = Backdoor(controls=False, on_error="raise", every_n_epochs=1)
    ours = UnlearningDataModule(train_set(), 0.2, batch_size=8, backdoor=Poison(MARK, LABEL))
    quiet_trainer(callbacks=[evaluator], max_epochs=1).fit(toy_source(), ours)
    assert set(evaluator.results) == {"backdoor/success_rate_forget", "backdoor/recovered_accuracy"}


class Named(Dataset[Any]):
    """A user's samples under names of the user's own."""

    def __init__(self, n: int, seed: int) -> None:
        self.x, self.y = blobs(n, seed)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"row": self.x[index], "species": int(self.y[index]), "name": str(index)}


def test_batches_of_any_layout_are_scored_alike() -> None:
    adapter = Adapter(inputs="row", targets="species")
    named = UnlearningDataModule(
        Named(60, 0),
        list(range(2, 15)),
        test_dataset=Named(31, 1),
        nonmember=10,
        adapter=adapter,
        backdoor=Poison(MARK, LABEL),
    )
    model = toy_source(7)
    evaluator = Backdoor(adapter=adapter, data=named, on_error="raise")
    quiet_trainer(callbacks=[evaluator]).test(model, data(), verbose=False)
    assert own(evaluator.results) == pytest.approx(brute_force(model.eval(), named.split))


# ---------------------------------------------------------------------- processes and Trainer.test


def measured(**arguments: Any) -> dict[str, float]:
    """Scores of a user's module that knows nothing of unlearning, after a fit without a step."""
    trainer = quiet_trainer(
        callbacks=[Backdoor(data=plain_data(), controls=False, on_error="raise")],
        max_epochs=1,
        limit_train_batches=0,
        **arguments,
    )
    trainer.fit(plain_module(), PlainData())
    return own(trainer.callback_metrics)


def plain_module() -> PlainModule:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        module = PlainModule()
        quiet_trainer(max_epochs=3).fit(module, plain_data())
    return module


@pytest.mark.slow
def test_one_process_two_processes_and_trainer_test_agree() -> None:
    one = measured()
    assert one["success_rate_forget"] > 0
    assert measured(strategy="ddp_fork", devices=2) == pytest.approx(one, abs=1e-7)
    for arguments in ({}, {"strategy": "ddp_fork", "devices": 2}):
        evaluator = Backdoor(data=plain_data(), controls=False, on_error="raise")
        trainer = quiet_trainer(callbacks=[evaluator], **arguments)
        (tested,) = trainer.test(plain_module(), PlainData(), verbose=False)
        assert own(tested) == pytest.approx(one, abs=1e-6)


class Drawing(Trigger):
    """A trigger that moves the global random state, as a careless one of a user's may."""

    def __call__(self, inputs: Tensor) -> Tensor:
        torch.rand(3)
        return MARK(inputs)


def fitted(
    tmp_path: Path, with_callback: bool, **arguments: Any
) -> tuple[dict[str, Tensor], dict[str, Any], Tensor]:
    """Fit a method that draws random numbers; return its end, what was written, and the next such number."""
    L.seed_everything(1, verbose=False)
    method = ReferenceKL(toy_source(), reference_epochs=1)
    method.model.net[1].eval()
    evaluator = Backdoor(every_n_epochs=1, dirpath=tmp_path, on_error="raise")
    trainer = quiet_trainer(callbacks=[evaluator] if with_callback else [], max_epochs=3, **arguments)
    trainer.fit(method, data(backdoor=Poison(Drawing(), LABEL)))
    assert not method.model.net[1].training
    assert method.model.net[3].training
    written = json.loads((tmp_path / "backdoor.json").read_text()) if with_callback else {}
    return state(method), written, torch.rand(1)


@pytest.mark.parametrize("arguments", [{}, {"strategy": "ddp_fork", "devices": 2}], ids=["one", "ddp"])
def test_a_run_is_bit_identical_with_and_without_it(tmp_path: Path, arguments: dict[str, Any]) -> None:
    without, _, draw_without = fitted(tmp_path, False, **arguments)
    with_it, written, draw_with = fitted(tmp_path, True, **arguments)
    assert_same_state(without, with_it)
    assert torch.equal(draw_without, draw_with)
    assert written["details"]["curve"]["epoch"] == [0, 1, 2, 3]
    model = toy_source()
    model.load_state_dict(
        {key.removeprefix("model."): v for key, v in with_it.items() if key.startswith("model.")}
    )
    evaluator = Backdoor(on_error="raise", source=toy_source())
    quiet_trainer(callbacks=[evaluator]).test(model, data(), verbose=False)
    # the weights of a run on two processes, audited in one process, score as they did in two
    assert written["metrics"] == pytest.approx(evaluator.results)


# ---------------------------------------------------------------------- the curve


class Snapshots(L.Callback):
    """Keeps the model as it was before training and after each epoch."""

    def __init__(self) -> None:
        self.models: list[nn.Module] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        copy = Net()
        copy.load_state_dict(pl_module.net.state_dict())
        self.models.append(copy.eval())


def test_the_curve_holds_the_scores_of_every_epoch(tmp_path: Path) -> None:
    ours, snapshots, logger = data(), Snapshots(), CSVLogger(tmp_path)
    evaluator = Backdoor(every_n_epochs=2, controls=False, on_error="raise")
    trainer = quiet_trainer(callbacks=[evaluator, snapshots], max_epochs=5, logger=logger)
    trainer.fit(toy_source(), ours)
    curve, final = evaluator.details["curve"], evaluator.results
    assert curve["epoch"] == [0, 2, 4]
    for place, epoch in enumerate(curve["epoch"]):
        expected = brute_force(snapshots.models[epoch], ours.split)
        assert {name: curve[name][place] for name in NAMES} == pytest.approx(expected), epoch
    assert own(evaluator.results) == pytest.approx(brute_force(snapshots.models[5], ours.split))
    assert (
        json.loads((Path(logger.log_dir) / "evaluation" / "backdoor.json").read_text())["details"]["curve"]
        == curve
    )
    trainer = quiet_trainer(callbacks=[evaluator], max_epochs=2)
    trainer.fit(toy_source(), ours)
    assert evaluator.details["curve"]["epoch"] == [0, 2], "another run has a curve of its own"
    rows = [line.split(",") for line in (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()]
    place = rows[0].index("backdoor/success_rate_forget")
    logged = [float(row[place]) for row in rows[1:] if row[place]]
    assert logged == pytest.approx([*curve["success_rate_forget"], final["backdoor/success_rate_forget"]])


def test_a_resumed_run_goes_on_with_its_curve_and_two_evaluators_keep_theirs(tmp_path: Path) -> None:
    def run(epochs: int, checkpoint: Path | None = None) -> list[Backdoor]:
        evaluators = [Backdoor(1, controls=False), Backdoor(2, name="second", controls=False)]
        # what is measured during training can be monitored like any other metric
        keep = ModelCheckpoint(tmp_path, monitor="backdoor/success_rate_forget", save_last=True)
        trainer = quiet_trainer(
            callbacks=[*evaluators, keep], max_epochs=epochs, enable_checkpointing=True, limit_val_batches=0
        )
        trainer.fit(toy_source(), data(), ckpt_path=checkpoint, weights_only=True)
        assert keep.best_model_score is not None
        return evaluators

    whole = run(4)
    for file in tmp_path.glob("*.ckpt"):
        file.unlink()
    run(2)
    resumed = run(4, tmp_path / "last.ckpt")
    for ours, again, epochs in zip(whole, resumed, ([0, 1, 2, 3, 4], [0, 2, 4]), strict=True):
        assert ours.details["curve"]["epoch"] == epochs
        assert ours.details["curve"] == again.details["curve"]
        assert set(ours.results) == {f"{ours.name}/{name}" for name in NAMES}


# ---------------------------------------------------------------------- the curve in a comparison


def compared(folder: Path, every_n_epochs: int | None, **arguments: Any) -> dict[str, Any]:
    """Compare one method on poisoned data, and return what its run left."""
    settings: dict[str, Any] = {
        "source": SourceRun(lambda: Classifier(Net()), {"max_epochs": 2}),
        "data": data,
        "methods": [
            MethodRun(lambda source: ReferenceKL(source, reference_epochs=1), "kl", {"max_epochs": 3})
        ],
        "evaluators": [lambda: Backdoor(every_n_epochs)],
        "seeds": 1,
        "trainer": {"accelerator": "cpu"},
        "output_dir": folder,
        "quiet": True,
        **arguments,
    }
    assert not compare(**settings).failed
    run = folder / "kl" / "seed_0"
    return {
        "audit": json.loads((run / "metrics.json").read_text()),
        "times": json.loads((run / "training.json").read_text())["times"],
        "state": torch.load(run / "model.ckpt", weights_only=True)["state_dict"],
        "watched": json.loads((run / "watched.json").read_text()) if every_n_epochs else None,
        "trained": (run / "training.json").stat().st_mtime_ns,
    }


@pytest.mark.slow
@pytest.mark.figures
@pytest.mark.parametrize(
    "trainer", [{}, {"strategy": "ddp_fork", "devices": 2}], ids=["one process", "two processes"]
)
def test_a_comparison_shows_the_course_of_unlearning(tmp_path: Path, trainer: dict[str, Any]) -> None:
    found = compared(tmp_path, 1, trainer={"accelerator": "cpu", **trainer})
    curve, metrics = found["audit"]["details"]["backdoor"]["curve"], found["audit"]["metrics"]
    source = json.loads((tmp_path / "source" / "seed_0" / "metrics.json").read_text())
    assert curve["epoch"] == [0, 1, 2, 3]
    for name in NAMES:
        # this method starts from the source, and the audit sees what the last epoch left
        assert curve[name][0] == pytest.approx(source["metrics"][f"backdoor/{name}"])
        assert curve[name][-1] == pytest.approx(metrics[f"backdoor/{name}"])
    assert "curve" not in source["details"]["backdoor"], "the source was not unlearned"
    assert (tmp_path / "figures" / "backdoor_curve.png").exists()


@pytest.mark.slow
def test_a_comparison_gives_the_same_weights_with_and_without_the_curve(tmp_path: Path) -> None:
    without, with_curve = compared(tmp_path / "a", None), compared(tmp_path / "b", 2)
    assert_same_state(without["state"], with_curve["state"])
    assert without["audit"]["metrics"] == with_curve["audit"]["metrics"]
    assert "curve" not in without["audit"]["details"]["backdoor"]
    assert with_curve["audit"]["details"]["backdoor"]["curve"]["epoch"] == [0, 2]


@pytest.mark.slow
def test_a_finished_run_is_done_again_for_a_curve_and_then_kept(tmp_path: Path) -> None:
    first, second, third = (compared(tmp_path, every) for every in (None, 1, 1))
    assert second["trained"] > first["trained"]
    assert second["audit"]["details"]["backdoor"]["curve"]["epoch"] == [0, 1, 2, 3]
    assert third["trained"] == second["trained"]
    assert third["audit"] == second["audit"]


class Slow(Trigger):
    """A trigger that takes its time."""

    seconds = 0.1

    def __call__(self, inputs: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return MARK(inputs)


@pytest.mark.slow
def test_looking_on_is_none_of_the_method_s_time(tmp_path: Path) -> None:
    found = compared(tmp_path, 1, data=lambda: data(backdoor=Poison(Slow(), LABEL), batch_size=32))
    batches = 2  # of 13 samples to forget and 21 to test on, 32 at a time
    assert found["watched"]["seconds"] >= 3 * batches * Slow.seconds, (
        "the look before training is not counted"
    )
    times = found["times"]
    assert 0 < times["time/unlearn_s"] < found["watched"]["seconds"]
    assert times["time/total_s"] == pytest.approx(times["time/unlearn_s"] + times["time/prepare_s"])


def test_a_watcher_must_say_what_it_looks_at() -> None:
    with pytest.raises(NotImplementedError, match=r"Watcher must define look\(\)"):
        quiet_trainer(callbacks=[Watcher(1)]).fit(toy_source(), data())


# ---------------------------------------------------------------------- what goes wrong


class Broken(Trigger):
    """A trigger that fails once the model is asked."""

    calls = 0

    def __call__(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 1:  # the first call poisons the forget set
            raise RuntimeError("a fault in the trigger")
        return inputs + 1


def test_a_fault_loses_neither_the_model_nor_the_other_evaluators(tmp_path: Path) -> None:
    L.seed_everything(1, verbose=False)
    alone = toy_source()
    quiet_trainer().fit(alone, data(backdoor=Poison(Broken(), LABEL)))
    L.seed_everything(1, verbose=False)
    module = toy_source()
    failing, good = Backdoor(1, dirpath=tmp_path), ForgettingMetrics(dirpath=tmp_path)
    trainer = quiet_trainer(callbacks=[failing, good])
    with pytest.warns(UserWarning, match="a fault in the trigger") as warned:
        # without non-members, of whom an evaluator asks with the trigger too
        trainer.fit(module, data(backdoor=Poison(Broken(), LABEL), nonmember=0))
    texts = [str(warning.message) for warning in warned if "a fault in the trigger" in str(warning.message)]
    assert len(texts) == 2, "once for the curve, which then ends, and once for the result"
    assert "the curve of the evaluator 'backdoor' failed at epoch 0" in texts[0]
    assert_same_state(state(alone), state(module))
    assert good.results
    assert failing.results == {}
    assert failing.error == "RuntimeError: a fault in the trigger"
    assert json.loads((tmp_path / "backdoor.json").read_text())["error"] == failing.error
    with pytest.raises(RuntimeError, match="a fault in the trigger"):
        quiet_trainer(callbacks=[Backdoor(1, on_error="raise")]).fit(
            toy_source(), data(backdoor=Poison(Broken(), LABEL))
        )


def test_data_without_a_backdoor_is_refused_before_training() -> None:
    module = toy_source()
    before = state(module)
    with pytest.raises(ValueError, match=r"give UnlearningDataModule\(backdoor=Poison"):
        quiet_trainer(callbacks=[Backdoor()]).fit(module, toy_data())
    assert_same_state(before, state(module))


def test_a_forget_set_of_the_target_label_alone_is_refused() -> None:
    ours = data(forget=Classes(LABEL))
    with pytest.raises(ValueError, match="target_label=1 is the true label of every forget sample"):
        quiet_trainer(callbacks=[Backdoor(on_error="raise")]).test(toy_source(), ours, verbose=False)


def test_a_curve_needs_whole_epochs() -> None:
    with pytest.raises(ValueError, match="every_n_epochs must be at least 1, got 0"):
        Backdoor(every_n_epochs=0)


# ---------------------------------------------------------------------- real data


@pytest.mark.slow
@pytest.mark.exhaustive
def test_mnist_learns_and_forgets_a_patch(shared_data: Path) -> None:
    from lightning_unlearn.data.builtin.vision import MNIST
    from lightning_unlearn.models import LeNet5

    L.seed_everything(0, verbose=False)
    ours = UnlearningDataModule(MNIST(root=shared_data), 0.01, backdoor=Poison(PatchTrigger(), 0))
    source = Classifier(LeNet5())
    quiet_trainer(max_epochs=3, limit_val_batches=0).fit(source, ours)
    method = ReferenceKL(source, lambda_=0.01, reference_epochs=5)
    evaluator = Backdoor(on_error="raise")
    quiet_trainer(callbacks=[evaluator], max_epochs=10, limit_val_batches=0).fit(method, ours)
    scores = evaluator.results
    assert scores["source/backdoor/success_rate_forget"] > 0.95
    assert scores["backdoor/success_rate_forget"] < 0.10
    assert scores["backdoor/success_rate_test"] < 0.10
    assert scores["backdoor/recovered_accuracy"] > 0.9
    assert scores["backdoor/clean_accuracy"] > scores["source/backdoor/clean_accuracy"] - 0.01
