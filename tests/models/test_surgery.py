"""Surgery on modules of every kind, with what must not be left of the original checked tensor by tensor."""

import copy
import math

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lightning_unlearn.models import (
    MLP,
    VGG19,
    Classifier,
    LeNet5,
    ResNet8,
    clone,
    count_parameters,
    evaluating,
    fresh_copy,
    frozen,
    last_parameter_tensors,
    reinitialize,
    surviving_tensors,
)
from lightning_unlearn.models.surgery import call_with


class LSTMText(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0][:, -1])


class TransformerText(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.register_buffer("positions", torch.linspace(0, 1, 8), persistent=False)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        return self.head(self.encoder(self.embedding(tokens) + self.positions).mean(1))


class RawParameterNet(nn.Module):
    """Owns parameters that nothing resets: a token, and a single number."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(4))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x + self.token) * self.scale


class SelfResettingNet(RawParameterNet):
    def reset_parameters(self):
        nn.init.normal_(self.token)
        self.scale.data.fill_(1.0)


class NestedModule(L.LightningModule):
    """A LightningModule in a LightningModule, a logged metric, and a second way to the trainer."""

    def __init__(self):
        super().__init__()
        self.inner = Classifier(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3)))
        self.seen = MeanMetric()
        self.owners = []

    def forward(self, x):
        return self.inner(x)

    def training_step(self, batch, batch_idx):
        self.owners = [self.trainer]
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.seen.update(loss.detach())
        self.log("seen", self.seen, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def new_trainer(folder):
    return L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def toy_loader():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4, generator=generator)
    return DataLoader(TensorDataset(x, x.argmax(1) % 3), batch_size=4)


@pytest.fixture
def fitted(tmp_path):
    torch.manual_seed(0)
    module = NestedModule()
    new_trainer(tmp_path).fit(module, toy_loader())
    assert module.inner._trainer is module._trainer is not None
    return module


def tokens():
    return torch.randint(1, 20, (4, 8), generator=torch.Generator().manual_seed(0))


ZOO = {
    "lenet": (lambda: LeNet5(image_size=8), lambda: torch.randn(4, 1, 8, 8)),
    "resnet": (lambda: ResNet8(width=4), lambda: torch.randn(4, 3, 8, 8)),
    "lstm": (LSTMText, tokens),
    "transformer": (TransformerText, tokens),
    "raw": (SelfResettingNet, lambda: torch.randn(4, 4)),
    "multihead": (lambda: nn.TransformerDecoderLayer(8, 2, 16), None),
    "weight_norm": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Linear(5, 3)),
        lambda: torch.randn(4, 4),
    ),
    "norms": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.GroupNorm(2, 4),
            nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        ),
        lambda: torch.randn(4, 3, 8, 8),
    ),
}


def trained(name):
    """Build a network of the zoo whose every parameter and running statistic has left its initial value."""
    torch.manual_seed(0)
    build, inputs = ZOO[name]
    network = build()
    if inputs is not None:
        network(inputs()).square().sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


def storages(module):
    return {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}


# ---------------------------------------------------------------------------------------------------- clone


@pytest.mark.parametrize("name", ZOO)
def test_clone_is_equal_and_shares_nothing(name):
    network = trained(name)
    next(network.parameters()).requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    gradients = [p.grad for p in network.parameters()]
    duplicate = clone(network)
    assert type(duplicate) is type(network)
    assert duplicate.state_dict().keys() == before.keys()
    assert all(torch.equal(duplicate.state_dict()[k], v) for k, v in before.items())
    assert not storages(network) & storages(duplicate)
    assert [p.requires_grad for p in duplicate.parameters()] == [
        p.requires_grad for p in network.parameters()
    ]
    assert all(p.grad is None for p in duplicate.parameters())
    assert all(
        now is then for now, then in zip((p.grad for p in network.parameters()), gradients, strict=True)
    )
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.zero_()
    assert all(torch.equal(network.state_dict()[k], v) for k, v in before.items())


def test_clone_of_a_fitted_module_lets_go_of_the_trainer(fitted, tmp_path):
    trainer = fitted._trainer
    duplicate = clone(fitted)
    assert duplicate._trainer is None
    assert duplicate.inner._trainer is None
    assert duplicate.owners == [None]
    assert fitted._trainer is fitted.inner._trainer is trainer
    assert fitted.owners == [trainer]
    new_trainer(tmp_path).fit(duplicate, toy_loader())
    assert surviving_tensors(fitted, duplicate) == []


def test_clone_made_in_the_middle_of_fit_can_log_its_own_metrics(tmp_path):
    class Copier(L.Callback):
        def on_train_end(self, trainer, pl_module):
            self.copy = clone(pl_module)

    copier = Copier()
    trainer = new_trainer(tmp_path)
    trainer.callbacks.append(copier)
    trainer.fit(NestedModule(), toy_loader())
    again = new_trainer(tmp_path)
    again.fit(copier.copy, toy_loader())
    assert again.callback_metrics["seen"] > 0


def test_clone_of_a_module_under_fabric():
    module = Classifier(nn.Linear(4, 3))
    fabric = L.Fabric(accelerator="cpu", devices=1)
    module.fabric = fabric
    assert module._fabric is not None
    duplicate = clone(module)
    assert duplicate._fabric is None
    assert module._fabric is not None


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own advice against the old weight_norm
def test_clone_with_tensors_left_over_from_a_forward_pass():
    layer = torch.nn.utils.weight_norm(nn.Linear(4, 3))
    x = torch.randn(2, 4)
    expected = layer(x)
    assert not layer.weight.is_leaf
    duplicate = clone(layer)
    torch.testing.assert_close(duplicate(x), expected)
    assert duplicate.weight_v.data_ptr() != layer.weight_v.data_ptr()


def test_clone_made_in_inference_mode_can_be_trained():
    layer = nn.BatchNorm1d(3)
    with torch.inference_mode():
        layer.register_buffer("made_here", torch.ones(3))
        duplicate = clone(layer)
    duplicate(torch.randn(4, 3)).sum().backward()
    assert duplicate.weight.grad is not None
    assert not any(t.is_inference() for t in (*duplicate.parameters(), *duplicate.buffers()))


def test_clone_keeps_ties_and_hooks():
    network = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    network[1].weight = network[0].weight
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    duplicate = clone(network)
    assert duplicate[1].weight is duplicate[0].weight
    duplicate(torch.tensor([1]))
    assert calls == [1]


def test_frozen_is_a_copy_in_eval_mode():
    network = trained("resnet").train()
    duplicate = frozen(network)
    assert not any(part.training for part in duplicate.modules())
    assert not any(p.requires_grad for p in duplicate.parameters())
    assert all(part.training for part in network.modules())
    assert all(p.requires_grad for p in network.parameters())


# --------------------------------------------------------------------------------------------- reinitialize


@pytest.mark.parametrize("name", ZOO)
def test_reinitialize_leaves_nothing_and_keeps_the_parameters_objects(name):
    network = trained(name)
    network.requires_grad_(False)
    before = clone(network)
    objects = [id(p) for p in network.parameters()]
    reinitialize(network)
    assert surviving_tensors(before, network) == []
    assert [id(p) for p in network.parameters()] == objects
    assert not any(p.requires_grad for p in network.parameters())
    assert all(bool(t.isfinite().all()) for t in network.state_dict().values())
    if ZOO[name][1] is not None:
        assert bool(network(ZOO[name][1]()).isfinite().all())


@pytest.mark.parametrize("name", ZOO)
def test_reinitialize_draws_like_the_constructor(name):
    """Every tensor has the constructor's distribution: same mean and spread, over many draws."""
    network = trained(name)
    torch.manual_seed(1)
    draws = 40
    built = [ZOO[name][0]().state_dict() for _ in range(draws)]
    again = []
    for _ in range(draws):
        reinitialize(network)
        again.append(copy.deepcopy(network.state_dict()))
    for key, value in built[0].items():
        if name == "raw" and key == "scale":
            continue  # its reset_parameters sets another number than the constructor, on purpose
        a = torch.stack([state[key].double().flatten() for state in built])
        b = torch.stack([state[key].double().flatten() for state in again])
        if a.numel() == draws * value.numel() and a.std() == 0:
            assert torch.equal(a, b), key
            continue
        # Six standard errors; uniform and normal values both have a fourth moment below 3 sigma^4.
        n = a.numel()
        assert abs(a.mean() - b.mean()) < 6 * a.std() * math.sqrt(2 / n), key
        assert abs(a.std() / b.std() - 1) < 6 / math.sqrt(n), key


def test_reinitialize_follows_the_global_seed():
    a, b = trained("lstm"), trained("lstm")
    for network in (a, b):
        torch.manual_seed(3)
        reinitialize(network)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    reinitialize(b)
    assert len(surviving_tensors(a, b)) == 0


def test_reinitialize_resets_running_statistics_and_counters():
    network = trained("resnet")
    assert int(network.bn1.num_batches_tracked) == 1
    reinitialize(network)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert bool((part.running_mean == 0).all())
            assert bool((part.running_var == 1).all())
            assert int(part.num_batches_tracked) == 0


def test_the_outermost_scheme_has_the_last_word():
    torch.manual_seed(0)
    network = nn.Transformer(16, 2, 1, 1, 64, batch_first=True)
    reinitialize(network)
    # nn.Transformer: Xavier for every matrix; the layers alone would draw from +-1/sqrt(fan_in).
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert 0.95 * bound < parameter.abs().max() <= bound, name
    attention = nn.MultiheadAttention(16, 2)
    nn.init.ones_(attention.out_proj.bias)
    reinitialize(attention)
    assert bool((attention.out_proj.bias == 0).all())


def test_reinitialize_keeps_the_padding_row_empty():
    network = trained("lstm")
    reinitialize(network)
    assert bool((network.embedding.weight[0] == 0).all())
    assert bool((network.embedding.weight[1:] != 0).all())


def test_reinitialize_a_fitted_module_resets_its_metrics(fitted):
    before = clone(fitted)
    fitted.seen.update(5.0)
    reinitialize(fitted)
    assert surviving_tensors(before, fitted) == []
    assert fitted.seen.update_count == 0
    assert fitted._trainer is not None


def test_reinitialize_names_what_nothing_resets_and_draws_it_too():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), RawParameterNet())
    network.register_module("metric", MeanMetric())
    network.metric.update(3.0)
    before = clone(network)
    assert reinitialize(network) == ["2.token", "2.scale"]
    assert surviving_tensors(before, network) == []
    assert network.metric.update_count == 0


def test_what_nothing_resets_is_drawn_with_the_spread_it_had():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(0.0213 * torch.randn(50, 40))
            self.gain = nn.Parameter(1.04 + 0.012 * torch.randn(500))

    torch.manual_seed(0)
    network, other = Bare(), Bare()
    reinitialize(network)
    assert float(network.position.std()) == pytest.approx(0.02, rel=0.1)
    assert abs(float(network.position.mean())) < 0.002
    assert float(network.gain.mean()) == pytest.approx(1, abs=0.002)
    assert float(network.gain.std()) == pytest.approx(0.01, rel=0.1)
    assert surviving_tensors(network, other) == []


def test_reinitialize_restores_when_a_reset_fails():
    class BrokenReset(nn.Linear):
        def reset_parameters(self):
            super().reset_parameters()
            if getattr(self, "armed", False):
                raise RuntimeError("broken")

    network = nn.Sequential(nn.Linear(3, 3), BrokenReset(3, 3))
    network[1].armed = True
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(RuntimeError, match="broken"):
        reinitialize(network)
    assert all(torch.equal(network.state_dict()[k], v) for k, v in before.items())


def test_reinitialize_catches_a_reset_that_forgets_a_tensor():
    class Forgetful(nn.Linear):
        def reset_parameters(self):
            nn.init.normal_(self.weight)

    layer = Forgetful(3, 2)
    before = layer.bias.detach().clone()
    assert reinitialize(layer) == ["bias"]
    assert bool((layer.bias != before).all())


def test_an_outer_reset_may_cover_what_its_children_do_not():
    class Covering(nn.Module):
        def __init__(self):
            super().__init__()
            self.child = RawParameterNet()

        def reset_parameters(self):
            nn.init.normal_(self.child.token)
            nn.init.ones_(self.child.scale)

    network = Covering()
    before = clone(network)
    reinitialize(network)
    assert surviving_tensors(before, network) == []
    assert network.child.scale.item() == 1


@pytest.mark.parametrize("persistent", [True, False])
def test_buffers_that_nothing_resets_are_constants(persistent):
    network = nn.Sequential(nn.Linear(2, 2))
    network.register_buffer("positions", torch.tensor([1.0, 2.0]), persistent=persistent)
    network.register_module("loss", nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.5])))
    assert reinitialize(network) == (["positions"] if persistent else [])
    assert network.positions.tolist() == [1.0, 2.0]
    assert network.loss.weight.tolist() == [0.5, 1.5]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_computed_by_hooks_or_without_inverse_are_drawn_too():
    for layer in (
        torch.nn.utils.weight_norm(nn.Linear(3, 2)),
        parametrizations.spectral_norm(nn.Linear(3, 2)),
    ):
        before = copy.deepcopy(layer.state_dict())
        assert reinitialize(layer)
        assert not any(torch.equal(layer.state_dict()[k], v) for k, v in before.items())
        assert bool(layer(torch.ones(1, 3)).isfinite().all())


def test_weight_norm_is_reset_through_its_parametrization():
    torch.manual_seed(0)
    layer = parametrizations.weight_norm(nn.Linear(64, 32))
    nn.init.constant_(layer.parametrizations.weight.original0, 100.0)
    reinitialize(layer)
    bound = 1 / math.sqrt(64)  # nn.Linear's own
    assert 0.95 * bound < layer.weight.abs().max() <= bound * (1 + 1e-5)
    assert 0.8 * bound < layer.bias.abs().max() <= bound
    layer(torch.randn(2, 64)).sum().backward()
    assert layer.parametrizations.weight.original1.grad is not None


def test_orthogonal_weights_are_orthogonal_again():
    torch.manual_seed(0)
    layer = parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="householder")
    before = layer.weight.detach().clone()
    reinitialize(layer)
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(4))
    assert not torch.allclose(layer.weight, before)


def test_weight_norm_inside_a_recurrent_network():
    torch.manual_seed(0)
    network = parametrizations.weight_norm(nn.GRU(4, 5), "weight_hh_l0")
    before = clone(network)
    reinitialize(network)
    assert surviving_tensors(before, network) == []
    x = torch.randn(3, 2, 4)
    assert not torch.allclose(network(x)[0], before(x)[0])
    network(x)[0].sum().backward()
    assert network.parametrizations.weight_hh_l0.original1.grad is not None


# ----------------------------------------------------------------------------------- fresh_copy and survivors


def test_fresh_copy_clones_and_resets():
    network = trained("resnet")
    before = copy.deepcopy(network.state_dict())
    fresh = fresh_copy(network)
    assert surviving_tensors(network, fresh) == []
    assert all(torch.equal(network.state_dict()[k], v) for k, v in before.items())


def test_fresh_copy_takes_what_a_callable_builds():
    network = RawParameterNet()
    fresh = fresh_copy(network, RawParameterNet)
    assert surviving_tensors(network, fresh) == []
    with pytest.raises(TypeError, match=r"fresh must return a torch\.nn\.Module, got int"):
        fresh_copy(network, lambda: 3)
    with pytest.raises(ValueError, match=r"MLP differs from RawParameterNet in token"):
        fresh_copy(network, MLP)
    with pytest.raises(ValueError, match=r"0\.weight \(shape \(3, 5\), expected \(3, 4\)\)"):
        fresh_copy(nn.Sequential(nn.Linear(4, 3)), lambda: nn.Sequential(nn.Linear(5, 3)))
    with pytest.raises(ValueError, match=r"shares token, scale, head\.weight, head\.bias with"):
        fresh_copy(network, lambda: network)


def test_survivors_are_weights_and_statistics_that_could_tell_something():
    network = trained("resnet")
    other = clone(network)
    names = surviving_tensors(network, other)
    assert {"conv1.weight", "bn1.weight", "bn1.running_mean", "bn1.running_var", "fc.bias"} <= set(names)
    assert "bn1.num_batches_tracked" not in names
    with torch.no_grad():
        other.fc.bias[0] += 1e-6
        network.bn1.weight.fill_(1)
        other.bn1.weight.fill_(1)
    assert set(names) - set(surviving_tensors(network, other)) == {"fc.bias", "bn1.weight"}
    assert surviving_tensors(nn.Linear(3, 2), nn.Linear(3, 2)) == []
    assert surviving_tensors(nn.Linear(3, 2), nn.Linear(4, 2)) == []


# --------------------------------------------------------------------------------- names, counts, modes


def test_last_parameter_tensors_and_their_size():
    with torch.device("meta"):
        network = VGG19()
    names = last_parameter_tensors(network, 5)
    assert names[-2:] == ["classifier.weight", "classifier.bias"]
    assert count_parameters(network, names) == 6666
    assert count_parameters(network) == 20_040_522
    tensors = len(list(network.parameters()))
    assert len(last_parameter_tensors(network, tensors)) == tensors
    for k in (0, -1, tensors + 1):
        with pytest.raises(ValueError, match=f"k must be from 1 to {tensors}"):
            last_parameter_tensors(network, k)
    with pytest.raises(ValueError, match="VGG19 has no parameter head"):
        count_parameters(network, ["classifier.bias", "head"])


def test_evaluating_restores_every_mode():
    network, other = ResNet8(width=2).train(), nn.Dropout().eval()
    network.bn1.eval()
    network.layer2.train(False)
    modes = [part.training for part in network.modules()]
    with evaluating(network, other):
        assert not any(part.training for part in network.modules())
    assert [part.training for part in network.modules()] == modes
    with pytest.raises(RuntimeError, match="Expected 3D"), evaluating(network, other):
        network(torch.zeros(8))
    assert [part.training for part in network.modules()] == modes
    assert not other.training


# ------------------------------------------------------------------ other tensors in place of a module's own


class Shared(nn.Module):
    """A part under two names, and one weight of two layers."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 3)
        self.net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), self.head)
        self.net[0].weight = self.head.weight

    def forward(self, x):
        return self.net(x)


def test_a_module_called_with_other_tensors_keeps_its_own():
    module, other, x = Shared(), Shared(), torch.randn(4, 3)
    before = list(module.named_parameters(remove_duplicate=False))
    gradients = torch.func.grad(lambda own: call_with(module, own, x).square().sum())(
        dict(other.named_parameters())
    )
    other(x).square().sum().backward()
    assert torch.equal(call_with(module, other.state_dict(), x), other(x)), "tied tensors follow"
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
    for (name, own), (again, now) in zip(
        before, module.named_parameters(remove_duplicate=False), strict=True
    ):
        assert name == again
        assert own is now
