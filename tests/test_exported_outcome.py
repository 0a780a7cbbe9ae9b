"""What exported networks with normalisation layers still know, loaded into their own class, in evaluation mode."""

import copy
import functools
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.toys import quiet_trainer
from torch import Tensor, nn

from lightning_unlearn.data import (
    Adapter,
    Classes,
    Digits,
    PatchTrigger,
    Poison,
    TensorData,
    UnlearningDataModule,
)
from lightning_unlearn.engine.statistics import estimate_statistics
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods import (
    WGAN,
    NegGradPlus,
    RandomK,
    RandomTopK,
    ReferenceKL,
    Retrain,
    TopK,
    UnlearningModule,
)
from lightning_unlearn.methods.base.statistics import normalised_alike
from lightning_unlearn.models import ResNet8, SVHNConv8
from lightning_unlearn.models.statistics import by_noted_statistics, noted_statistics, running_layers


class VGGLike(nn.Sequential):
    def __init__(self, width: int = 8) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        super().__init__(
            *layers, nn.Flatten(), nn.Linear(4 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 10)
        )


NETWORKS = {"resnet": lambda: ResNet8(10, 1, 8), "svhn": lambda: SVHNConv8(10, 1, 8), "vgg": VGGLike}


class Project(L.LightningModule):
    """A user's module that keeps its network's kind as a hyper-parameter."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = NETWORKS[kind]()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


adam = functools.partial(torch.optim.Adam, lr=2e-3)


def of_class() -> UnlearningDataModule:
    return UnlearningDataModule(Digits(batch_size=64), Classes(3))


def with_backdoor() -> UnlearningDataModule:
    """5% of the digits that are no zero are marked and called zero."""
    plain = Digits(batch_size=64)
    plain.setup("fit")
    others = np.flatnonzero(np.asarray(plain.train_data.targets) != 0)
    chosen = np.random.default_rng(0).choice(others, 72, replace=False)
    return UnlearningDataModule(Digits(batch_size=64), chosen, backdoor=Poison(PatchTrigger(), 0))


DATA = {"class": of_class, "backdoor": with_backdoor}


@functools.cache
def sourced(kind: str, trace: str) -> tuple[Project, UnlearningDataModule, Project]:
    """Return a source that knows D_f by heart, its data, and the retrained model."""
    torch.manual_seed(0)
    source, data = Project(kind), DATA[trace]()
    data.setup("fit")
    trainer = quiet_trainer(max_epochs=12)
    trainer.fit(source, data.loader("train", train=True))
    assert given_label(source, data) > 0.98
    retrained = Retrain(source)
    quiet_trainer(max_epochs=12, limit_val_batches=0).fit(retrained, data)
    return source.eval(), data, retrained.model.eval()


def exported(method: UnlearningModule, data: UnlearningDataModule, epochs: int, folder: Path) -> Project:
    torch.manual_seed(1)  # whichever test trained the source, which is kept
    quiet_trainer(max_epochs=epochs, limit_val_batches=0).fit(method, data)
    loaded = Project.load_from_checkpoint(method.export(folder / "model.ckpt"), strict=True)
    return loaded.eval()


def rows(data: UnlearningDataModule, stream: str) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*data.loader(stream), strict=True)
    return torch.cat(inputs), torch.cat(targets)


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    return float((model(inputs).argmax(1) == targets).float().mean())


def given_label(model: nn.Module, data: UnlearningDataModule) -> float:
    """Share of D_f that is given the label it was trained with: a class, or a backdoor's target."""
    return accuracy(model.eval(), *rows(data, "forget"))


METHODS = {
    "ReferenceKL": (
        lambda source, _: ReferenceKL(
            source, 0.3, reference_epochs=12, reference_fraction=0.3, optimizer=adam
        ),
        8,
    ),
    "WGAN": (lambda source, _: WGAN(source, 0.5, sort=False, retain_fraction=0.3, optimizer=adam), 10),
    "NegGradPlus": (lambda source, _: NegGradPlus(source), 2),
    "TopK": (
        lambda source, teacher: TopK(source, 200, teacher=teacher, sensitivity_stream="forget", **TUNED),
        4,
    ),
    "RandomK": (lambda source, teacher: RandomK(source, 0.2, teacher=teacher, **TUNED), 4),
    "RandomTopK": (
        lambda source, teacher: RandomTopK(
            source, 100, 0.2, teacher=teacher, sensitivity_stream="forget", **TUNED
        ),
        4,
    ),
}
TUNED: dict[str, Any] = {
    "epsilon": -2.0,
    "lambda_": 1.0,
    "optimizer": adam,
    "lr_scheduler": lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("ReferenceKL", 0.08), ("NegGradPlus", 0.01)])
def test_a_class_is_forgotten_by_the_exported_network(name: str, most: float, tmp_path: Path) -> None:
    source, data, retrained = sourced("resnet", "class")
    build, epochs = METHODS[name]
    model = exported(build(source, retrained), data, epochs, tmp_path)
    assert given_label(model, data) <= most
    inputs, targets = rows(data, "test")
    others = targets != 3
    assert (
        accuracy(model, inputs[others], targets[others])
        >= accuracy(retrained, inputs[others], targets[others]) - 0.02
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("resnet", "ReferenceKL"),
        ("resnet", "WGAN"),
        ("resnet", "NegGradPlus"),
        *(
            (kind, name)
            for kind in ("svhn", "vgg")
            for name in ("ReferenceKL", "TopK", "RandomK", "RandomTopK")
        ),
    ],
)
def test_a_backdoor_is_forgotten_by_the_exported_network(kind: str, name: str, tmp_path: Path) -> None:
    source, data, retrained = sourced(kind, "backdoor")
    build, epochs = METHODS[name]
    model = exported(build(source, retrained), data, epochs, tmp_path)
    assert given_label(model, data) <= 0.1
    assert accuracy(model, *rows(data, "test")) >= accuracy(retrained, *rows(data, "test")) - 0.05


# ---------------------------------------------------------------- running statistics


class Normalised(L.LightningModule):
    """Every kind of layer that keeps running statistics, dropout between them, and one that is frozen."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(width, width, 3, padding=1),
            nn.InstanceNorm2d(width, affine=True, track_running_stats=True),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, 10),
        )
        self.net[7].requires_grad_(False)
        self.net[8].requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


TRAINED = ("net.1", "net.5")


def images(n: int = 120, outlier: float = 1000.0) -> TensorData:
    """Images of which the first six, to be forgotten, are far out."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 1, 8, 8, generator=generator)
    inputs[:6] *= outlier
    return TensorData(inputs, torch.arange(n) % 10)


def far_out(**arguments: Any) -> UnlearningDataModule:
    return UnlearningDataModule(
        images(), list(range(6)), test_dataset=images(30, 1.0), batch_size=16, **arguments
    )


def averaged(model: nn.Module, data: UnlearningDataModule) -> dict[str, Tensor]:
    """Return statistics as PyTorch's own cumulative average gives them, with an exact replica of the batches."""
    network = copy.deepcopy(model).eval()
    batches = list(_batches_of_statistics(data))
    sums: dict[str, Tensor] = {}
    with torch.no_grad():
        for inputs in batches:
            for name in TRAINED:
                layer = network.get_submodule(name)
                layer.train()
                layer.momentum = 1.0
            network(inputs)
            for name in TRAINED:
                for kind in ("running_mean", "running_var"):
                    value = getattr(network.get_submodule(name), kind).double() / len(batches)
                    sums[f"{name}.{kind}"] = sums.get(f"{name}.{kind}", 0) + value
    return sums


def _batches_of_statistics(data: UnlearningDataModule) -> Any:
    from lightning_unlearn.engine.statistics import _batches

    loader, _ = _batches(data, Runtime())
    for inputs, _ in loader:
        yield inputs


@pytest.mark.parametrize("name", ["ReferenceKL", "WGAN", "TopK", "RandomK"])
def test_exported_statistics_are_those_of_the_retain_set(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, data = Normalised(), far_out()
    method = {
        "ReferenceKL": lambda: ReferenceKL(source, reference_epochs=1),
        "WGAN": lambda: WGAN(source, retain_fraction=0.5),
        "TopK": lambda: TopK(source, 20, epsilon=0.5),
        "RandomK": lambda: RandomK(source, 0.1, epsilon=0.5),
    }[name]()
    frozen = copy.deepcopy(source.net[8].state_dict())
    quiet_trainer(max_epochs=2, limit_val_batches=0).fit(method, data)
    model = Normalised.load_from_checkpoint(method.export(tmp_path / "m.ckpt"), strict=True)
    expected = averaged(model, data)
    found = model.state_dict()
    assert expected
    for key, value in expected.items():
        torch.testing.assert_close(found[key].double(), value, rtol=1e-5, atol=1e-7)
        assert found[key].abs().max() < 100, "nothing of a sample that is a thousand times as large"
    for key, value in frozen.items():
        assert torch.equal(found[f"net.8.{key}"], value)


class Frames(nn.Module):
    """A network whose layers are given single frames, or the samples as they are."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(2, affine=False)])

    def forward(self, x: Tensor) -> Tensor:
        batch = len(x)
        x = self.norms[0](self.first(x.reshape(batch * self.frames, 1, 8, -1))).relu()
        return self.norms[1](self.second(x)).reshape(batch, -1)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
        ),
    ],
)
@pytest.mark.parametrize("frames", [1, 2], ids=["in one pass", "in two, as layers are given frames"])
def test_batches_are_normalised_by_the_last_and_gradients_flow_through_it(frames: int, device: str) -> None:
    torch.manual_seed(0)
    model = Frames(frames).double().to(device)
    nn.init.uniform_(model.norms[0].weight)
    other, last = (scale * torch.randn(n, 1, 8, 16).double().to(device) for scale, n in ((3, 4), (1, 9)))
    layers = list(running_layers(model).values())
    by_hand, alone = copy.deepcopy(model), copy.deepcopy(model)
    found = normalised_alike(model, Adapter(), [other, last], layers, single=False)
    alone(last)
    for name, value in alone.named_buffers():  # follow the last batch, and it alone
        torch.testing.assert_close(dict(model.named_buffers())[name], value)
    x, y = (batch.reshape(-1, 1, 8, 16 // frames) for batch in (other, last))
    for convolution, layer in zip((by_hand.first, by_hand.second), by_hand.norms, strict=True):
        x, y = convolution(x), convolution(y)
        mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
        x, y = ((v - mean) / (variance + layer.eps).sqrt() for v in (x, y))
        if layer.affine:
            x, y = (v * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1) for v in (x, y))
            x, y = x.relu(), y.relu()
    expected = [x.reshape(4, -1), y.reshape(9, -1)]
    for losses in (found, expected):
        (losses[0].sin().sum() + losses[1].square().mean()).backward()
    exact = {"rtol": 1e-9, "atol": 1e-10} if frames == 1 else {"rtol": 1e-4, "atol": 1e-5}
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **exact)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, dict(by_hand.named_parameters())[name].grad, **exact)
    assert all("forward" not in vars(layer) and layer.training for layer in layers)


def test_other_batches_are_normalised_as_the_noted_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    )
    known, other = torch.randn(9, 1, 8, 8), 5 * torch.randn(4, 1, 8, 8)
    layers = list(running_layers(model).values())
    with noted_statistics(layers) as noted:
        model(known)
    before = copy.deepcopy(model.state_dict())
    with by_noted_statistics(noted):
        found = model(other)
    assert all(layer.training for layer in layers)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    # the same by hand: biased statistics of the known batch, layer by layer
    x, y = known, other
    for convolution, layer in ((model[0], model[1]), (model[3], model[4])):
        x, y = convolution(x), convolution(y)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        shape = (1, -1, 1, 1)
        x, y = (
            (v - mean) / (variance + layer.eps).sqrt() * layer.weight.view(shape) + layer.bias.view(shape)
            for v in (x, y)
        )
        if layer is model[1]:
            x, y = x.relu(), y.relu()
    torch.testing.assert_close(found, y, rtol=1e-4, atol=1e-5)
    found.square().mean().backward()
    assert model[0].weight.grad is not None


class Sorted(nn.Module):
    """Its layers are given the samples in another order, as packed sequences are by length."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        return self.norm(x[order])[order.argsort()]


def test_statistics_are_of_the_last_batch_whatever_the_order_inside() -> None:
    torch.manual_seed(0)
    model, other, last = Sorted(), 10 + torch.randn(6, 2), torch.randn(9, 2)
    found = normalised_alike(model, Adapter(), [other, last], [model.norm], single=False)
    mean, deviation = last.mean(0), (last.var(0, correction=0) + 1e-5).sqrt()
    for ours, x in zip(found, (other, last), strict=True):
        torch.testing.assert_close(ours, (x - mean) / deviation, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.norm.running_mean, 0.1 * mean)
    assert model.norm.num_batches_tracked == 1


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["mixed", "true"])
def test_one_pass_is_two_in_half_precision(precision: torch.dtype) -> None:
    torch.manual_seed(0)
    one, two = (Frames(frames=1).to(precision) for _ in range(2))
    two.load_state_dict(one.state_dict())
    other, last = (scale * torch.randn(n, 1, 8, 16).to(precision) for scale, n in ((3, 4), (1, 9)))
    layers, theirs = ([*running_layers(model).values()] for model in (one, two))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.float32):
        found = normalised_alike(one, Adapter(), [other, last], layers, single=False)
        with noted_statistics(theirs) as noted:
            expected = [two(last)]
        with by_noted_statistics(noted):
            expected.insert(0, two(other))
    for logits in (found, expected):
        torch.cat(logits).float().sin().sum().backward()
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0.05, atol=0.05)
    ours, wanted = (model.norms[0].weight.grad for model in (one, two))
    assert (ours - wanted).float().norm() < 0.1 * wanted.float().norm()


class AlsoLooks(L.Callback):
    """Counts how often the model was asked as it would be exported."""

    def __init__(self) -> None:
        self.largest: list[float] = []

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.largest.append(float(pl_module.model.net[1].running_var.max()))


def test_the_model_is_validated_as_it_would_be_exported_and_trains_on_as_before() -> None:
    torch.manual_seed(0)
    source = Normalised()
    ends = []
    for validated in (True, False):
        look = AlsoLooks()
        method = ReferenceKL(source, reference_epochs=1)
        torch.manual_seed(1)
        limits = {} if validated else {"limit_val_batches": 0}
        quiet_trainer(max_epochs=3, callbacks=[look], **limits).fit(method, far_out())
        ends.append(method.model.state_dict())
        assert len(look.largest) == 3 * validated
        assert all(value < 100 for value in look.largest)
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key]), key


def test_a_checkpoint_from_the_middle_is_settled_before_it_is_exported(tmp_path: Path) -> None:
    class Save(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "middle.ckpt")

    torch.manual_seed(0)
    source = Normalised()
    quiet_trainer(max_epochs=1, limit_val_batches=0, callbacks=[Save()]).fit(ReferenceKL(source), far_out())
    method = ReferenceKL.load_from_checkpoint(tmp_path / "middle.ckpt", source=source)
    with pytest.raises(
        ValueError,
        match=r"running statistics of net\.1, net\.5 are .* trainer\.validate\(method, datamodule\)",
    ):
        method.export(tmp_path / "m.ckpt")
    data = far_out()
    quiet_trainer().validate(method, data, verbose=False)
    model = Normalised.load_from_checkpoint(method.export(tmp_path / "m.ckpt"))
    for key, value in averaged(model, data).items():
        torch.testing.assert_close(model.state_dict()[key].double(), value, rtol=1e-5, atol=1e-7)


class Ranked(L.LightningModule):
    """Estimates the statistics of a network on two processes, and keeps what they are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        estimate_statistics(self.model, TRAINED, self.trainer.datamodule, Runtime(self.trainer))

    def configure_optimizers(self) -> None:
        return None


def test_statistics_are_the_same_on_two_processes() -> None:
    torch.manual_seed(0)
    start, found = Normalised(), []
    for devices in (1, 2):
        module = Ranked(copy.deepcopy(start))
        data = far_out()
        strategy = "ddp_fork" if devices == 2 else "auto"
        trainer = quiet_trainer(
            max_epochs=1, limit_train_batches=1, limit_val_batches=0, devices=devices, strategy=strategy
        )
        trainer.fit(module, data)
        found.append(module.model.state_dict())
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-6, atol=1e-7)
    assert not torch.equal(found[0]["net.1.running_mean"], start.state_dict()["net.1.running_mean"])


def test_layers_converted_after_construction_are_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = Normalised()
    method = ReferenceKL(source, reference_epochs=1)
    # what Trainer(sync_batchnorm=True) does before it trains; on CPUs it then refuses to go on
    method.model = nn.SyncBatchNorm.convert_sync_batchnorm(method.model)
    assert isinstance(method.model.net[1], nn.SyncBatchNorm)
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, far_out())
    model = Normalised.load_from_checkpoint(method.export(tmp_path / "m.ckpt"), strict=True)
    assert model.net[1].running_var.max() < 100
    for key, value in averaged(model, far_out_set_up()).items():
        torch.testing.assert_close(model.state_dict()[key].double(), value, rtol=1e-5, atol=1e-7)


def far_out_set_up() -> UnlearningDataModule:
    data = far_out()
    data.setup("fit")
    return data


class Centred(nn.Module):
    """Keeps a mean of its own, as no layer of PyTorch does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


def test_buffers_that_cannot_be_estimated_anew_are_named() -> None:
    torch.manual_seed(0)
    source = nn.Sequential(Centred(), nn.Flatten(), nn.utils.spectral_norm(nn.Linear(64, 10)))
    with pytest.warns(UserWarning, match=r"the buffers 0\.mean changed while the forget set went through"):
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(
            ReferenceKL(source, reference_epochs=1), far_out()
        )


@pytest.mark.slow
def test_the_kl_that_stops_is_that_of_the_exported_model() -> None:
    source, data, retrained = sourced("resnet", "backdoor")
    method = ReferenceKL(source, 0.3, reference=retrained, kl_tolerance=0.5, optimizer=adam)
    trainer = quiet_trainer(max_epochs=30, limit_val_batches=0)
    trainer.fit(method, data)
    assert 1 <= trainer.current_epoch < 30
    inputs, _ = rows(data, "forget")
    with torch.no_grad():
        reference, own = retrained.eval()(inputs).log_softmax(1), method.model.eval()(inputs).log_softmax(1)
    assert float((reference.exp() * (reference - own)).sum(1).mean()) < 0.5
