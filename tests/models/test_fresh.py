"""Fresh models: drawn as their class draws them, with constants kept, and as good to train as the source was."""

import math
import warnings
from itertools import pairwise
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import FEATURES, PlainModule, quiet_trainer, toy_data
from torch import Tensor, nn
from torchvision.models import ConvNeXt, ResNet, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock

from lightning_unlearn.data import Digits, UnlearningDataModule
from lightning_unlearn.methods import EUk, ReferenceKL, Retrain
from lightning_unlearn.models import (
    Classifier,
    clone,
    fresh_copy,
    recorded_hyperparameters,
    surviving_tensors,
)
from lightning_unlearn.models.fresh import built_by


class Deep(nn.Sequential):
    """Ten layers that signals pass only as the constructor draws them."""

    def __init__(self) -> None:
        widths = [64, *[32] * 9]
        layers = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
        super().__init__(nn.Flatten(), *layers, nn.Linear(32, 10))
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)


class DeepModule(L.LightningModule):
    def __init__(self, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = Deep()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Words(L.LightningModule):
    """Draws embeddings as BERT does, the spread being an argument."""

    def __init__(self, spread: float, words: int = 50) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.embedding = nn.Embedding(words, 16)
        self.head = nn.Linear(16, 3)
        self.apply(self.draw)

    def draw(self, part: nn.Module) -> None:
        if isinstance(part, nn.Linear | nn.Embedding):
            part.weight.data.normal_(0.0, self.hparams["spread"])


class Held(L.LightningModule):
    """The network is an argument, and a hyper-parameter too, as some templates have it."""

    def __init__(self, net: nn.Module, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def trained(module: nn.Module) -> nn.Module:
    """Move every number as training might."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += (
                0.1 * torch.randn_like(parameter) * (parameter.std() if parameter.numel() > 1 else 1.0)
            )
            parameter += 1e-4 * torch.randn_like(parameter)
    return module


def spread(module: nn.Module, name: str) -> float:
    return float(module.get_parameter(name).detach().std())


def quietly(source: nn.Module, **arguments: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="a fresh|.* cannot be built")
        return fresh_copy(source, **arguments)


@pytest.mark.slow
def test_a_deep_network_trains_as_well_again() -> None:
    """With PyTorch's own draw it stays near chance in the same time."""
    data = UnlearningDataModule(Digits(batch_size=32), 0.1)
    accuracies = []
    for source in (trained(DeepModule()), trained(Classifier(Deep())), Classifier(nn.Sequential(*Deep()))):
        torch.manual_seed(0)
        method = Retrain(source, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3))
        trainer = quiet_trainer(max_epochs=4, limit_val_batches=0)
        trainer.fit(method, data)
        accuracies.append(trainer.test(method, data, verbose=False)[0]["accuracy/test"])
    assert min(accuracies[:2]) > 0.75
    assert accuracies[2] < 0.6, "a class that is not known: layer by layer"


def test_the_classs_own_draw_is_kept() -> None:
    words = quietly(trained(Words(0.02)))
    assert spread(words, "embedding.weight") == pytest.approx(0.02, rel=0.1)
    assert spread(words, "head.weight") == pytest.approx(0.02, rel=0.4)

    class Images(L.LightningModule):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = ResNet(BasicBlock, [1, 1, 1, 1], classes, zero_init_residual=True)

    images = quietly(trained(Images(3)))
    assert spread(images, "net.layer1.0.conv1.weight") == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)
    assert not images.net.layer1[0].bn2.weight.any()


def test_a_module_that_the_command_line_built_is_built_again() -> None:
    config = {"net": {"class_path": f"{__name__}.Deep"}}
    with recorded_hyperparameters({"_class_path": "lightning_unlearn.models.Classifier", **config}):
        source = Classifier(Deep())
    assert spread(quietly(trained(source)), "net.9.weight") == pytest.approx(math.sqrt(2 / 32), rel=0.1)


def test_a_factory_that_is_known_builds_it() -> None:
    source = trained(Held(Deep()))
    built_by(source, lambda: Held(Deep()))
    for model in (source, clone(source)):
        fresh = quietly(model)
        assert surviving_tensors(source, fresh) == []
        assert spread(fresh, "net.9.weight") == pytest.approx(math.sqrt(2 / 32), rel=0.1)
    torch.manual_seed(0)
    assert spread(EUk(source, 2).model, "net.19.weight") == pytest.approx(math.sqrt(2 / 32), rel=0.2)


@pytest.mark.parametrize("kind", [Retrain, EUk, ReferenceKL])
def test_every_method_that_draws_takes_a_factory(kind: Any) -> None:
    calls: list[int] = []

    def build() -> nn.Module:
        calls.append(1)
        return PlainModule()

    method = kind(PlainModule(), fresh=build)
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, toy_data())
    assert calls == [1]


def test_a_network_that_is_a_hyper_parameter_is_no_untrained_one() -> None:
    source = trained(Held(nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 3))))
    assert surviving_tensors(source, fresh_copy(source)) == []
    assert surviving_tensors(source, fresh_copy(trained(Held(Deep())))) == []


def test_what_layers_may_draw_otherwise_is_named() -> None:
    class Taught(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, width)
            self.embedding.weight.data.normal_(0, 0.02)
            self.token = nn.Parameter(torch.zeros(width))
            self.head = nn.Linear(width, 3)
            self.register_buffer("mean", torch.tensor([0.5, 0.4]))

    with pytest.warns(
        UserWarning, match=r"embedding\.weight \(spread.*token \(reset by.*mean \(reset by no.*fresh="
    ):
        fresh = fresh_copy(trained(Taught(8)))
    assert fresh.mean.tolist() == pytest.approx([0.5, 0.4])


# ---------------------------------------------------------------------- networks with tensors of their own

IMAGES = {
    "vit": lambda: VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10
    ),
    "convnext": lambda: ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=10),
    "swin": lambda: SwinTransformer([2, 2], 8, [1, 1], [2, 2], [2, 2], num_classes=10),
}


class Normalised(L.LightningModule):
    """Keeps pixel statistics and class weights in its state dict."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.criterion = nn.CrossEntropyLoss(weight=torch.linspace(0.5, 1.5, 10))
        self.register_buffer("mean", torch.tensor([0.3]))
        self.register_buffer("std", torch.tensor([0.4]))

    def forward(self, x: Tensor) -> Tensor:
        big = nn.functional.interpolate(x, 16 if isinstance(self.network, ConvNeXt) else 8)
        return self.network(((big - self.mean) / self.std).expand(-1, 3, -1, -1))


@pytest.mark.parametrize("name", IMAGES)
def test_networks_with_parameters_of_their_own_are_retrained(name: str) -> None:
    torch.manual_seed(0)
    source = trained(Normalised(IMAGES[name]()))
    data = UnlearningDataModule(Digits(batch_size=64), 0.1)
    method = Retrain(source, optimizer=lambda p: torch.optim.Adam(p, lr=5e-3))
    assert surviving_tensors(source.network, method.model.network) == []
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=25, limit_val_batches=0)
    trainer.fit(method, data)
    assert trainer.test(method, data, verbose=False)[0]["accuracy/test"] > 0.3
    for constant in ("mean", "std", "criterion.weight"):
        assert torch.equal(method.model.state_dict()[constant], source.state_dict()[constant])
