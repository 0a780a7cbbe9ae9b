"""Requests one after another: each method goes on from its own model, and what was forgotten stays so."""

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.toys import CLASSES, FEATURES, TEST, TRAIN, Net, PlainModule, assert_same_state, blobs, toy_data
from test_compare import reference_kl, toy_compare
from torch import nn
from torch.utils.data import TensorDataset

from lightning_unlearn import FineTune, MethodRun, SourceRun
from lightning_unlearn.callbacks import ForgettingQuality
from lightning_unlearn.cli.compare import scenarios_in
from lightning_unlearn.cli.demo import MislabelledDigits
from lightning_unlearn.cli.main import main
from lightning_unlearn.comparison.api import Comparison
from lightning_unlearn.core.files import file_hash
from lightning_unlearn.core.ledger import read
from lightning_unlearn.data import Adapter, ColumnTrigger, Poison, Split, UnlearningDataModule
from lightning_unlearn.methods import Retrain, Rewind, ShrinkPerturb
from lightning_unlearn.methods.base.source import read_checkpoint
from lightning_unlearn.models import Classifier
from lightning_unlearn.trackers.runs import _lineage as lineage


def still(source: nn.Module) -> FineTune:
    """Train nothing: what comes out is what it began with."""
    return FineTune(source, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))


def request(folder: Path, forget: Any = 0.1, **arguments: Any) -> Comparison:
    settings: dict[str, Any] = {
        "data": lambda: toy_data(forget, nonmember=10),
        "methods": [MethodRun(reference_kl, "reference_kl", {"max_epochs": 2})],
        "evaluators": [],
        "vary": "all",
        **arguments,
    }
    return toy_compare(folder, **settings)


def weights(folder: Path, name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    read_state: dict[str, torch.Tensor] = read_checkpoint(folder / name / f"seed_{seed}" / "model.ckpt")[
        "state_dict"
    ]
    return {key: value for key, value in read_state.items() if "running" not in key and "num_" not in key}


@pytest.mark.slow
def test_each_method_goes_on_from_its_own_model(tmp_path: Path) -> None:
    first = request(tmp_path / "1")
    both = [
        MethodRun(reference_kl, "reference_kl", {"max_epochs": 2}),
        MethodRun(still, "other", {"max_epochs": 1}),
    ]
    with pytest.warns(
        UserWarning, match=r"after: there is no .*1/other/seed_0/model.ckpt.* that go on from it fail"
    ):
        lacking = request(tmp_path / "3", after=tmp_path / "1", methods=both)
    assert {failure["model"] for failure in lacking.report["failures"]} == {"other"}
    second = request(
        tmp_path / "4", after=tmp_path / "1", methods=[MethodRun(still, "reference_kl", {"max_epochs": 1})]
    )
    assert not first.failed
    assert not second.failed, second.report["failures"]
    for seed in range(2):
        assert_same_state(
            weights(tmp_path / "4", "reference_kl", seed), weights(tmp_path / "1", "reference_kl", seed)
        )
        assert_same_state(weights(tmp_path / "4", "source", seed), weights(tmp_path / "1", "source", seed))
        splits = [
            Split.load(tmp_path / part / "source" / f"seed_{seed}" / "split.npz") for part in ("1", "4")
        ]
        assert np.array_equal(splits[1].previous, splits[0].forget)
        assert not np.isin(splits[1].members, splits[0].forget).any()
        made_from = file_hash(tmp_path / "1" / "reference_kl" / f"seed_{seed}" / "model.ckpt")
        source = lineage(tmp_path / "4", "reference_kl", seed)["source"]
        assert source == {
            "name": f"reference_kl-seed_{seed}",
            "sha256": made_from,
            "of": "the request before",
        }
        assert "of" not in lineage(tmp_path / "4", "retrain", seed)["source"]
    data = second.report["data"]
    assert data["after"] == "1"
    assert data["n_previous"] == 6
    assert data["n_forget"] + data["n_retain"] + data["n_previous"] == 60
    assert "Forgotten by earlier requests" in (tmp_path / "4" / "report.html").read_text()
    for model, scores in second.report["models"].items():
        assert 0 <= scores["accuracy/previous"]["mean"] <= 1, model


def test_a_request_that_overlaps_with_the_one_before_leaves_its_folder_free(tmp_path: Path) -> None:
    request(tmp_path / "1", [1, 2], seeds=1)
    with pytest.raises(ValueError, match=r"chose 1 samples that cannot be forgotten again, .*: 2"):
        request(tmp_path / "2", [2, 3], seeds=1, after=tmp_path / "1")
    assert not (tmp_path / "2").exists()


@pytest.mark.parametrize("vary", ["all", "training"])
def test_a_class_that_two_requests_forget_together_is_judged_as_a_class(vary: str, tmp_path: Path) -> None:
    for part, after in ((0, None), (1, tmp_path / "0")):
        report = request(
            tmp_path / str(part),
            list(range(3 * part, TRAIN, 6)),
            after=after,
            vary=vary,
            seeds=1,
            source=SourceRun(PlainModule, {"max_epochs": 5}),
            methods=[],
        ).report
    accuracy = {name: report["models"][name]["accuracy/forget"]["mean"] for name in ("source", "retrain")}
    assert accuracy["source"] - accuracy["retrain"] > 0.4
    margins = {name: report["metrics"][f"accuracy/{name}"]["margin"] for name in ("forget", "previous")}
    assert margins == {"forget": 0.1, "previous": 0.1}


def test_a_class_forgotten_before_is_judged_as_one_in_every_later_request(tmp_path: Path) -> None:
    for part, forget in enumerate((list(range(0, TRAIN, 3)), [1, 2], [4, 5])):
        report = request(
            tmp_path / str(part),
            forget,
            after=None if part == 0 else tmp_path / str(part - 1),
            seeds=1,
            source=SourceRun(PlainModule, {"max_epochs": 5}),
            methods=[],
            page=False,
        ).report
    accuracy = {name: report["models"][name]["accuracy/previous"]["mean"] for name in ("source", "retrain")}
    assert accuracy["source"] - accuracy["retrain"] > 0.4
    assert report["metrics"]["accuracy/previous"]["margin"] == 0.1


def test_a_sequence_is_another_comparison_than_its_last_request_alone(tmp_path: Path) -> None:
    quick: dict[str, Any] = {"methods": [], "seeds": [0], "page": False}
    request(tmp_path / "1", [1, 2], **quick)
    request(tmp_path / "2", [3, 4], after=tmp_path / "1", **quick)
    request(tmp_path / "2", [3, 4], after=tmp_path / "1", **quick)
    with pytest.raises(ValueError, match=r"holds another comparison .*earlier requests or key differ"):
        request(tmp_path / "2", [3, 4], **quick)
    mark = tmp_path / "2" / "comparison.json"
    noted = json.loads(mark.read_text())
    del noted["previous_hmac"]  # as folders were before it was noted: that decides nothing
    mark.write_text(json.dumps(noted))
    request(tmp_path / "2", [3, 4], **{**quick, "seeds": [1]})
    with pytest.raises(ValueError, match=r"seeds \[1\] know of no earlier request and the others do"):
        request(tmp_path / "3", [5, 6], after=tmp_path / "2", **{**quick, "seeds": [0, 1]})
    assert not (tmp_path / "3").exists()


@pytest.mark.slow
def test_a_third_request_keeps_out_what_both_before_it_forgot(tmp_path: Path) -> None:
    for vary in ("all", "training"):
        root = tmp_path / vary
        request(root / "1", [1, 2], seeds=1, vary=vary)
        request(root / "2", [3, 4], seeds=1, vary=vary, after=root / "1")
        third = request(root / "3", [5, 6], seeds=1, vary=vary, after=str(root / "2"))
        file = root / "3" / ("source/seed_0/split.npz" if vary == "all" else "split.npz")
        assert Split.load(file).previous.tolist() == [1, 2, 3, 4]
        assert third.report["data"]["n_previous"] == 4


@pytest.mark.slow
def test_a_sequence_resumes_and_sees_that_an_earlier_request_changed(tmp_path: Path) -> None:
    quick: dict[str, Any] = {"seeds": 1}
    request(tmp_path / "1", **quick)
    request(tmp_path / "2", after=tmp_path / "1", **quick)
    trained = {file: file.read_bytes() for file in (tmp_path / "2").rglob("training.json")}
    assert len(trained) == 3
    request(tmp_path / "2", after=tmp_path / "1", **quick)
    assert {file: file.read_bytes() for file in trained} == trained
    longer = [MethodRun(reference_kl, "reference_kl", {"max_epochs": 3})]
    request(tmp_path / "1", methods=longer, **quick)
    with pytest.warns(
        UserWarning, match="reference_kl, seed 0: trained anew; what changed: the source model"
    ):
        request(tmp_path / "2", after=tmp_path / "1", **quick)
    changed = {file.parent.parent.name for file, content in trained.items() if file.read_bytes() != content}
    assert changed == {"reference_kl"}


@pytest.mark.slow
def test_rewind_finds_the_sources_earlier_weights_in_every_request(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "source": SourceRun(lambda: Classifier(Net()), {"max_epochs": 4}, keep_every=1),
        "methods": [MethodRun(Rewind, "rewind", {"max_epochs": 1})],
        "seeds": 1,
    }
    request(tmp_path / "1", [1, 2], **settings)
    for number in (2, 3):
        result = request(
            tmp_path / str(number), [2 * number, 2 * number + 1], after=tmp_path / str(number - 1), **settings
        )
        assert not result.failed, result.report["failures"]
    kept = [sorted((tmp_path / number / "source/seed_0/earlier").iterdir()) for number in ("1", "3")]
    assert [file.read_bytes() for file in kept[0]] == [file.read_bytes() for file in kept[1]]


@pytest.mark.slow
def test_the_ledger_chains_each_method_to_its_own_model(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    request(tmp_path / "1", ledger=ledger, seeds=1)
    request(tmp_path / "2", after=tmp_path / "1", ledger=ledger, seeds=1)
    first, second = read(ledger)[:2], read(ledger)[2:]
    models = [{line["method"]["name"]: line["model"] for line in lines} for lines in (first, second)]
    assert models[1]["reference_kl"]["before"] == models[0]["reference_kl"]["after"]
    assert models[1]["retrain"]["before"] == models[0]["retrain"]["before"]
    assert first[0]["gone"]["count"] < second[0]["gone"]["count"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"after": "nowhere"}, "after: there is no .*nowhere/source/seed_0/model.ckpt; give the output_dir"),
        ({"seeds": [0, 1, 7]}, "seed_7/model.ckpt; give the output_dir .* with seed 7"),
        (
            {"data": lambda: toy_data(nonmember=10, nonmember_from="train")},
            "nonmember or shadow of 'train' would hold out",
        ),
        ({"vary": "training"}, "after: each seed of .* has a split of its own, and here all share one"),
        (
            {"source": SourceRun(lambda: Classifier(Net()), {"max_epochs": 5})},
            "trained with trainer.max_epochs=3, and here the retraining would follow trainer.max_epochs=5; describe",
        ),
        (
            {"source": SourceRun(lambda: Classifier(Net()), {"max_epochs": 3, "gradient_clip_val": 1.0})},
            "with trainer.gradient_clip_val=None, and here .* trainer.gradient_clip_val=1.0",
        ),
        (
            {"trainer": {"accelerator": "cpu", "max_steps": 5}},
            "with trainer.max_steps=None, and here .* trainer.max_steps=5",
        ),
        (
            {"data": lambda: toy_data(0.1, nonmember=10, batch_size=4)},
            "with data.batch_size=8, and here .* data.batch_size=4",
        ),
        (
            {"source": SourceRun(lambda: Classifier(Net(), label_smoothing=0.1), {"max_epochs": 3})},
            "was built with label_smoothing=0.0, and source.model builds one with label_smoothing=0.1; build it",
        ),
        (
            {"source": SourceRun(lambda: Classifier(Net()), checkpoint="a.ckpt")},
            "leave the source's checkpoint=a.ckpt out",
        ),
        (
            {"data": lambda: toy_data(nonmember=10, backdoor=Poison(ColumnTrigger((0,), (9.0,))))},
            "backdoor: it is planted in the forget set before the source is trained",
        ),
        (
            {"evaluators": [lambda: ForgettingQuality(models=4)]},
            "ForgettingQuality trains many models by each method",
        ),
    ],
)
def test_what_cannot_go_on_is_refused(
    arguments: dict[str, Any], message: str, before: Path, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        request(tmp_path / "2", **{"after": before, **arguments})
    assert not list((tmp_path / "2").glob("*/seed_*/model.ckpt"))


def test_a_recipe_may_be_said_in_either_trainer(before: Path, tmp_path: Path) -> None:
    mark = shutil.copytree(before, tmp_path / "1") / "comparison.json"
    noted = json.loads(mark.read_text())
    del noted["trained_with"]["data.batch_size"]  # as it was before that was noted
    mark.write_text(json.dumps(noted))
    quick: dict[str, Any] = {"after": tmp_path / "1", "methods": [], "seeds": 1, "page": False}
    trainer = {"accelerator": "cpu", "max_epochs": 3}
    source = SourceRun(lambda: Classifier(Net()))
    assert not request(tmp_path / "2", trainer=trainer, source=source, **quick).failed


def test_after_a_retraining_of_its_own_a_request_still_knows_how_the_source_was_trained(
    before: Path, tmp_path: Path
) -> None:
    quick: dict[str, Any] = {"methods": [], "seeds": 1, "page": False}
    request(
        tmp_path / "2",
        after=before,
        source=SourceRun(lambda: Classifier(Net()), {"max_epochs": 5}),
        retrain=MethodRun(Retrain, "retrain", {"max_epochs": 3}),
        **quick,
    )
    assert not request(tmp_path / "3", after=tmp_path / "2", **quick).failed


def test_a_comparison_does_not_go_on_from_itself(before: Path) -> None:
    kept = {file: file.read_bytes() for file in before.rglob("*.ckpt")}
    with pytest.raises(ValueError, match=r"after: .* is output_dir itself"):
        request(before, after=before, overwrite=True)
    assert {file: file.read_bytes() for file in before.rglob("*.ckpt")} == kept


def test_data_that_was_split_before_is_refused(tmp_path: Path) -> None:
    data = toy_data(0.1, nonmember=10)
    data.setup("fit")
    request(tmp_path / "1", [1, 2], seeds=1, vary="training")
    with pytest.raises(ValueError, match="after: the data was split already"):
        request(tmp_path / "2", data=lambda: data, seeds=1, vary="training", after=tmp_path / "1")


def test_after_a_backdoor_there_is_no_further_request(tmp_path: Path) -> None:
    marked = Poison(ColumnTrigger((0,), (9.0,)))
    request(tmp_path / "1", seeds=1, data=lambda: toy_data(nonmember=10, backdoor=marked))
    with pytest.raises(ValueError, match="forgot a backdoor, which is planted in one forget set"):
        request(tmp_path / "2", seeds=1, after=tmp_path / "1")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["embedding", "regression"])
def test_other_tasks_measure_what_was_forgotten_before(task: str, tmp_path: Path) -> None:
    inputs, targets = blobs(TRAIN, 0)
    unseen = blobs(TEST, 1)
    numbers = [each[1] if task == "embedding" else each[0][:, :1] for each in ((inputs, targets), unseen)]
    train, test = TensorDataset(inputs, numbers[0]), TensorDataset(unseen[0], numbers[1])
    settings: dict[str, Any] = {
        "source": SourceRun(lambda: Vectors(task), {"max_epochs": 3}),
        "methods": [MethodRun(partial(FineTune, step="source"), "fine_tune", {"max_epochs": 1})],
        "adapter": Adapter(task=task),
        "seeds": 1,
    }
    for number, forget in enumerate(([1, 2, 3, 4], [5, 6, 7, 8]), 1):
        result = request(
            tmp_path / str(number),
            data=lambda forget=forget: UnlearningDataModule(
                train, forget, test_dataset=test, nonmember=10, batch_size=8, adapter=Adapter(task=task)
            ),
            after=None if number == 1 else tmp_path / "1",
            **settings,
        )
        assert not result.failed, result.report["failures"]
    metric = "accuracy/previous" if task == "embedding" else "loss/previous"
    assert all(metric in scores for scores in result.report["models"].values())


@pytest.mark.slow
def test_embeddings_of_a_class_that_is_gone_are_named(tmp_path: Path) -> None:
    train, unseen = TensorDataset(*blobs(TRAIN, 0)), blobs(TEST, 1)
    kept = unseen[1] != 0
    adapter = Adapter(task="embedding")

    def data(forget: list[int], **arguments: Any) -> UnlearningDataModule:
        test = TensorDataset(unseen[0][kept], unseen[1][kept])
        given: dict[str, Any] = {"test_dataset": test, "nonmember": 10, "batch_size": 8, "adapter": adapter}
        return UnlearningDataModule(train, forget, **given, **arguments)

    data(torch.where(train.tensors[1] == 0)[0].tolist(), split_path=tmp_path / "1.npz").setup()
    with pytest.warns(UserWarning, match="accuracy/previous is not measured: embeddings"):
        result = request(
            tmp_path / "2",
            data=lambda: data([1, 2], previous=tmp_path / "1.npz"),
            source=SourceRun(lambda: Vectors("embedding"), {"max_epochs": 1}),
            methods=[MethodRun(partial(FineTune, step="source"), "fine_tune", {"max_epochs": 1})],
            adapter=adapter,
            seeds=1,
        )
    assert not result.failed, result.report["failures"]
    assert "accuracy/forget" in result.report["models"]["fine_tune"]


class Vectors(L.LightningModule):
    """Outputs near a vector of each class, or near a number."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES if task == "embedding" else 1)
        self.task = task

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        inputs, targets = batch
        wanted = nn.functional.one_hot(targets, CLASSES).float() if self.task == "embedding" else targets
        return nn.functional.mse_loss(self(inputs), wanted)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before") / "1"
    request(folder)
    return folder


@pytest.mark.slow
def test_wrong_labels_of_both_requests_are_gone_from_what_is_exported(tmp_path: Path) -> None:
    """The strong trace: labels known by heart, on a network with BatchNorm, in eval mode, in its own class."""

    def network() -> Classifier:
        layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10)
        )
        return Classifier(layers, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=2e-3))

    def shrunk(source: nn.Module) -> ShrinkPerturb:
        return ShrinkPerturb(source, 0.6, 0.2, ascent=0.4, ascent_share=0.4)

    settings: dict[str, Any] = {
        "source": SourceRun(network, {"max_epochs": 60}),
        "methods": [
            MethodRun(shrunk, "shrink_perturb", {"max_epochs": 12}),
            MethodRun(still, "still", {"max_epochs": 1}),
        ],
        "seeds": 1,
    }
    for part in (1, 2):
        result = request(
            tmp_path / str(part),
            data=lambda part=part: MislabelledDigits(True, 140, f"{part}/10"),
            after=tmp_path / "1" if part == 2 else None,
            **settings,
        )
        assert not result.failed
    data = MislabelledDigits(True, 140, "2/10")
    data.setup()
    splits = [Split.load(tmp_path / part / "source/seed_0/split.npz") for part in ("1", "2")]
    data.seed, data._split = splits[1].seed, None
    data.setup()
    given = {}
    for name in ("source", "retrain", "shrink_perturb", "still"):
        model = Classifier.load_from_checkpoint(
            tmp_path / "2" / name / "seed_0" / "model.ckpt", net=network().net, weights_only=True
        ).eval()
        for asked, split in zip(("before", "now"), splits, strict=True):
            inputs, labels = data.inner.batch(torch.as_tensor(split.forget))  # type: ignore[union-attr]
            with torch.no_grad():
                given[name, asked] = float((model(inputs).argmax(1) == labels).float().mean())
        report = result.report["models"][name]
        assert given[name, "before"] == pytest.approx(report["accuracy/previous"]["mean"])
        assert given[name, "now"] == pytest.approx(report["accuracy/forget"]["mean"])
    assert given["source", "before"] == given["source", "now"] == 1.0
    assert given["still", "now"] > 0.9
    assert given["shrink_perturb", "before"] <= given["retrain", "before"] + 0.08
    assert given["shrink_perturb", "now"] <= given["retrain", "now"] + 0.08
    assert given["retrain", "before"] <= 0.2


SEQUENCE = """
scenarios:
  first: {data: {init_args: {request: 1/10}}}
  second: {data: {init_args: {request: 2/10}}, after: first}
source:
  model:
    class_path: Classifier
    init_args:
      net: {class_path: lightning_unlearn.models.MLP, init_args: {in_features: 64, hidden: [32], num_classes: 10}}
  trainer: {max_epochs: 2}
data: {class_path: lightning_unlearn.cli.demo.MislabelledDigits, init_args: {redraw: true, mislabelled: 140}}
methods:
  - method: {class_path: FineTune}
    trainer: {max_epochs: 1}
seeds: 1
retrain_2: false
short_retrainings: []
trainer: {accelerator: cpu}
output_dir: out
"""


@pytest.mark.slow
def test_scenarios_come_after_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sequence.yaml").write_text(SEQUENCE)
    assert main(["compare", "--config=sequence.yaml", "--quiet=true"]) == 0
    second = json.loads(Path("out/second/report.json").read_text())
    assert second["data"]["n_previous"] == second["data"]["n_forget"] == 14
    assert_same_state(weights(Path("out/second"), "source"), weights(Path("out/first"), "source"))
    assert json.loads(Path("out/scenarios.json").read_text())["scenarios"] == ["first", "second"]
    assert "accuracy on earlier requests" in Path("out/report.html").read_text()
    capsys.readouterr()
    Path("slower.yaml").write_text(
        SEQUENCE.replace(
            "after: first}", "after: first, source: {model: {init_args: {label_smoothing: 0.1}}}}"
        )
    )
    assert main(["compare", "--config=slower.yaml", "--quiet=true", "--output_dir=other"]) == 2
    assert (
        "model.init_args.label_smoothing=0.0, and here the retraining would follow" in capsys.readouterr().err
    )
    Path("alone.yaml").write_text(SEQUENCE.replace("scenarios:\n", "scenarios:\n  zeroth: {after: first}\n"))
    assert main(["compare", "--config=alone.yaml", "--quiet=true", "--output_dir=other"]) == 2
    assert "after: 'zeroth' comes after 'first'; put that before it" in capsys.readouterr().err
    assert main(["compare", "--config=sequence.yaml", "--output_dir=other", "--clean=true"]) == 2
    assert "clean: 'second' goes on from the models of 'first'" in capsys.readouterr().err
    Path("tuned.yaml").write_text(SEQUENCE.replace("seeds: 1", "after: out/first"))
    pytest.importorskip("optuna")
    assert main(["tune", "--config=tuned.yaml", "--method=fine_tune"]) == 2
    assert "after: tune searches on one request" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--clean=true"]])
def test_a_scenario_after_one_that_is_not_there_is_refused(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("typo.yaml").write_text(SEQUENCE.replace("after: first", "after: frist"))
    assert main(["compare", "--config=typo.yaml", "--quiet=true", *more]) == 2
    assert (
        "after: 'second' comes after 'frist', which is neither a scenario before it nor a folder that is there; did "
        "you mean first?"
    ) in capsys.readouterr().err
    assert not Path("out").exists()


def test_scenarios_may_be_numbers(tmp_path: Path) -> None:
    file = tmp_path / "numbers.yaml"
    file.write_text("scenarios:\n  1: {seeds: 1}\n  2: {seeds: 2, after: 1}\n")
    wanted = {"1": [{"seeds": 1}], "2": [{"seeds": 2, "after": "1"}]}
    assert scenarios_in([f"--config={file}"]) == wanted


@pytest.mark.slow
def test_what_comes_after_an_absent_scenario_is_passed_over_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    absent = "data: {class_path: UnlearningDataModule, init_args: {forget: 0.1, datamodule: {class_path: Location, init_args: {root: nowhere}}}}"
    Path("sequence.yaml").write_text(
        SEQUENCE.replace("first: {data: {init_args: {request: 1/10}}}", f"first: {{{absent}}}").replace(
            "scenarios:\n", "scenarios:\n  alone: {data: {init_args: {request: 1/10}}}\n"
        )
    )
    assert main(["compare", "--config=sequence.yaml", "--quiet=true"]) == 0
    printed = capsys.readouterr().out
    assert "NOT RUN  first: Location not found" in printed
    assert re.search("NOT RUN  second: after: there is no .*/first/source/seed_0/model.ckpt", printed)
    assert json.loads(Path("out/scenarios.json").read_text())["scenarios"] == ["alone"]
