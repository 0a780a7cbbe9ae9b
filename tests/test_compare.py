"""The main job: complete, resumable, reproducible, and honest about what failed."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toys import Net, PlainModule, assert_same_state, state, toy_data
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import nn

from lightning_unlearn import MethodRun, ReferenceKL, Retrain, SourceRun, compare
from lightning_unlearn.callbacks import Audit, Backdoor, Evaluator, ForgettingMetrics, MembershipInference
from lightning_unlearn.comparison.api import Comparison
from lightning_unlearn.comparison.runs import snake_case
from lightning_unlearn.data import Split, UnlearningDataModule
from lightning_unlearn.methods.base.source import read_checkpoint
from lightning_unlearn.models import Classifier
from lightning_unlearn.reports import read_json

CPU = {"accelerator": "cpu"}
MISSING = "mps" if torch.cuda.is_available() else "cuda"
SYSTEM = {"class_path": "os.system", "init_args": {"command": "exit 1"}}


def reference_kl(source: nn.Module) -> ReferenceKL:
    return ReferenceKL(source, reference_epochs=2)


def toy_compare(folder: Path | str, **arguments: Any) -> Comparison:
    settings: dict[str, Any] = {
        "source": SourceRun(lambda: Classifier(Net()), {"max_epochs": 3}),
        "data": lambda: toy_data(nonmember=10),
        "methods": [MethodRun(reference_kl, "reference_kl", {"max_epochs": 2})],
        "evaluators": [lambda: MembershipInference(bootstrap=10, attack="logistic")],
        "seeds": 2,
        "vary": "training",
        "retrain_2": False,
        "short_retrainings": [],
        "trainer": CPU,
        "output_dir": folder,
        "quiet": True,
        **arguments,
    }
    return compare(**settings)


@pytest.mark.slow
def test_times_of_two_starts_are_not_compared_in_silence(tmp_path: Path) -> None:
    quick: dict[str, Any] = {"seeds": 1, "evaluators": []}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="acceleration")
        first = toy_compare(tmp_path, **quick)
    assert "other_times" not in first.report["data"]
    runs = [MethodRun(reference_kl, name, {"max_epochs": 2}) for name in ("reference_kl", "later")]
    for _ in range(2):  # in its own start, and ever after
        with pytest.warns(UserWarning, match="acceleration: later ran in another start"):
            second = toy_compare(tmp_path, methods=runs, **quick)
        assert second.report["data"]["other_times"] == ["later"]
    page = (tmp_path / "report.html").read_text()
    assert "Timed in another start than the retraining" in page
    assert "Run the program that called" in page, "what a program passes is no file for the command line"
    assert "config.yaml" not in page


@pytest.mark.slow
def test_a_method_may_unlearn_in_batches_of_its_own_size(tmp_path: Path) -> None:
    served: dict[str, set[int]] = {"a": set(), "b": set()}

    def watched(name: str) -> MethodRun:
        class Watched(ReferenceKL):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                served[name].add(len(batch["retain"][1]))
                return super().training_step(batch, batch_idx)

        size = 3 if name == "b" else None
        return MethodRun(lambda s: Watched(s, reference_epochs=1), name, {"max_epochs": 1}, size)

    result = toy_compare(tmp_path, methods=[watched("a"), watched("b")], seeds=1, evaluators=[])
    assert not result.failed, result.report["failures"]
    assert max(served["b"]) == 3
    assert max(served["a"]) > 3
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        MethodRun(reference_kl, "c", batch_size=0)


def timeless(report: Any) -> dict[str, Any]:
    return {
        model: {
            name: value["values"]
            for name, value in metrics.items()
            if not name.startswith(("time/", "acceleration"))
        }
        for model, metrics in report["models"].items()
    }


@pytest.mark.slow
@pytest.mark.figures
def test_everything_is_measured_and_written(tmp_path: Path) -> None:
    result = toy_compare(tmp_path / "out")
    assert not result.failed
    report = read_json(tmp_path / "out" / "report.json")
    assert set(report["models"]) == {"source", "retrain", "reference_kl"}
    ours = report["models"]["reference_kl"]
    for name in (
        "accuracy/forget",
        "accuracy/retain",
        "accuracy/test",
        "forgetting_rate",
        "memory_retention_rate",
        "similarity",
        "time/unlearn_s",
        "time/prepare_s",
        "time/total_s",
        "time/cpu_s",
        "acceleration",
        "acceleration/cpu",
        "reference/accuracy_test",
        "time/reference_s",
        *(
            f"membership_inference/{x}"
            for x in ("hit_rate", "auc", "fnr", "fpr", "balanced_accuracy", "tpr_at_1pct_fpr")
        ),
    ):
        assert len(ours[name]["values"]) == 2, name
    assert "similarity" not in report["models"]["retrain"], "a model is not compared with itself"
    retrain = report["models"]["retrain"]
    for seed in range(2):
        total = [report["models"][m]["time/total_s"]["values"][seed] for m in ("retrain", "reference_kl")]
        assert ours["acceleration"]["values"][seed] == pytest.approx(total[0] / total[1])
        assert retrain["acceleration"]["values"][seed] == 1.0
    split = Split.load(tmp_path / "out" / "split.npz")
    assert "forget_hmac" not in report["data"], "there is no key that anybody else has"
    assert report["data"]["n_forget"] == len(split.forget)
    for model in report["models"]:
        for seed in range(2):
            folder = tmp_path / "out" / model / f"seed_{seed}"
            assert {"config.json", "model.ckpt", "log"} <= {path.name for path in folder.iterdir()}
            Classifier.load_from_checkpoint(folder / "model.ckpt", net=Net(), weights_only=True)
    for name in ("report.html", "figures"):
        assert (tmp_path / "out" / name).exists()


@pytest.mark.slow
def test_the_accuracies_are_those_of_the_exported_files(tmp_path: Path) -> None:
    report = toy_compare(tmp_path, seeds=1).report
    data = toy_data(nonmember=10)
    data.setup("fit")
    for model in report["models"]:
        net = Classifier(Net())
        net.load_state_dict(read_checkpoint(tmp_path / model / "seed_0" / "model.ckpt")["state_dict"])
        net.eval()
        for stream in ("forget", "retain", "test"):
            with torch.no_grad():
                hits = torch.cat([net(x).argmax(1) == y for x, y in data.loader(stream)])
            measured = report["models"][model][f"accuracy/{stream}"]["mean"]
            assert measured == pytest.approx(float(hits.double().mean()), abs=1e-6), (model, stream)
        weights = np.sort(torch.cat([p.detach().flatten() for p in net.parameters() if p.ndim > 1]).numpy())
        details = json.loads((tmp_path / model / "seed_0" / "metrics.json").read_text())["details"]
        shown = weights[np.rint(np.linspace(0, len(weights) - 1, 201)).astype(int)]
        assert details["forgetting"]["weights"] == pytest.approx(shown, rel=1e-5)


@pytest.mark.slow
def test_two_runs_give_the_same_numbers_and_leave_the_random_state(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    environment = dict(os.environ)
    first = toy_compare(tmp_path / "a").report
    assert torch.equal(torch.get_rng_state(), before)
    assert dict(os.environ) == environment
    torch.manual_seed(77)
    second = toy_compare(tmp_path / "b").report
    assert timeless(first) == timeless(second)


@pytest.mark.slow
def test_seeds_differ_and_each_is_independent_of_the_others(tmp_path: Path) -> None:
    both = timeless(toy_compare(tmp_path / "a", seeds=[3, 5]).report)
    alone = timeless(toy_compare(tmp_path / "b", seeds=[5]).report)
    assert {m: {k: v[1:] for k, v in metrics.items()} for m, metrics in both.items()} == alone
    assert any(v[0] != v[1] for metrics in both.values() for v in metrics.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vary", "same"), [("unlearn", ["source"]), ("evaluate", ["source", "retrain", "reference_kl"])]
)
def test_one_randomness_can_vary_alone(tmp_path: Path, vary: Any, same: list[str]) -> None:
    toy_compare(tmp_path, vary=vary)
    for model in ("source", "retrain", "reference_kl"):
        a, b = (
            read_checkpoint(tmp_path / model / f"seed_{s}" / "model.ckpt")["state_dict"] for s in range(2)
        )
        assert all(torch.equal(a[k], b[k]) for k in a) == (model in same), model


@pytest.mark.slow
def test_two_processes_and_bf16_complete(tmp_path: Path) -> None:
    one = toy_compare(tmp_path / "one", seeds=1).report
    for name, trainer in (
        ("ddp", {**CPU, "strategy": "ddp_fork", "devices": 2}),
        ("bf16", {**CPU, "precision": "bf16-mixed"}),
    ):
        result = toy_compare(tmp_path / name, seeds=1, trainer=trainer)
        assert not result.failed
        assert {m: set(v) for m, v in result.report["models"].items()} == {
            m: set(v) for m, v in one["models"].items()
        }


@pytest.mark.slow
def test_a_finished_comparison_trains_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = toy_compare(tmp_path).report
    parts = ("model.ckpt", "training.json", "metrics.json")
    made = {path: path.stat().st_mtime_ns for name in parts for path in tmp_path.rglob(name)}
    assert len(made) == 18
    stamps = {path: stamp for path, stamp in made.items() if path.name == "model.ckpt"}
    second = toy_compare(tmp_path, quiet=False).report
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert len(told) == 12
    assert all("there already" in line for line in told), told
    assert {path: path.stat().st_mtime_ns for path in made} == made, "something was trained or audited again"
    assert first["models"] == second["models"], "times included: they are kept, not measured again"
    more = toy_compare(tmp_path, seeds=3, methods=[MethodRun(reference_kl, "reference_kl", {"max_epochs": 2}), MethodRun(Retrain, "again", {"max_epochs": 1})]).report  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert set(more["models"]) == {"source", "retrain", "reference_kl", "again"}


@pytest.mark.slow
def test_another_evaluator_trains_no_model_again(tmp_path: Path) -> None:
    toy_compare(tmp_path, seeds=1, config={"evaluators": ["MembershipInference"]})
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.ckpt")}
    report = toy_compare(tmp_path, seeds=1, evaluators=[], config={"evaluators": []}).report
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.ckpt")} == stamps
    assert not any("membership" in name for name in report["models"]["source"])


@pytest.mark.slow
def test_a_missing_part_is_made_again_to_the_same_numbers(tmp_path: Path) -> None:
    first = timeless(toy_compare(tmp_path).report)
    for part in ("source/seed_1", "reference_kl/seed_0"):
        shutil.rmtree(tmp_path / part)
    (tmp_path / "retrain" / "seed_1" / "metrics.json").unlink()
    assert timeless(toy_compare(tmp_path).report) == first


@pytest.mark.slow
def test_another_comparisons_folder_is_not_touched(tmp_path: Path) -> None:
    toy_compare(tmp_path, seeds=1)
    stamp = (tmp_path / "report.json").read_bytes()
    with pytest.raises(ValueError, match="holds another comparison"):
        toy_compare(tmp_path, seeds=1, data=lambda: toy_data(0.3, nonmember=10))
    assert (tmp_path / "report.json").read_bytes() == stamp
    toy_compare(tmp_path, seeds=1, data=lambda: toy_data(0.3, nonmember=10), overwrite=True)


class Fails(ReferenceKL):
    """A method with a fault."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise RuntimeError("a fault in the method")


class FailingEvaluator(Evaluator):
    """An evaluator with a fault."""

    default_name = "failing"

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        raise RuntimeError("a fault in the evaluator")


@pytest.mark.filterwarnings("ignore:the evaluator 'failing' failed")
def test_failures_are_listed_and_the_others_finish(tmp_path: Path) -> None:
    result = toy_compare(
        tmp_path,
        seeds=1,
        methods=[
            MethodRun(lambda source: Fails(source, reference_epochs=1), "fails", {"max_epochs": 1}),
            MethodRun(reference_kl, "reference_kl", {"max_epochs": 1}),
        ],
        evaluators=[FailingEvaluator],
    )
    assert result.failed
    report = read_json(tmp_path / "report.json")
    assert "fails" not in report["models"]
    assert "accuracy/test" in report["models"]["reference_kl"]
    errors = {(failure["model"], failure["error"]) for failure in report["failures"]}
    assert ("fails", "RuntimeError: a fault in the method") in errors
    assert ("reference_kl", "evaluator failing: RuntimeError: a fault in the evaluator") in errors
    assert "a fault in the method" in (tmp_path / "fails" / "seed_0" / "error.txt").read_text()
    assert not (tmp_path / "fails" / "seed_0" / "model.ckpt").exists(), "nothing that looks complete"


@pytest.mark.slow
def test_a_source_that_fails_stops_its_seed_only(tmp_path: Path) -> None:
    calls = iter(range(100))

    def sometimes() -> Classifier:
        if next(calls) == 1:  # the first, untrained, tells the task
            raise RuntimeError("no memory")
        return Classifier(Net())

    report = toy_compare(tmp_path, source=SourceRun(sometimes, {"max_epochs": 1})).report
    assert {(f["model"], f["seed"]) for f in report["failures"]} == {
        (m, 0) for m in ("source", "retrain", "reference_kl")
    }
    assert report["models"]["reference_kl"]["accuracy/test"]["values"][0] is None


@pytest.mark.slow
def test_a_trained_source_is_taken_as_it_is(tmp_path: Path) -> None:
    first = tmp_path / "first"
    toy_compare(first, seeds=1)
    checkpoint = first / "source" / "seed_0" / "model.ckpt"
    second = tmp_path / "second"
    toy_compare(
        second, seeds=1, source=SourceRun(lambda: Classifier(Net()), {"max_epochs": 3}, str(checkpoint))
    )
    a, b = (
        read_checkpoint(folder / "source" / "seed_0" / "model.ckpt")["state_dict"]
        for folder in (first, second)
    )
    assert_same_state(a, b)


@pytest.mark.slow
def test_a_users_own_module_is_exported_into_its_class(tmp_path: Path) -> None:
    toy_compare(tmp_path, seeds=1, source=SourceRun(lambda: PlainModule(hidden=5), {"max_epochs": 1}))
    loaded = PlainModule.load_from_checkpoint(tmp_path / "reference_kl" / "seed_0" / "model.ckpt")
    assert loaded.hparams["hidden"] == 5
    assert state(loaded)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 0}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"vary": "colour"}, "vary"),
        ({"methods": [MethodRun(reference_kl, "retrain")]}, "the name 'retrain' is that of another run"),
        ({"methods": [MethodRun(reference_kl)]}, "needs a name"),
        ({"data": lambda: toy_data(test_dataset=None)}, "needs a test set"),
        ({"data": lambda: toy_data([])}, "forget"),
        ({"trainer": {"accelerator": MISSING}}, "trainer of 'source': .*available"),
        ({"trainer": {**CPU, "max_epoch": 3}}, "trainer of 'source': .*max_epoch"),
        ({"evaluators": [MembershipInference, MembershipInference]}, "two are called 'membership_inference'"),
        ({"evaluators": [ForgettingMetrics]}, "compare has ForgettingMetrics already; leave it out"),
        ({"evaluators": [Backdoor]}, "the data has no backdoor to ask for"),
        ({"evaluators": [lambda: MembershipInference("shadow")]}, "needs a shadow set"),
        (
            {"methods": [MethodRun(reference_kl, "m", {"max_epochs": 1, "callbacks": [SYSTEM]})]},
            "Import path os.system does not correspond to a subclass of Call",
        ),
    ],
)
def test_bad_input_stops_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        toy_compare(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ReferenceKL", "reference_kl"), ("Retrain", "retrain"), ("WGAN", "wgan"), ("TopK", "top_k")],
)
def test_names_of_runs(name: str, expected: str) -> None:
    assert snake_case(name) == expected


@pytest.mark.slow
def test_unlearning_data_module_is_built_once(tmp_path: Path) -> None:
    built: list[UnlearningDataModule] = []

    def data() -> UnlearningDataModule:
        built.append(toy_data(nonmember=10))
        return built[-1]

    toy_compare(tmp_path, data=data)
    assert len(built) == 1


@pytest.mark.slow
def test_callbacks_of_one_run_are_not_those_of_the_next(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import EarlyStopping

    seen: list[int] = []

    class Count(EarlyStopping):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(trainer.current_epoch)

    watch = Count("train/loss", patience=1, check_on_train_epoch_end=True, stopping_threshold=100.0)
    toy_compare(
        tmp_path, source=SourceRun(lambda: Classifier(Net()), {"max_epochs": 5, "callbacks": [watch]})
    )
    assert len(seen) == 4
    assert watch.best_score == float("inf")


@pytest.mark.slow
def test_callbacks_may_be_described_by_class_path(tmp_path: Path) -> None:
    callback = {"class_path": "lightning.pytorch.callbacks.TQDMProgressBar", "init_args": {"refresh_rate": 0}}
    arguments = {"max_epochs": 1, "callbacks": [callback], "enable_progress_bar": True}
    assert not toy_compare(tmp_path, source=SourceRun(lambda: Classifier(Net()), arguments), seeds=1).failed


@pytest.mark.slow
def test_threads_are_set_for_the_comparison_alone(tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), []

    def build() -> Classifier:
        seen.append(torch.get_num_threads())
        return Classifier(Net())

    toy_compare(tmp_path, seeds=1, source=SourceRun(build, {"max_epochs": 1}), threads=before + 1)
    assert set(seen[1:]) == {before + 1}  # the first, untrained, tells the task
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        toy_compare(tmp_path, threads=0)


def test_a_run_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trainer of 'reference_kl': give max_epochs"):
        toy_compare(tmp_path, methods=[MethodRun(reference_kl, "reference_kl")])


@pytest.mark.slow
def test_what_failed_in_an_audit_is_tried_again(tmp_path: Path) -> None:
    class Sometimes(Evaluator):
        default_name = "sometimes"
        broken = True

        def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
            if Sometimes.broken:
                raise RuntimeError("a fault")
            return {"sometimes/score": 1.0}

    with pytest.warns(UserWarning, match="a fault"):
        assert toy_compare(tmp_path, seeds=1, evaluators=[Sometimes]).failed
    Sometimes.broken = False
    result = toy_compare(tmp_path, seeds=1, evaluators=[Sometimes])
    assert not result.failed
    assert result.report["models"]["source"]["sometimes/score"]["mean"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "again"),
    [
        (
            {
                "methods": [
                    MethodRun(
                        lambda s: ReferenceKL(s, 0.9, reference_epochs=2), "reference_kl", {"max_epochs": 2}
                    )
                ]
            },
            {"reference_kl"},
        ),
        ({"methods": [MethodRun(reference_kl, "reference_kl", {"max_epochs": 1})]}, {"reference_kl"}),
        ({"retrain": MethodRun(Retrain, "retrain", {"max_epochs": 1})}, {"retrain"}),
        ({"trainer": {**CPU, "precision": "bf16-mixed"}}, {"source", "retrain", "reference_kl"}),
    ],
)
def test_another_setting_is_run_again(tmp_path: Path, change: dict[str, Any], again: set[str]) -> None:
    before = timeless(toy_compare(tmp_path, seeds=1).report)
    stamps = {path.parts[-3]: path.stat().st_mtime_ns for path in tmp_path.rglob("model.ckpt")}
    after = timeless(toy_compare(tmp_path, seeds=1, **change).report)
    now = {path.parts[-3]: path.stat().st_mtime_ns for path in tmp_path.rglob("model.ckpt")}
    assert {name for name in now if now[name] != stamps[name]} == again
    assert before != after or again == {"source"}


@pytest.mark.slow
def test_a_model_that_is_built_late_can_be_compared(tmp_path: Path) -> None:
    class Late(PlainModule):
        def __init__(self) -> None:
            super().__init__()
            del self.net

        def configure_model(self) -> None:
            if not hasattr(self, "net"):
                self.net = Net()

    result = toy_compare(tmp_path, seeds=1, source=SourceRun(Late, {"max_epochs": 1}), methods=[])
    assert [f for f in result.report["failures"] if f["model"] == "source"] == []


DDP = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_compare import CPU, toy_compare
result = toy_compare(Path({folder!r}), trainer={{**CPU, "strategy": "ddp", "devices": 2}})
sys.exit(result.failed)
"""


@pytest.mark.slow
@pytest.mark.exhaustive
def test_processes_that_run_the_whole_program_agree(tmp_path: Path) -> None:
    """Under plain ``ddp`` every rank runs ``compare`` itself; one writes, and none reads what is not there yet."""
    program = tmp_path / "program.py"
    program.write_text(DDP.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "out")))
    for _ in range(2):  # the second time everything is there already
        done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    assert set(read_json(tmp_path / "out" / "report.json")["models"]) == {"source", "retrain", "reference_kl"}


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze_at", [1, 9])
def test_retraining_draws_what_the_source_trained(tmp_path: Path, unfreeze_at: int) -> None:
    """Also where a callback of the source's Trainer unfroze it, and the source is loaded from its file."""

    class Backbone(PlainModule):
        def __init__(self) -> None:
            super().__init__()
            layers = list(self.net)
            self.backbone, self.net = nn.Sequential(*layers[:3]), nn.Sequential(*layers[3:])
            self.backbone.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(self.backbone(x))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.01)

    finetuning = BackboneFinetuning(unfreeze_at, should_align=False)
    source = SourceRun(Backbone, {"max_epochs": 3, "callbacks": [finetuning]})
    retrain = MethodRun(Retrain, "retrain", {"max_epochs": 1})
    for _ in range(2):
        result = toy_compare(tmp_path, source=source, seeds=1, methods=[], evaluators=[], retrain=retrain)
        assert not result.failed, result.report["failures"]
        old, new = (
            read_checkpoint(tmp_path / name / "seed_0" / "model.ckpt")["state_dict"]
            for name in ("source", "retrain")
        )
        assert torch.equal(old["backbone.0.weight"], new["backbone.0.weight"]) == (unfreeze_at == 9)
        assert not torch.equal(old["net.1.weight"], new["net.1.weight"])
        shutil.rmtree(tmp_path / "retrain")


@pytest.mark.slow
def test_retraining_starts_where_the_sources_factory_starts(tmp_path: Path) -> None:
    def build() -> Classifier:
        network = nn.Sequential(nn.Linear(6, 400), nn.ReLU(), nn.Linear(400, 3))
        nn.init.normal_(network[0].weight, std=3.0)
        return Classifier(network)

    still = MethodRun(
        lambda s: Retrain(s, optimizer=lambda p: torch.optim.SGD(p, lr=0.0)), "retrain", {"max_epochs": 1}
    )
    source = SourceRun(build, {"max_epochs": 1})
    toy_compare(tmp_path, source=source, seeds=1, methods=[], evaluators=[], retrain=still)
    weights = read_checkpoint(tmp_path / "retrain" / "seed_0" / "model.ckpt")["state_dict"]
    assert float(weights["net.0.weight"].std()) == pytest.approx(3, rel=0.1)
