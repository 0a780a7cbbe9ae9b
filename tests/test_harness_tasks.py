"""One harness over kinds of task: every method and evaluator works on each of them, or is refused by name.

Judged is the exported file, loaded strictly into its own class, in evaluation mode.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.support import EVALUATORS, METHODS, ONE_SHOT, quick, settings_of, trains_models
from helpers.tasks import (
    KINDS,
    SAMPLES,
    TESTED,
    WRONG,
    Absolute,
    Binary,
    C,
    Column,
    Embedding,
    Keyed,
    Kind,
    Masks,
    MultiLabel,
    Regression,
    Segmentation,
    Soft,
    Tokens,
    data_of,
    inputs,
    known_by_heart,
    measured,
    sets_of,
)
from helpers.toys import assert_same_state, quiet_trainer, state
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate
from torchvision.transforms import v2

from lightning_unlearn import forget
from lightning_unlearn.callbacks import (
    KLOM,
    RMIA,
    CollapseGuard,
    Evaluator,
    ForgettingMetrics,
    ForgettingQuality,
    LiRA,
    MembershipInference,
    ULiRA,
)
from lightning_unlearn.cli.forget import STATUS
from lightning_unlearn.cli.main import main
from lightning_unlearn.core.ledger import read
from lightning_unlearn.data import Adapter, Classes, Split, UnlearningDataModule
from lightning_unlearn.data.loading import DatasetLoader
from lightning_unlearn.ensembles import Runtime, predict
from lightning_unlearn.functional import Positions
from lightning_unlearn.methods import FineTune, NegGradPlus, ReferenceKL, UnlearningModule

every_kind = pytest.mark.parametrize(
    "kind",
    [Binary, MultiLabel, Segmentation, Regression, Embedding],
    ids=lambda kind: kind.__name__,
)


def unlearn(
    make: Callable[[nn.Module], UnlearningModule], kind: type[Kind], folder: Path, epochs: int
) -> Kind:
    """Unlearn, export, and return what the project's own class makes of the file."""
    source = known_by_heart(kind)
    before = {name: value.clone() for name, value in state(source).items()}
    L.seed_everything(1, verbose=False)
    method = make(source)
    quiet_trainer(max_epochs=epochs, limit_val_batches=0).fit(method, data_of(kind))
    exported = kind.load_from_checkpoint(method.export(folder / "m.ckpt"), weights_only=True, strict=True)
    assert_same_state(state(source), before)
    with torch.no_grad():
        asked = inputs(TESTED, 1)
        assert torch.equal(exported.eval()(asked), method.eval()(asked))
    return exported


def remembered(model: nn.Module, kind: type[Kind]) -> float:
    """Return how well a model knows the wrong targets: its accuracy on them, or its loss in a regression."""
    x = inputs(SAMPLES, 0)[WRONG]
    return measured(model, kind, x, kind.targets(x, wrong=True))


def able(model: nn.Module, kind: type[Kind]) -> float:
    x = inputs(TESTED, 1)
    return measured(model, kind, x, kind.targets(x, wrong=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "left"),
    # how much may be left; in the comments by a retrained model, and with the ascent switched off
    [
        (Binary, 0.6),  # 0.19, 1.0
        (MultiLabel, 0.3),  # 0.0, 0.81
        (Soft, 0.5),  # 0.13, 1.0
        (Segmentation, 0.45),  # 0.06, 0.83
        (Tokens, 0.6),  # 0.13, 1.0
        (Regression, 0.8),  # losses: 4.0, 0.17
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_wrong_targets_are_forgotten(kind: type[Kind], left: float, tmp_path: Path) -> None:
    source = known_by_heart(kind)
    exported = unlearn(NegGradPlus, kind, tmp_path, 10)
    knows, knew = remembered(exported, kind), remembered(source, kind)
    if kind.task().measured == "loss":
        assert knew < left < knows
        assert able(exported, kind) <= able(source, kind)
    else:
        assert knows < left < knew
        assert able(exported, kind) >= able(source, kind) - 0.02


@pytest.mark.slow
def test_a_reference_model_is_followed(tmp_path: Path) -> None:
    """By the distance to its answers, without which the loss on the wrong targets stays at 0.16."""

    def make(source: nn.Module) -> UnlearningModule:
        return ReferenceKL(source, lambda_=0.5, reference_fraction=0.5)

    exported = unlearn(make, Regression, tmp_path, 60)
    assert remembered(exported, Regression) > 0.8  # 4.0 of a retrained model, and 0.06 of the source


def arguments_of(method: type[UnlearningModule], source: Kind) -> dict[str, Any]:
    own = isinstance(source, Embedding) and not method.one_shot  # its only loss
    return settings_of(method, source=source) | ({"step": "source"} if own else {})


# others train on the retain set alone, all by one loss
SPEAKING = [
    method
    for method in METHODS + ONE_SHOT
    if "forget" in method.streams or set(method.needs) != {"loss"} or method is FineTune
]


@pytest.mark.slow
@every_kind
def test_methods(kind: type[Kind]) -> None:
    """Each takes a step, and changes weights, or is refused before it does."""
    for method in SPEAKING:
        torch.manual_seed(0)
        source = kind()
        arguments = arguments_of(method, source)
        lacking = set(method.needs) - kind.task().offers - ({"loss"} if "step" in arguments else set())
        ours = method(source, adapter=kind.adapter(), **arguments)
        trainer = quiet_trainer(
            max_epochs=int(not method.one_shot), limit_train_batches=1, limit_val_batches=1
        )
        if lacking:
            with pytest.raises(
                ValueError, match=f"{method.__name__} needs .* the task '{kind.TASK}' has not"
            ):
                trainer.fit(ours, data_of(kind))
            assert trainer.global_step == 0
            continue
        trainer.fit(ours, data_of(kind))
        after, before = state(ours.model), state(ours.source)
        assert all(value.isfinite().all() for value in after.values()), method
        assert any(not torch.equal(after[name], before[name]) for name in after), method
        if kind is not Embedding and not method.one_shot:
            assert f"{kind.task().measured}/test" in trainer.callback_metrics, method


@pytest.mark.slow
@every_kind
def test_evaluators(kind: type[Kind]) -> None:
    """They see that a source knows its forget set by heart, or are refused before anything is trained."""
    source, task = known_by_heart(kind), kind.task()
    chosen = [
        each for each in EVALUATORS if set(each.needs) <= (task.judged_as if each.of_streams else task).offers
    ]
    audits = [each(on_error="raise", **quick(each)) for each in chosen if not trains_models(each)]
    if kind in (MultiLabel, Regression, Embedding):
        audits += [
            each(models=4, bootstrap=20, retrain_epochs=10, on_error="raise") for each in (RMIA, ULiRA)
        ]

    if kind is Embedding:
        audits += [each(**quick(each), on_error="raise") for each in (ForgettingQuality, KLOM, LiRA)]
        audits.append(MembershipInference(bootstrap=10, on_error="raise", name="attack"))

    def fit(callbacks: list[Evaluator], method: UnlearningModule) -> None:
        quiet_trainer(max_epochs=0, callbacks=callbacks).fit(method, data_of(kind))

    for each in set(EVALUATORS) - set(chosen):
        with pytest.raises(ValueError, match=f"{each.__name__} needs .*has not|no backdoor"):
            fit([each(**quick(each))], FineTune(source, adapter=kind.adapter(), step="source"))
    fit(audits, FineTune(source, adapter=kind.adapter(), step="source"))
    found = {name: value for audit in audits for name, value in audit.results.items()}
    assert all(audit.results for audit in audits)
    if kind is Embedding:  # by the nearest class mean
        assert found["source/accuracy/forget"] == 1
        assert min(found[f"source/{attack}/auc"] for attack in ("population_attack", "attack")) > 0.6
        assert found["source/lira/auc"] > 0.9
        assert found["source/klom/mean"] > found["source/klom/null"]
        assert found["source/forgetting_quality/score"] < found["source/forgetting_quality/null"]
    else:
        assert found[f"source/{task.measured}/forget"] == pytest.approx(remembered(source, kind), abs=1e-5)
    if kind in (MultiLabel, Regression, Embedding):
        assert found["source/u_lira/auc"] > 0.9
        assert found["source/rmia/auc"] > 0.9


@pytest.mark.slow
def test_mixed_samples_are_trained_on_and_plain_ones_measured(tmp_path: Path) -> None:
    mixing = v2.MixUp(num_classes=C, alpha=0.2)

    class Mixed(L.LightningDataModule):
        def loader(self, count: int, seed: int, **arguments: Any) -> DataLoader[Any]:
            x = inputs(count, seed)
            y = Column.targets(x, wrong=False).squeeze(1)
            if seed == 0:
                y[WRONG] = Column.targets(x[WRONG], wrong=True).squeeze(1)
            return DataLoader(TensorDataset(x[:, :, None, None], y), batch_size=32, **arguments)

        def train_dataloader(self) -> DataLoader[Any]:
            return self.loader(
                SAMPLES, 0, shuffle=True, collate_fn=lambda batch: mixing(*default_collate(batch))
            )

        def test_dataloader(self) -> DataLoader[Any]:
            return self.loader(TESTED, 1)

    class Source(Soft):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.flatten(1))

    torch.manual_seed(0)
    source, data = Source(), UnlearningDataModule(Mixed(), WRONG)
    quiet_trainer(max_epochs=60).fit(source, Mixed())
    audit = ForgettingMetrics(on_error="raise")
    method = NegGradPlus(source)
    quiet_trainer(max_epochs=10, limit_val_batches=1, callbacks=[audit]).fit(method, data)
    assert method.task.name == "soft"
    x = inputs(SAMPLES, 0)[WRONG]
    labels = Column.targets(x, wrong=True).squeeze(1)
    exported = Source.load_from_checkpoint(method.export(tmp_path / "m.ckpt"), weights_only=True)
    for prefix, model in (("source/", source), ("", exported)):
        right = measured(model, Column, x, labels[:, None])
        assert audit.results[f"{prefix}accuracy/forget"] == pytest.approx(right)
    assert audit.results["source/accuracy/forget"] > 0.9
    assert audit.results["accuracy/forget"] < 0.6


def test_large_maps_are_measured_whole_and_kept_in_part() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(6, C, 100, 100, generator=generator),
        torch.randint(C, (6, 100, 100), generator=generator),
    )
    numbers = DatasetLoader(TensorDataset(x, x + y[:, None]), batch_size=4, indexed=True)
    asked = predict(nn.Identity(), numbers, Runtime(), Adapter(task="regression"))
    assert asked.logits[:, 0].shape == asked.targets.shape == (6, 4096)
    assert torch.allclose(asked.loss, y.double().square().mean(dim=(1, 2)), atol=1e-6)
    loader = DatasetLoader(TensorDataset(x, y), batch_size=4, indexed=True)
    found = predict(nn.Identity(), loader, Runtime(), Adapter(task="positions"))
    assert found.logits.shape == (6, C, 4096)
    losses = nn.functional.cross_entropy(x, y, reduction="none").mean(dim=(1, 2))
    assert torch.allclose(found.loss, losses.double(), atol=1e-6)
    assert found.subset(torch.tensor([4])).loss == found.loss[4]
    assert found.accuracy == pytest.approx(float((x.argmax(1) == y).float().mean()))
    assert torch.allclose(found.confidence, Positions().confidence(x, y), atol=0.2)


# ---------------------------------------------------------------------- from the command line


def owned(kind: type[Kind]) -> Kind:
    """Keep a source that knows its forget set by heart as its owner does, and write down who is to be forgotten."""
    source = kind()
    source.load_state_dict(known_by_heart(Soft if kind is Keyed else kind).state_dict())
    trainer = quiet_trainer()
    trainer.strategy.connect(source)
    trainer.save_checkpoint("best.ckpt")
    Path("request.csv").write_text("id\n" + "\n".join(map(str, WRONG)))
    return source


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [Binary, MultiLabel, Segmentation, Regression, Embedding, Soft, Column, Keyed]
)
def test_one_command_forgets_and_measures(
    kind: type[Kind], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    owned(kind)
    name, quiet = kind.__name__, ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    given = ["--data=helpers.tasks.KindData", f"--data.kind={name}", f"--model=helpers.tasks.{name}", *quiet]
    if kind.NAMED:
        given.append(f"--adapter.task={kind.TASK}")
    if kind is Keyed:
        assert (
            main(["forget", "best.ckpt", "request.csv", *given, "--method=FineTune", "--adapter.task=tokens"])
            == 2
        )
        assert "are not of the task 'tokens'" in capsys.readouterr().err
    assert main(["forget", "best.ckpt", "request.csv", *given]) in STATUS.values()
    exported = kind.load_from_checkpoint("unlearned/model.ckpt", weights_only=True, strict=True)
    # the answer is what one measures who knows nothing of this library but the model's own class
    (train, test), chosen = sets_of(kind), Split.load("unlearned/split.npz")
    losses = [
        losses_of(exported, kind, *part)
        for part in ((train, WRONG, chosen), (test, chosen.nonmember, chosen))
    ]
    area = roc_auc_score([1] * len(WRONG) + [0] * len(losses[1]), -np.concatenate(losses))
    (line,) = read("deletions.jsonl")
    assert line["answer"]["after"] == pytest.approx(area, abs=1e-6)
    assert line["answer"]["before"] - 0.1 > area


@torch.no_grad()
def losses_of(model: Kind, kind: type[Kind], data: TensorDataset, positions: Any, split: Split) -> Any:
    x, y = data[list(positions)]
    outputs = model.eval()(*([x[:, :6], x[:, 6:]] if kind is Keyed else [x]))
    if kind is Embedding:  # whose loss is of pairs: by the distances from the means of retained classes
        known, of = sets_of(kind)[0][list(split.retain)]
        vectors = [model(known)[of == label].double() for label in range(C)]
        spread = [((each - each.mean(0)) * len(each) / (len(each) - 1)).square().sum(1) for each in vectors]
        means = torch.stack([each.mean(0) for each in vectors])
        apart = torch.cdist(outputs.double(), means).square() / (2 * torch.cat(spread).mean())
        return nn.functional.cross_entropy(-apart, y, reduction="none").numpy()
    return np.array(
        [float(model.objective(*(part[None] for part in pair))) for pair in zip(outputs, y, strict=True)]
    )


# ---------------------------------------------------------------------- which task it is


def look(source: nn.Module, kind: type[Kind], adapter: Adapter | None = None) -> UnlearningModule:
    """Fit nothing, so that only one batch is looked at."""
    method = FineTune(source, adapter=adapter)
    quiet_trainer(max_epochs=0).fit(method, data_of(kind))
    return method


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if not kind.NAMED])
def test_the_task_is_found_by_the_sources_own_loss(kind: type[Kind]) -> None:
    method = look(kind(), kind)
    assert method.task.name == kind.TASK
    if kind is Segmentation:
        assert method.task == Adapter(task=method.task).kind
        assert method.task.ignore_index == 255  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [Binary, MultiLabel, Soft, Masks, Regression])
def test_a_network_without_a_loss_of_its_own_is_asked_for_the_task(kind: type[Kind]) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = kind()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    with pytest.raises(
        ValueError, match=r"several tasks; the loss is .* own training_step has none to tell by"
    ):
        look(Plain(), kind)
    assert look(Plain(), kind, Adapter(task=kind.TASK)).task.name == kind.TASK


class Rows(list[Any], Dataset[Any]):
    """Samples as they are."""


class ZeroOrOne(Absolute):
    """Numbers that could be labels."""

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(outputs.squeeze(1), targets)

    targets = Binary.targets


class Second(MultiLabel):
    """Trained by what is not the first of the usual names."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.objective(self(batch["x"]), batch["y"])


class Pictures(Soft):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.objective(self(batch["image"]), batch["label"])


class Optional(Soft):
    """The second of its inputs may be left out."""

    def forward(self, left: torch.Tensor, right: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(left if right is None else left + right)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.objective(self(*batch[:2]), batch[2])


@pytest.mark.parametrize(
    ("kind", "row", "found"),
    [
        (ZeroOrOne, lambda x, y: (x, y), Adapter(task="regression")),
        (Second, lambda x, y: {"x": x, "labels": 1 - y, "y": y}, r"Adapter\(targets='y'\)"),
        (Pictures, lambda x, y: {"x": -x, "image": x, "label": y}, Adapter("image", task="soft")),
        (Optional, lambda x, y: (x, x, y), Adapter(range(2), 2, task="soft")),
    ],
)
def test_a_wrong_guess_is_caught_by_the_sources_own_loss(
    kind: type[Kind], row: Callable[..., Any], found: Adapter | str
) -> None:
    """The usual layout comes first in each, and could be meant."""
    rows, tested = (Rows(row(x, y) for x, y in part) for part in sets_of(kind))

    def look(adapter: Adapter | None = None) -> Adapter:
        method = FineTune(kind(), adapter=adapter)
        data = UnlearningDataModule(rows, WRONG, test_dataset=tested, batch_size=32)
        quiet_trainer(max_epochs=0).fit(method, data)
        return method.adapter

    if isinstance(found, Adapter):
        assert look() == found
    else:
        with pytest.raises(ValueError, match=f"gives the loss of other targets than .*{found}"):
            look()
        assert look(Adapter(targets="y")) == Adapter(targets="y", task="multilabel")


def test_a_source_that_is_trained_by_none_of_the_losses_is_asked_for_the_task() -> None:
    class Weighted(Binary):
        def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return 3 * super().objective(outputs, targets)

    with pytest.raises(ValueError, match=r"of 'binary', .* gives .*Adapter\(task='binary'\)"):
        look(Weighted(), Binary)
    with pytest.warns(UserWarning, match="training_step of Weighted gives a loss of"):
        look(Weighted(), Binary, Adapter(task="binary"))


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (Adapter(task="classes"), r"\(32,\) float32, \(32,\) float32 are not of the task 'classes'"),
        (Adapter(task="positions"), "are not of the task 'positions'"),
    ],
)
def test_a_named_task_that_does_not_fit_is_refused(adapter: Adapter, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        look(Binary(), Binary, adapter)
    with pytest.raises(ValueError, match=r"task must be one of 'binary', .*, got 'ranking'"):
        Adapter(task="ranking")


def test_a_rule_by_class_goes_by_whole_numbers_alone() -> None:
    x = inputs(SAMPLES, 0)
    data = UnlearningDataModule(TensorDataset(x, Binary.targets(x, wrong=False)), Classes(1))
    data.setup("fit")
    assert data.split.forget.tolist() == Binary.targets(x, wrong=False).nonzero().flatten().tolist()
    for kind in (MultiLabel, Regression):
        data = UnlearningDataModule(TensorDataset(x, kind.targets(x, wrong=False)), Classes(1))
        with pytest.raises(ValueError, match=r"float32, are no classes to choose by; forget by positions"):
            data.setup("fit")


def test_classes_of_which_nothing_is_retained_are_refused_where_vectors_are_judged(tmp_path: Path) -> None:
    train, test = sets_of(Embedding)
    other = TensorDataset(test.tensors[0], test.tensors[1] + 1)  # of a fourth class too
    for rule, tested, gone in ((Classes(1), test, 1), (WRONG, other, 3)):
        data = UnlearningDataModule(train, rule, test_dataset=tested, adapter=Embedding.adapter())
        method = FineTune(Embedding(), adapter=Embedding.adapter(), step="source")
        trainer = quiet_trainer(max_epochs=1, callbacks=[ForgettingMetrics()])
        with pytest.raises(ValueError, match=rf"ForgettingMetrics judges .* classes \[{gone}\] of"):
            trainer.fit(method, data)
        assert trainer.global_step == 0
        with pytest.raises(ValueError, match=rf"forget judges .* classes \[{gone}\] of"):
            forget(Embedding(), data, output=tmp_path / "o", ledger=tmp_path / "l", trainer={"logger": False})


def test_a_guard_of_accuracies_is_refused_for_a_regression() -> None:
    with pytest.raises(ValueError, match="CollapseGuard needs a share of right answers"):
        quiet_trainer(max_epochs=1, callbacks=[CollapseGuard(0.1)]).fit(
            FineTune(Regression()), data_of(Regression)
        )
