"""What one batch shows before anything is prepared or trained, and the source's own step in a method's loss."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.support import METHODS, settings_of
from helpers.toys import (
    CLASSES,
    FEATURES,
    TEST,
    TRAIN,
    PlainData,
    PlainModule,
    assert_same_state,
    blobs,
    quiet_trainer,
    state,
    toy_data,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn.callbacks import MembershipInference
from lightning_unlearn.data import Adapter, TensorData, UnlearningDataModule
from lightning_unlearn.methods import (
    DELETE,
    MSG,
    CFk,
    RandomK,
    ReferenceKL,
    Retrain,
    SalUn,
    TopK,
    UnlearningModule,
)
from lightning_unlearn.methods.base.trial import Trial, warn_of_guessing
from lightning_unlearn.models import MLP, Classifier

every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
fast = partial(torch.optim.Adam, lr=0.01)
smooth = partial(nn.functional.cross_entropy, label_smoothing=0.5)


class Smoothed(PlainModule):
    """Trained with another loss than the cross-entropy."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return smooth(self(batch[0]), batch[1])


class Inside(PlainModule):
    """As :class:`Smoothed`, but its step calls the network itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(FEATURES, (8, 8), CLASSES)  # type: ignore[assignment]  # no sample touches another

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return smooth(self.net(batch[0]), batch[1])


def build(method: type[UnlearningModule], source: Any, **arguments: Any) -> UnlearningModule:
    settings = settings_of(method, source=source)
    if issubclass(method, TopK):  # the sensitivity to the loss is one to the argument ``loss``
        settings["sensitivity"] = "output_norm"
    if issubclass(
        method, SalUn | MSG
    ):  # and so is the gradient that chooses weights: all move, or none is drawn anew
        settings["fraction"] = 1.0 if method is SalUn else 1e-3
    return method(source, **settings, **arguments)


def run(method: type[UnlearningModule], source: type[nn.Module], **arguments: Any) -> UnlearningModule:
    L.seed_everything(1, verbose=False)
    ours = build(method, source(), **arguments)
    quiet_trainer(limit_val_batches=0).fit(ours, toy_data(nonmember=10))
    return ours


# ---------------------------------------------------------------------- the source's own loss


@every_method
def test_a_source_that_is_trained_otherwise_is_named_with_both_losses(method: type[UnlearningModule]) -> None:
    message = rf"training_step of Smoothed gives a loss of (\S+) where {method.__name__}'s .* is (\S+), .*step='source'"
    with pytest.warns(UserWarning, match=message):
        run(method, Smoothed)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*step='source'.*")
        run(method, PlainModule)
        run(method, Smoothed, loss=smooth)


def far(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three classes far apart, of which a source's losses are about 0."""
    x, y = blobs(n, seed)
    return x + 30 * nn.functional.one_hot(y, FEATURES), y


class Far(PlainData):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*far(TRAIN, 0)), batch_size=8)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*far(TEST, 1)), batch_size=8)


class Weighted(Far):
    """Rows of inputs, label and weight; those of the first batches are alike."""

    def train_dataloader(self) -> DataLoader[Any]:
        weights = torch.where(torch.arange(TRAIN) < 2 * TRAIN // 3, 1.0, 1e-8)
        return DataLoader(TensorDataset(*far(TRAIN, 0), weights), batch_size=8)


class ByWeight(PlainModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = nn.functional.cross_entropy(self(batch[0]), batch[1], reduction="none")
        return (losses * batch[2]).sum() / batch[2].sum()


class ByClass(PlainModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1], torch.tensor([1.0, 2.0, 0.5]))


class Augmenting(PlainModule):
    """Plain cross-entropy, of inputs with noise; it drops, normalises, logs, and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(  # type: ignore[assignment]
            nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, CLASSES)
        )
        self.seen: list[Tensor] = []

    def answers(self, x: Tensor) -> Tensor:
        return self(x)  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.answers(batch[0] + 3 * torch.randn_like(batch[0]))
        self.seen.append(logits)
        self.log("train/accuracy", (logits.argmax(1) == batch[1]).float().mean())
        return nn.functional.cross_entropy(logits, batch[1])


class AugmentingInside(Augmenting):
    def answers(self, x: Tensor) -> Tensor:
        return self.net(x)


class AugmentingUnseen(Augmenting):
    """Nothing is called that gives its logits."""

    def answers(self, x: Tensor) -> Tensor:
        return self.net[:4](x) @ self.net[4].weight.T + self.net[4].bias


class ByHand(PlainModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        right = self(batch[0]).softmax(1).gather(1, batch[1][:, None])
        return -(right + 1e-8).log().mean()


def converged(source: nn.Module) -> nn.Module:
    x, y = far(TRAIN, 0)
    optimizer = torch.optim.Adam(source.parameters(), 0.02)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(source(x), y).backward()
        optimizer.step()
    return source


@pytest.mark.parametrize(
    ("source", "data", "named"),
    [
        (ByWeight, Weighted, True),
        (ByClass, Far, True),
        (PlainModule, Far, False),
        (ByHand, Far, False),
        (Augmenting, Far, False),
        (AugmentingInside, Far, False),
        (AugmentingUnseen, Far, False),
    ],
)
def test_another_loss_shows_where_every_loss_is_about_0(source: Any, data: Any, named: bool) -> None:
    class Watched(CFk):
        def _try_source(self, data: UnlearningDataModule) -> None:
            models = (self.source, self.model)
            before, drawn = [state(model) for model in models], torch.get_rng_state()
            super()._try_source(data)
            assert torch.equal(torch.get_rng_state(), drawn)
            for model, weights in zip(models, before, strict=True):
                assert_same_state(state(model), weights)
                assert all(part.training for part in model.modules())
                assert not getattr(model, "seen", [])

    L.seed_everything(0, verbose=False)
    ours = Watched(converged(source()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(ours, UnlearningDataModule(data(), [1, 2]))
    assert sum("gives a loss of" in str(each.message) for each in caught) == named


@every_method
@pytest.mark.parametrize("source", [Smoothed, Inside])
def test_the_sources_own_step_gives_the_weights_that_its_loss_gives(
    method: type[UnlearningModule], source: type[nn.Module]
) -> None:
    own, given = run(method, source, step="source"), run(method, source, loss=smooth)
    for name, value in state(own.model).items():
        torch.testing.assert_close(value, state(given.model)[name], atol=1e-5, rtol=1e-5)


def test_a_step_that_calls_the_module_costs_no_second_pass() -> None:
    passes: list[int] = []

    class Counting(Smoothed):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            before = len(passes)
            loss = super().training_step(batch, batch_idx)
            assert len(passes) == before or not self.training
            return loss

    ours = build(ReferenceKL, Counting(), reference=Counting(), step="source")
    ours.model.net.register_forward_hook(lambda *_: passes.append(1))  # type: ignore[union-attr, operator]
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(ours, toy_data())
    assert passes


@every_method
def test_a_source_without_a_step_of_its_own_is_refused(method: type[UnlearningModule]) -> None:
    with pytest.raises(ValueError, match="needs a source with a training_step, and MLP has none"):
        build(method, MLP(FEATURES, (8, 8), CLASSES), step="source")
    with pytest.raises(ValueError, match="step must be one of 'loss', 'source'"):
        build(method, PlainModule(), step="own")


# ---------------------------------------------------------------------- what may be understood in two ways


class Both(PlainModule):
    """Gives its features beside its logits, and in front of them."""

    def forward(self, x: Tensor) -> Any:
        return x, self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0])[1], batch[1])


class Softmax(PlainModule):
    """Gives posteriors."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(dim=-1)


class Silent(nn.Module):
    """Gives two sets of logits, and nobody says which are meant."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Any:
        return self.net(x), self.net(-x)


class LogSoftmax(PlainModule):
    """Gives logarithms of posteriors, which are logits."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).log_softmax(dim=-1)


class Grouped(PlainModule):
    """Trained on batches of inputs, group and label."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[2])


class Flat(PlainModule):
    """Asks a method of its input, which several inputs have not."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


class Sequences(PlainModule):
    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        return self.net(tokens * lengths[:, None])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0], batch[1]), batch[2])


class Smooth(Sequences):
    """Its loss does not tell whether its batches are taken apart rightly."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return smooth(self(batch[0], batch[1]), batch[2])


class NoForward(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(FEATURES, CLASSES)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class WholeBatch(PlainModule):
    """Takes the whole batch, which is a mapping."""

    def forward(self, batch: Any) -> Tensor:  # type: ignore[override]
        return self.net(batch["features"])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch), batch["label"])


class SequenceAdapter(Adapter):
    def split(self, batch: Any) -> Any:
        return (batch[0], batch[1]), batch[2]

    def inputs_of(self, batch: Any) -> Any:
        return batch[:2]

    def call(self, module: nn.Module, inputs: Any) -> Tensor:
        return module(*inputs)  # type: ignore[no-any-return]


class Doubled(PlainModule):
    """Its step gives the network other inputs than the batch's."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, :FEATURES] + x[:, FEATURES:])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0].repeat(1, 2)), batch[1])


class Triples(PlainData):
    """Batches of inputs, a group, and the label."""

    kind = torch.int64

    def loader(self, n: int, seed: int, shuffle: bool = False) -> DataLoader[Any]:
        inputs, targets = blobs(n, seed)
        group = (torch.arange(n) // 2 % 2).to(self.kind)
        return DataLoader(TensorDataset(inputs, group, targets), batch_size=16, shuffle=shuffle)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(TRAIN, 0, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(TEST, 2)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader(TEST, 1)


class Numbered(PlainData):
    """Batches of inputs, label, and the sample's number."""

    def train_dataloader(self) -> DataLoader[Any]:
        rows = TensorDataset(*blobs(TRAIN, 0), torch.arange(TRAIN))
        return DataLoader(rows, batch_size=16, shuffle=True)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*blobs(TEST, 1), torch.arange(TEST)), batch_size=16)

    val_dataloader = test_dataloader


class Measured(Triples):
    """Batches of inputs, a number, and the label."""

    kind = torch.float32


class Mappings(PlainData):
    """Batches with names."""

    def train_dataloader(self) -> DataLoader[Any]:
        rows = [{"features": x, "label": y} for x, y in zip(*blobs(TRAIN, 0), strict=True)]
        return DataLoader(rows, batch_size=16, shuffle=True)  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader[Any]:
        rows = [{"features": x, "label": y} for x, y in zip(*blobs(TEST, 1), strict=True)]
        return DataLoader(rows, batch_size=16)  # type: ignore[arg-type]

    val_dataloader = test_dataloader


def trained(module: L.LightningModule, data: type[L.LightningDataModule] = PlainData) -> L.LightningModule:
    quiet_trainer(max_epochs=5, limit_val_batches=0).fit(module, data())
    return module


AMBIGUOUS = [
    (Both, PlainData, r"several tensors that may be the logits.*Pass adapter=Adapter\(logits=1\)"),
    (Grouped, Triples, r"several tensors that may be the targets.*Pass adapter=Adapter\(targets=2\)"),
    (
        Silent,
        PlainData,
        r"with Adapter\(logits=0\), .* with Adapter\(logits=1\), .* none to tell by.*that is meant",
    ),
    (Softmax, PlainData, "gives probabilities"),
    (Smooth, Triples, r"gives another loss, .*pass adapter=Adapter\(inputs=\[0, 1\], targets=2\)"),
    (Smooth, Measured, r"gives another loss, .*pass adapter=Adapter\(inputs=\[0, 1\], targets=2\)"),
    (Doubled, PlainData, r"Doubled cannot be called .*class MyAdapter\(lightning_unlearn.data.Adapter\):"),
    (
        NoForward,
        PlainData,
        r"NoForward cannot be called .*class MyAdapter\(lightning_unlearn.data.Adapter\):",
    ),
]


class FirstStep(L.Callback):
    def on_train_batch_start(self, *_: Any) -> None:
        raise AssertionError("it was trained all the same")


@pytest.mark.parametrize(
    ("source", "data", "message"), AMBIGUOUS, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_is_ambiguous_is_refused_before_anything_is_prepared(
    source: Any, data: Any, message: str
) -> None:
    class Unprepared(ReferenceKL):
        def prepare(self, *_: Any) -> None:
            raise AssertionError("it was prepared all the same")

    with pytest.raises(ValueError, match=f"(?s){message}"):
        quiet_trainer().fit(Unprepared(source()), UnlearningDataModule(data(), 0.2))


@pytest.mark.parametrize(
    ("module", "data", "message"),
    [case for case in AMBIGUOUS if issubclass(case[0], L.LightningModule)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_audit_refuses_it_before_training_and_testing(module: Any, data: Any, message: str) -> None:
    def audits() -> list[L.Callback]:
        split = UnlearningDataModule(data(), 0.2)
        return [MembershipInference(data=split, bootstrap=2), FirstStep()]

    with pytest.raises(ValueError, match=f"(?s){message}"):
        quiet_trainer(callbacks=audits()).fit(module(), data())
    module.test_step = lambda *_: None
    with pytest.raises(ValueError, match=f"(?s){message}"):
        quiet_trainer(callbacks=audits()).test(module(), data(), verbose=False)


@pytest.mark.parametrize(
    ("source", "data", "adapter"),
    [
        (Both, PlainData, Adapter(logits=1)),
        (Grouped, Triples, Adapter(targets=2)),
        (Sequences, Triples, SequenceAdapter()),
        (Sequences, Triples, Adapter()),
        (Sequences, Measured, Adapter()),
        (Smooth, Triples, Adapter(inputs=[0, 1], targets=2)),
        (WholeBatch, Mappings, Adapter()),
        (LogSoftmax, PlainData, Adapter()),
        (Flat, Numbered, Adapter()),
    ],
)
def test_what_is_said_clearly_is_unlearned_and_measured(source: Any, data: Any, adapter: Adapter) -> None:
    split = UnlearningDataModule(data(), 0.2, nonmember=10)
    audit = MembershipInference(on_error="raise", bootstrap=2)
    trainer = quiet_trainer(callbacks=[audit])
    trainer.fit(ReferenceKL(trained(source(), data), adapter=adapter, reference_epochs=1), split)
    assert 0.5 < float(trainer.callback_metrics["accuracy/test"]) <= 1
    assert "membership_inference/auc" in audit.results


@pytest.mark.parametrize(
    "build",
    [
        lambda source, other: RandomK(source, fraction=0.1, lambda_=0.5),
        lambda source, other: ReferenceKL(source, reference=other),
        lambda source, other: DELETE(source),
    ],
    ids=["RandomK", "ReferenceKL", "DELETE"],
)
def test_a_teacher_is_called_as_the_batch_was_found_to_be_taken_apart(build: Any) -> None:
    method = build(trained(Sequences(), Triples), Sequences())
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, UnlearningDataModule(Triples(), 0.2))
    assert method.adapter.targets == 2


def test_a_tuple_whose_first_logits_the_source_is_trained_by_needs_no_word() -> None:
    class First(Both):
        def forward(self, x: Tensor) -> Any:
            return self.net(x), x

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0])[0], batch[1])

    quiet_trainer(max_epochs=1).fit(CFk(First()), UnlearningDataModule(PlainData(), 0.2))


def test_logarithms_of_posteriors_are_measured_like_logits() -> None:
    """Posteriors taken for logits would be squeezed, and hide members; through an Adapter they score as logits do."""

    class Logarithm(Adapter):
        def call(self, module: nn.Module, inputs: Any) -> Tensor:
            return super().call(module, inputs).log()

    plain = trained(PlainModule())
    posteriors = Softmax()
    posteriors.load_state_dict(plain.state_dict())

    def scores(module: L.LightningModule, adapter: Adapter) -> dict[str, float]:
        split = UnlearningDataModule(PlainData(), 0.2, nonmember=10)
        audit = MembershipInference(data=split, adapter=adapter, bootstrap=2, on_error="raise")
        quiet_trainer(callbacks=[audit]).test(module, PlainData(), verbose=False)
        return audit.results

    assert scores(posteriors, Logarithm()) == pytest.approx(scores(plain, Adapter()), abs=1e-6)


# ---------------------------------------------------------------------- a source that guesses


def test_a_source_that_guesses_is_named_and_not_refused() -> None:
    data = UnlearningDataModule(
        TensorData(*blobs(TRAIN)), 0.2, test_dataset=TensorData(*blobs(TEST, 1)), batch_size=48
    )
    torch.manual_seed(0)
    guessing = PlainModule()
    nn.init.zeros_(guessing.net[4].weight)
    with pytest.warns(
        UserWarning, match=r"PlainModule is right about \d+% of 48 retained samples, and guessing about 33%"
    ):
        quiet_trainer(max_epochs=1).fit(CFk(guessing), data)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*guessing about.*")
        quiet_trainer(max_epochs=1).fit(CFk(trained(PlainModule())), data)
        quiet_trainer(max_epochs=1).fit(Retrain(guessing), data)


@pytest.mark.parametrize(("right", "named"), [(16, True), (20, True), (24, False)])
def test_nineteen_of_twenty_that_guess_are_named(right: int, named: bool) -> None:
    targets = torch.arange(48) % 3
    answers = torch.where(torch.arange(48) < right, targets, (targets + 1) % 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_guessing(
            Trial(nn.functional.one_hot(answers, 3).float(), targets, 0.0, None, True, Adapter()), "Model"
        )
    assert bool(caught) == named


@pytest.mark.parametrize("method", [CFk, ReferenceKL, RandomK], ids=lambda method: method.__name__)
def test_the_exported_model_still_finds_what_class_weights_made_the_source_find(
    method: type[UnlearningModule], tmp_path: Path
) -> None:
    """One sample in ten is of the second class, and overlaps the first."""

    def samples(n: int, seed: int) -> TensorData:
        targets = (torch.arange(n) % 10 == 0).long()
        noise = torch.randn(n, FEATURES, generator=torch.Generator().manual_seed(seed))
        return TensorData(noise + targets[:, None] * 0.6, targets)

    def recall(module: nn.Module) -> float:
        seen = samples(2000, 1)
        return float((module.eval()(seen.inputs).argmax(dim=1) == 1)[seen.targets == 1].float().mean())

    data = UnlearningDataModule(samples(600, 0), 0.1, test_dataset=samples(100, 2), batch_size=32)
    L.seed_everything(0, verbose=False)
    source = Classifier(MLP(FEATURES, (8, 8), 2), class_weight="balanced", optimizer=fast)
    quiet_trainer(max_epochs=10, limit_val_batches=0).fit(source, data)
    recalls = {}
    for step in ("source", "loss"):
        ours = method(source, optimizer=fast, step=step)  # type: ignore[call-arg]
        quiet_trainer(max_epochs=10, limit_val_batches=0).fit(ours, data)
        exported = ours.export(tmp_path / f"{step}.ckpt")
        recalls[step] = recall(Classifier.load_from_checkpoint(exported, net=MLP(FEATURES, (8, 8), 2)))
    assert recall(source) > 0.6
    assert recalls["source"] > recall(source) - 0.15
    assert recalls["loss"] < recalls["source"] - 0.2
