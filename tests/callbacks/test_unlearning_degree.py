"""The unlearning degree: known answers, its null controls, the constraint of eq. 11, and what it leaves behind."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import CLASSES, assert_same_state, quiet_trainer, state, toy_data, toy_source
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import lightning_unlearn.callbacks.unlearning_degree as room
from lightning_unlearn.callbacks.unlearning_degree import UnlearningDegree
from lightning_unlearn.data import Digits, TensorData, UnlearningDataModule
from lightning_unlearn.ensembles import Runtime, train_classifier
from lightning_unlearn.methods import UnlearningModule
from lightning_unlearn.models import MLP, clone

QUICK: dict[str, Any] = {
    "epochs": 2,
    "least_steps": 0,
    "null_epochs": 1,
    "controls": False,
    "on_error": "raise",
}


class Linear(nn.Module):
    """Two classes told apart by the sign of a weighted sum of the values."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weights
        return torch.stack([-score, score], dim=1)


def signs(forgotten: float = 0.0) -> UnlearningDataModule:
    """±1 in the first value says the class; the second is 0, the third marks the forget set, positions 0 to 39."""
    y = torch.arange(160) % 2
    x = torch.zeros(160, 3)
    x[:, 0] = 2.0 * y - 1
    x[:40, 2] = forgotten
    data = UnlearningDataModule(
        TensorData(x, y), list(range(40)), test_dataset=TensorData(x, y), order_seed=0
    )
    data.setup("fit")
    return data


def audit(
    degree: UnlearningDegree, model: nn.Module, data: UnlearningDataModule, **trainer: Any
) -> dict[str, float]:
    """Return the scores, by their names after the slash."""
    quiet_trainer(callbacks=[degree], limit_test_batches=1, **trainer).test(
        UnlearningModule(model), data, verbose=False
    )
    return {name.split("/")[1]: value for name, value in degree.results.items()}


def scores(
    model: nn.Module, source: nn.Module, data: UnlearningDataModule, **arguments: Any
) -> dict[str, float]:
    return audit(UnlearningDegree(**{**QUICK, "source": source, **arguments}), model, data)


def images(channels: int = 1) -> UnlearningDataModule:
    generator = torch.Generator().manual_seed(0)
    train = TensorData(torch.randn(40, channels, 6, 7, generator=generator), torch.arange(40) % 2)
    test = TensorData(torch.randn(20, channels, 6, 7, generator=generator), torch.arange(20) % 2)
    return UnlearningDataModule(train, 0.3, test_dataset=test, order_seed=0)


def image_models(channels: int = 1) -> tuple[nn.Module, nn.Module]:
    return tuple(MLP(channels * 42, (16,), 2) for _ in range(2))  # type: ignore[return-value]


# ---------------------------------------------------------------------- known answers


@pytest.mark.parametrize(("size", "expected"), [(0.1, 0.0), (0.5, 1.0)])
def test_the_degree_is_one_exactly_where_a_perturbation_can_reach(size: float, expected: float) -> None:
    """The model's score is x0 + 5·x1: a perturbation turns its sign if size·(1 + 5) > 1, the source's if size > 1."""
    found = scores(
        Linear(1, 5, 0),
        Linear(1, 0, 0),
        signs(),
        null_control=None,
        size=size,
        eta=0.3,
        epochs=60,
        lr=0.01,
        batch_size=8,
    )
    assert found["degree"] == expected
    assert found["source_accuracy_perturbed"] == 1.0
    assert found["source_accuracy_drop"] == 0.0
    assert found["constraint_met"] == 1.0
    assert 0 < found["perturbation_linf"] <= size * (1 + 1e-6)
    assert found["perturbation_l2"] <= size * 3**0.5 * (1 + 1e-6)
    assert "calibrated" not in found, "nothing is calibrated without a null control"
    assert "null" not in found


@pytest.mark.parametrize("null", ["retain", "continue", "retrain"])
def test_the_source_has_degree_0(null: Any) -> None:
    source = toy_source()
    found = scores(source, source, toy_data(order_seed=0), null_control=null)
    assert found["degree"] == 0.0
    assert found["calibrated"] == pytest.approx(-found["null"])
    if null == "retain":
        assert found["null"] == 0.0, "two equal models cannot be told apart on any samples"


def test_no_generator_is_trained_against_the_source_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy under another name counts; a model with one other weight, or another function of the same, does not."""

    class Negated(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    made: list[Any] = []
    build = room.perturber_for
    monkeypatch.setattr(room, "perturber_for", lambda shape: made.append(shape) or build(shape))
    source = Linear(1, 5, 0)
    found = scores(clone(source), source, signs(), null_control="retain")
    assert made == []
    assert (
        found["degree"] == found["null"] == found["perturbation_linf"] == found["source_accuracy_drop"] == 0.0
    )
    for other in (Linear(1, 5, 1e-6), Negated(1, 5, 0)):
        made.clear()
        scores(other, source, signs(), null_control=None)
        assert len(made) == 1


def test_a_null_control_equal_to_the_model_takes_all_of_the_degree() -> None:
    model = Linear(1, 5, 0)
    arguments: dict[str, Any] = {"size": 0.5, "eta": 0.3, "epochs": 30, "lr": 0.01, "batch_size": 8}
    found = scores(model, Linear(1, 0, 0), signs(), null_control=clone(model), **arguments)
    assert found["degree"] > 0.9
    assert found["calibrated"] == 0.0, "the same generator on the same batches"
    assert (
        scores(model, Linear(1, 0, 0), signs(), null_control=Linear(1, 0, 0), **arguments)["calibrated"]
        == found["degree"]
    )


def test_the_retain_control_tells_forgetting_from_another_way_to_the_same_answers() -> None:
    forgot = Linear(1, 0, -2)  # wrong wherever the third value is 1 and the class 1
    arguments: dict[str, Any] = {"size": 0.1, "epochs": 10, "null_control": "retain"}
    found = scores(forgot, Linear(1, 0, 0), signs(forgotten=1.0), **arguments)
    assert found["degree"] == found["calibrated"] == 0.5
    assert found["null"] == 0.0
    differs = scores(
        Linear(1, 5, 0),
        Linear(1, 0, 0),
        signs(),
        **{**arguments, "size": 0.5, "eta": 0.3, "epochs": 60, "lr": 0.01},
    )
    assert differs["degree"] > 0.9
    assert differs["calibrated"] == pytest.approx(0.0, abs=0.1)


def test_a_broken_constraint_is_marked(tmp_path: Path) -> None:
    """Against an almost equal model with η > 1 the generator can only make both fail, and the source with them."""
    source, model = Linear(1, 5, 0), Linear(1, 5.001, 0)
    arguments: dict[str, Any] = {"eta": 5.0, "size": 0.5, "epochs": 30, "lr": 0.01, "dirpath": tmp_path}
    found = scores(model, source, signs(), null_control=None, **arguments)
    assert found["source_accuracy_drop"] == pytest.approx(1 - found["source_accuracy_perturbed"])
    assert found["source_accuracy_drop"] > 0.5
    assert found["constraint_met"] == 0.0
    assert "eq. 11" in json.loads((tmp_path / "unlearning_degree.json").read_text())["details"]["warning"]
    assert (
        scores(model, source, signs(), null_control=None, tolerance=1.0, **arguments)["constraint_met"] == 1.0
    )


def test_a_null_control_that_breaks_the_constraint_is_marked_too() -> None:
    arguments: dict[str, Any] = {"eta": 5.0, "size": 0.5, "epochs": 30, "lr": 0.01, "batch_size": 8}
    source, constant = Linear(1, 5, 0), Linear(0, 0, 0)  # nothing moves a constant's answer, so eta is idle
    fine = scores(constant, source, signs(), null_control=None, **arguments)
    assert fine["constraint_met"] == 1.0
    almost = Linear(1, 5.001, 0)
    assert scores(constant, source, signs(), null_control=almost, **arguments)["constraint_met"] == 0.0


# ---------------------------------------------------------------------- the null control


class Viewing(nn.Module):
    """A network of convolutions that flattens by ``view``, as much code does."""

    def __init__(self, convolution: type[nn.Module] = nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution(2, 3, 3)
        self.linear = nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convolution(x).view(x.size(0), -1))


@pytest.mark.parametrize("convolution", [nn.Conv2d, nn.Conv3d])
def test_any_network_of_convolutions_can_be_audited(convolution: type[nn.Module]) -> None:
    shape = (2, 6, 6) if convolution is nn.Conv2d else (2, 6, 6, 6)
    data, test = (TensorData(torch.randn(40, *shape), torch.arange(40) % 2) for _ in range(2))
    split = UnlearningDataModule(data, 0.3, test_dataset=test, order_seed=0)
    split.setup("fit")
    source, model = Viewing(convolution), Viewing(convolution)
    for network in (source, model):
        network(data.inputs[:2])
    assert "degree" in scores(model, source, split, null_control=None)


def test_a_small_forget_set_gets_as_many_steps_as_the_generator_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses: list[Any] = []
    real = room.spd_gan_loss
    monkeypatch.setattr(room, "spd_gan_loss", lambda *a: losses.append(1) or real(*a))
    arguments: dict[str, Any] = {"null_control": None, "batch_size": 8}
    for least, steps in ((0, 2 * 5), (10, 2 * 5), (11, 3 * 5)):  # 40 samples are five batches
        losses.clear()
        scores(Linear(1, 5, 0), Linear(1, 0, 0), signs(), least_steps=least, epochs=2, **arguments)
        assert len(losses) == steps


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every null control was trained from, on and for how long."""
    seen: list[dict[str, Any]] = []

    def spy(module: nn.Module, loader: Any, **arguments: Any) -> None:
        before = state(module)
        train_classifier(module, loader, **arguments)
        places = torch.cat(list(loader.sampler.batches()))
        samples = loader.positions[places].tolist()
        seen.append(
            {"before": before, "after": state(module), "samples": samples, "epochs": arguments["epochs"]}
        )

    monkeypatch.setattr(room, "train_classifier", spy)
    return seen


@pytest.mark.parametrize("null", ["continue", "retrain"])
def test_the_null_control_learns_from_all_data(null: Any, trainings: list[dict[str, Any]]) -> None:
    source, data = toy_source(), toy_data(order_seed=0, nonmember=10)
    scores(toy_source(1), source, data, null_control=null, null_epochs=3)
    (training,) = trainings
    assert sorted(training["samples"]) == data.split.members.tolist(), "forget and retain set"
    assert training["epochs"] == 3
    same = [
        name for name, value in source.state_dict().items() if torch.equal(value, training["before"][name])
    ]
    assert (same == list(training["before"])) == (null == "continue"), (
        "only one of them starts from the source"
    )
    assert not all(torch.equal(value, training["before"][name]) for name, value in training["after"].items())


def test_the_null_control_is_measured_once_a_source(trainings: list[dict[str, Any]]) -> None:
    source, data = toy_source(), toy_data(order_seed=0)
    degree = UnlearningDegree("continue", source=source, **QUICK)
    found = [audit(degree, toy_source(seed), data) for seed in (1, 2, 3)]
    assert len(trainings) == 1
    assert len({each["null"] for each in found}) == 1
    assert pickle.loads(pickle.dumps(degree)).results == degree.results
    degree.source = toy_source(9)
    audit(degree, source, data)
    assert len(trainings) == 2, "another source has another control"
    degree.seed = 5
    audit(degree, source, data)
    assert len(trainings) == 3
    audit(degree, source, toy_data(order_seed=0))
    assert len(trainings) == 4


@pytest.mark.parametrize("null", ["retain", None])
def test_no_model_is_trained_without_need(null: Any, trainings: list[dict[str, Any]]) -> None:
    scores(toy_source(1), toy_source(), toy_data(order_seed=0), null_control=null)
    assert not trainings


def test_the_retain_control_asks_about_as_many_retained_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy_data(0.2, order_seed=0)
    data.setup("fit")
    asked: dict[str, set[tuple[int, ...]]] = {"forget": set(), "retain": set()}
    real = data.loader

    def spy(stream: str, **arguments: Any) -> Any:
        loader = real(stream, **arguments)
        if stream in asked:
            assert not getattr(loader, "augment", False)
            asked[stream].add(tuple(sorted(loader.positions.tolist())))
        return loader

    monkeypatch.setattr(data, "loader", spy)
    scores(toy_source(1), toy_source(), data, null_control="retain")
    whole = tuple(data.split.retain.tolist())  # of which one batch is looked at before anything runs
    (forgotten,), (retained,) = asked["forget"], asked["retain"] - {whole}
    assert set(forgotten) == set(data.split.forget.tolist())
    assert len(retained) == len(forgotten)
    assert set(retained) < set(data.split.retain.tolist())


# ---------------------------------------------------------------------- what is left behind


def test_intervals_and_settings_stand_in_the_file(tmp_path: Path) -> None:
    found = scores(
        toy_source(2),
        toy_source(),
        toy_data(0.5, order_seed=0),
        null_control="retain",
        size=0.7,
        dirpath=tmp_path,
    )
    details = json.loads((tmp_path / "unlearning_degree.json").read_text())["details"]
    assert details["samples"] == 30
    assert (details["eta"], details["size"], details["null_control"]) == (0.03, 0.7, "retain")
    assert found["source_accuracy_perturbed"] - details["model_accuracy_perturbed"] == pytest.approx(
        found["degree"]
    )
    for score in ("degree", "null", "calibrated"):
        low, high = details["ci95"][score]
        assert low < found[score] < high
        assert (low + high) / 2 == pytest.approx(found[score])
    assert not (tmp_path / "unlearning_degree.png").exists(), "a table has no picture"


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_images_is_saved(tmp_path: Path, channels: int) -> None:
    from matplotlib import pyplot
    from matplotlib.image import imread

    source, model = image_models(channels)
    scores(model, source, images(channels), dirpath=tmp_path)
    picture = imread(tmp_path / "unlearning_degree.png")
    assert picture.shape[1] > picture.shape[0] > 200
    assert len({tuple(pixel) for pixel in picture[:, :, :3].reshape(-1, 3).round(2).tolist()}) > 20
    assert not pyplot.get_fignums(), "no figure stays open"


def test_only_the_audited_model_has_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    real = room._grid
    monkeypatch.setattr(
        room, "_grid", lambda shown, size: drawn.append(shown.model_answers) or real(shown, size)
    )
    source, model = image_models()
    degree = UnlearningDegree(**{**QUICK, "source": source, "controls": True, "dirpath": tmp_path})
    degree.retrained = clone(model)
    audit(degree, model, images())
    assert {"source/unlearning_degree/degree", "retrain/unlearning_degree/degree"} < set(degree.results)
    assert len(drawn) == 1, "neither of the source nor of the retrained model"
    drawn.clear()
    scores(model, source, images(), dirpath=None)
    assert not drawn, "there is no folder for it"


def test_two_channels_make_no_picture(tmp_path: Path) -> None:
    source, model = image_models(2)
    scores(model, source, images(2), dirpath=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["unlearning_degree.json"]


def test_every_epoch_sees_all_of_the_forget_set_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    source = toy_source()
    real = room.spd_gan_loss

    def spy(source_logits: Tensor, *arguments: Any) -> Tensor:
        seen.append(source_logits.detach()[:, 0].tolist())
        return real(source_logits, *arguments)

    monkeypatch.setattr(room, "spd_gan_loss", spy)
    scores(toy_source(1), source, toy_data(order_seed=0), null_control=None, epochs=3, size=1e-6)
    assert len(seen) == 3
    assert len({tuple(round(value, 3) for value in epoch) for epoch in seen}) == 3
    for epoch in seen:
        assert sorted(epoch) == pytest.approx(sorted(seen[0]), abs=1e-3)


def test_models_are_left_as_they_were() -> None:
    source, model, null = toy_source(), toy_source(1), toy_source(2)
    model.net[0].weight.requires_grad_(False)
    before = [state(each) for each in (source, model, null)]
    switches = [[p.requires_grad for p in each.parameters()] for each in (source, model, null)]
    scores(model, source, toy_data(order_seed=0), null_control=null)
    for each, kept in zip((source, model, null), before, strict=True):
        assert_same_state(state(each), kept)
        assert all(parameter.grad is None for parameter in each.parameters())
    assert [[p.requires_grad for p in each.parameters()] for each in (source, model, null)] == switches


def test_two_processes_train_the_same_generator() -> None:
    """Batch normalisation of images included; only threads and so rounding may differ."""
    source, model = image_models()
    arguments: dict[str, Any] = {**QUICK, "source": source, "epochs": 4, "size": 1.0, "batch_size": 4}
    one = audit(UnlearningDegree(**arguments), model, images())
    degree = UnlearningDegree(**arguments)
    trainer = quiet_trainer(callbacks=[degree], limit_test_batches=1, strategy="ddp_fork", devices=2)
    (two,) = trainer.test(UnlearningModule(model), images(), verbose=False)
    assert {name: two[f"unlearning_degree/{name}"] for name in one} == pytest.approx(one, abs=1e-3)


def test_the_seed_decides() -> None:
    source, model = image_models()
    first, again, other = (scores(model, source, images(), size=1.0, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first["perturbation_l2"] != other["perturbation_l2"]


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_precision_of_the_trainer_does_not_reach_the_generator(precision: Any) -> None:
    source, model = Linear(1, 0, 0), Linear(1, 5, 0)
    arguments: dict[str, Any] = {
        "null_control": None,
        "size": 0.5,
        "eta": 0.3,
        "epochs": 60,
        "lr": 0.01,
        "batch_size": 8,
    }
    degree = UnlearningDegree(**{**QUICK, "source": source, **arguments})
    assert audit(degree, model, signs(), precision=precision)["degree"] == 1.0


# ---------------------------------------------------------------------- what cannot be measured


def test_without_a_source_nothing_is_reported(tmp_path: Path) -> None:
    degree = UnlearningDegree(dirpath=tmp_path, on_error="raise")
    with pytest.warns(UserWarning, match=r"source=\.\.\."):
        quiet_trainer(callbacks=[degree], max_epochs=1).fit(toy_source(), toy_data())
    written = json.loads((tmp_path / "unlearning_degree.json").read_text())
    assert (written["metrics"], written["error"]) == ({}, None)
    assert written["details"]["not_measured"]


def test_inputs_that_cannot_be_perturbed_are_named() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.EmbeddingBag(9, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.embedding(x)

    train, test = (TensorDataset(torch.randint(9, (40, 5)), torch.arange(40) % CLASSES) for _ in range(2))
    data = UnlearningDataModule(train, 0.2, test_dataset=test)
    with pytest.raises(ValueError, match=r"must be one floating-point tensor .* torch.int64"):
        scores(Words(), Words(), data)


def test_a_loss_that_is_not_finite_is_named() -> None:
    source = Linear(1, 0, 0)
    with pytest.raises(FloatingPointError, match=r"epoch 1; check .* eta \(0.03\) or lr"):
        scores(Linear(float("nan"), 0, 0), source, signs())


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("null_control", "shadow"),
        ("null_control", 3),
        ("eta", -0.1),
        ("size", 0.0),
        ("size", float("inf")),
        ("lr", 0.0),
        ("tolerance", 1.5),
        ("epochs", 0),
        ("batch_size", 1),
        ("null_epochs", 0),
    ],
)
def test_bad_arguments_are_refused(argument: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=argument):
        UnlearningDegree(**{argument: value})


# ---------------------------------------------------------------------- real data


@pytest.mark.slow
def test_forgetting_digits_is_seen_and_training_them_anew_is_not() -> None:
    """The retrained model stands out from the source; a model trained anew on all data does not."""
    data = UnlearningDataModule(Digits(batch_size=64), 0.1, order_seed=0)
    data.setup("fit")

    def trained(stream: str, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        network = MLP(64, (256, 128), 10)
        loader = data.loader(stream, train=True, seed=seed)

        def adam(parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.Adam(parameters, lr=2e-3)

        train_classifier(network, loader, epochs=25, optimizer=adam, runtime=Runtime())
        return network

    source, retrained, anew = trained("train", 0), trained("retain", 1), trained("train", 2)
    degree = UnlearningDegree("retain", source=source, controls=False, on_error="raise")
    forgot = audit(degree, retrained, data)
    assert degree.details["ci95"]["calibrated"][0] > 0
    assert forgot["constraint_met"] == 1.0
    knows = audit(degree, anew, data)
    low, high = degree.details["ci95"]["calibrated"]
    assert low <= 0 <= high
    assert knows["degree"] < forgot["degree"] / 2


def test_the_bound_of_the_perturbation_is_in_the_names() -> None:
    """The paper's bound is 1, and a degree at another is another number."""
    for evaluator, bound in (
        (UnlearningDegree(), "(±0.2)"),
        (UnlearningDegree(size=1.0, name="own"), "(±1)"),
    ):
        found = evaluator.declared()
        for part in ("degree", "null", "calibrated"):
            assert found[f"{evaluator.name}/{part}"].label.endswith(bound)
        assert found[f"{evaluator.name}/degree"].null == "null"
