"""EU-k and CF-k: which tensors train, what stays bit-identical, and how the new ones are drawn."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import FEATURES, Net, assert_same_state, quiet_trainer, state, toy_data, toy_source
from torch import nn

from lightning_unlearn.data import Digits, UnlearningDataModule
from lightning_unlearn.methods.cf_k import CFk
from lightning_unlearn.methods.eu_k import EUk
from lightning_unlearn.models import VGG16, VGG19, DenseNet121, GoogLeNet, ResNet8, ResNet18, count_parameters
from lightning_unlearn.models.freezing import hold_statistics

# what the harnesses run it with, by purpose; see settings_of() in helpers/support.py
SETTINGS = {
    "EUk": {"quick": {"k": 4}, "forgets": {"epochs": 30}},
    # it trains on samples of other classes, and does nothing to what it is to forget
    "CFk": {"quick": {"k": 4}, "forgets": {"promised": False}},
}

both = pytest.mark.parametrize("kind", [EUk, CFk])


def used(network: nn.Module, seed: int = 0) -> nn.Module:
    """Move every parameter and statistic away from where training begins."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network


def trainable(method: CFk) -> list[str]:
    method.setup("fit")
    return [name for name, parameter in method.model.named_parameters() if parameter.requires_grad]


# Zuo et al., table I. Of DenseNet and GoogLeNet the paper names no variant; those of 121 layers and of small images
# give its numbers, which are printed with three digits there. Its VGG is the one of 19 layers by Random-k's count
# (1.002M), and ends in the same ten tensors as the one of 16.
TABLE_1 = [
    (ResNet18, 5, 2_365_450, 2.37e6),
    (ResNet18, 10, 4_726_794, 4.73e6),
    (VGG16, 5, 6_666, 6_666),
    (VGG16, 10, 4_726_794, 4.73e6),
    (VGG19, 5, 6_666, 6_666),
    (VGG19, 10, 4_726_794, 4.73e6),
    (DenseNet121, 5, 49_162, 49_162),
    (DenseNet121, 10, 178_378, 0.178e6),
    (GoogLeNet, 5, 10_634, 10_634),
    (GoogLeNet, 10, 264_970, 0.265e6),
]


@pytest.mark.parametrize(("build", "k", "count", "printed"), TABLE_1)
def test_as_many_weights_are_trained_as_table_1_counts(
    build: Any, k: int, count: int, printed: float
) -> None:
    with torch.device("meta"):
        method = CFk(build(), k)
    assert count_parameters(method.model, trainable(method)) == count == method.measured["trained_parameters"]
    assert count == pytest.approx(printed, rel=3e-3) if printed > 1e5 else count == printed


@both
@pytest.mark.parametrize("k", range(1, 7))
def test_the_last_k_tensors_train_and_nothing_else_changes(kind: Any, k: int) -> None:
    source = toy_source()
    quiet_trainer(max_epochs=1).fit(
        source, toy_data()
    )  # so that running statistics are not what they begin with
    method = kind(source, k, optimizer=lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1))
    quiet_trainer().fit(method, toy_data())
    old, new = source.state_dict(), method.model.state_dict()
    names = [name for name, _ in source.named_parameters()]
    last = set(names[-k:])
    assert set(trainable(method)) == last
    normalisation_trains = bool(last & {"net.1.weight", "net.1.bias"})
    for name in old:
        statistic = name.startswith("net.1.") and name not in names
        moves = normalisation_trains if statistic else name in last
        assert torch.equal(old[name], new[name]) != moves, name


@both
def test_frozen_layers_normalise_with_the_sources_statistics(kind: Any) -> None:
    source = used(Net()).eval()
    method = kind(source, 2)
    method.setup("fit")
    assert method.model.training, "the method trains, though its source was in evaluation mode"
    x = torch.randn(8, FEATURES) * 5
    hidden = [nn.Sequential(*list(network)[:3])(x) for network in (source, method.model)]
    assert torch.equal(*hidden)
    assert not method.model[1].training
    assert method.model[3].training, "dropout"
    method.eval()
    method.train()
    assert not method.model[1].training, (
        "another round of validation must not bring the statistics back to life"
    )


def test_eu_k_draws_each_tensor_by_its_layers_own_scheme() -> None:
    source = used(ResNet8(width=16))
    torch.manual_seed(1)
    method = EUk(source, k=5)
    names = trainable(method)
    shortcut = "layer3.0.downsample"
    assert names == [
        f"{shortcut}.0.weight",
        f"{shortcut}.1.weight",
        f"{shortcut}.1.bias",
        "fc.weight",
        "fc.bias",
    ]
    model = method.model
    for name, parameter in source.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter) == (name not in names)
        if name in names:
            assert not torch.isin(model.get_parameter(name), parameter).any(), f"values of {name} survive"
    assert (model.get_parameter("layer3.0.downsample.1.weight") == 1).all()
    assert (model.get_parameter("layer3.0.downsample.1.bias") == 0).all()
    convolution = model.get_parameter("layer3.0.downsample.0.weight")  # the network's own: He by fan-out, 64
    assert float(convolution.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.1)
    bound = 64**-0.5  # PyTorch's for a linear layer of 64 inputs
    assert bound * 0.9 < float(model.get_parameter("fc.weight").detach().abs().max()) <= bound


def test_eu_k_does_not_depend_on_the_old_values() -> None:
    ends = []
    for seed in (0, 1):
        source = Net()
        source.load_state_dict(used(Net()).state_dict())
        with torch.no_grad():
            source[4].weight.fill_(float(seed))
        torch.manual_seed(3)
        method = EUk(source, k=2)
        quiet_trainer().fit(method, toy_data())
        ends.append(state(method.model))
    assert_same_state(*ends)


def test_cf_k_starts_from_the_source() -> None:
    source = used(Net())
    assert_same_state(state(CFk(source, 5).model), state(source))


def test_the_paper_trains_with_adam_at_1e_4() -> None:
    for kind in (EUk, CFk):
        method = kind(Net())
        method.setup("fit")
        optimizer = method.configure_optimizers()
        assert isinstance(optimizer, torch.optim.Adam)
        assert optimizer.defaults["lr"] == 1e-4
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 5


def test_it_equals_plain_training_of_the_last_layer_on_the_retain_set() -> None:
    source = nn.Sequential(nn.Linear(FEATURES, 5), nn.ReLU(), nn.Linear(5, 3))
    data = toy_data()
    method = CFk(source, 2, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    quiet_trainer(limit_val_batches=0).fit(method, data)
    model = nn.Sequential(nn.Linear(FEATURES, 5), nn.ReLU(), nn.Linear(5, 3))
    model.load_state_dict(source.state_dict())
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    loader = data.loader("retain", train=True)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert_same_state(state(method.model), state(model))


class Token(nn.Module):
    """Owns a parameter that no layer resets."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(FEATURES))
        self.net = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x + self.token)


def test_a_builder_draws_the_last_tensors() -> None:
    source = Token()
    method = EUk(source, 2, fresh=Token)
    assert torch.equal(method.model.token, source.token)
    assert not torch.equal(method.model.net[4].weight, source.net[4].weight)


@both
@pytest.mark.parametrize("k", [0, 7])
def test_k_must_be_a_number_of_tensors(kind: Any, k: int) -> None:
    with pytest.raises(
        ValueError, match="k must be from 1 to 6, the trainable parameter tensors of Net, got"
    ):
        kind(Net(), k)


# ---------------------------------------------------------------------- every way to run


@both
@pytest.mark.parametrize(
    "arguments",
    [{"strategy": "ddp_fork", "devices": 2}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}],
    ids=["ddp", "bf16", "accumulated"],
)
def test_frozen_tensors_stay_in_every_way_to_run(kind: Any, arguments: dict[str, Any]) -> None:
    source = used(ResNet8(10, in_channels=1, width=4))
    method = kind(source, 2, optimizer=lambda p: torch.optim.Adam(p, lr=0.01))
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=4, limit_val_batches=1, **arguments)
    trainer.fit(method, UnlearningDataModule(Digits(batch_size=32), 0.1))
    for name, value in source.state_dict().items():
        assert torch.equal(method.model.state_dict()[name], value) == (not name.startswith("fc.")), name


def test_export_is_the_whole_model(tmp_path: Path) -> None:
    source = toy_source()
    method = EUk(source, 2)
    quiet_trainer(max_epochs=1).fit(method, toy_data())
    content = torch.load(method.export(tmp_path / "unlearned.ckpt"), weights_only=True)
    assert_same_state(content["state_dict"], state(method.model))


# ---------------------------------------------------------------------- statistics


def test_statistics_of_a_parametrised_layer_belong_to_it() -> None:
    """Spectral normalisation keeps its buffers in a helper that has no parameter of its own."""
    layers = [nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)) for _ in range(2)]
    network = nn.Sequential(*layers)
    network[0].requires_grad_(False)
    hold_statistics(network)
    helpers = [layer.parametrizations.weight[0] for layer in layers]
    assert [helper.training for helper in helpers] == [False, True]
    before = [helper._u.clone() for helper in helpers]
    network(torch.randn(2, 3))
    assert [torch.equal(helper._u, old) for helper, old in zip(helpers, before, strict=True)] == [True, False]
