"""Convolutions are laid out for the CPU where a network can do with it, and left alone where it cannot."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lightning_unlearn.data import TensorData
from lightning_unlearn.data.loading import TensorLoader
from lightning_unlearn.engine.predict import predict
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.models.surgery import answering_fast, clone, lay_out_for_cpu, unsafe_for_cpu


class Viewing(nn.Module):
    """Flattens by ``view``, as much code does."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3)
        self.normalisation = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4 * 6 * 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalisation(self.convolution(x))
        return self.linear(x.view(x.size(0), -1))


class Striding(Viewing):
    """Reads its activations by strides of its own, which raises nothing in another layout."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalisation(self.convolution(x))
        return self.linear(torch.as_strided(x, (len(x), 4 * 6 * 6), (4 * 6 * 6, 1)))


class Asserting(Viewing):
    """Refuses another layout in its own words."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalisation(self.convolution(x))
        assert x.is_contiguous()
        return self.linear(x.flatten(1))


class Drawing(nn.Module):
    """Draws in evaluation mode too, and its answers depend on the order in which memory is filled."""

    def __init__(self) -> None:
        super().__init__()
        self.network = flattening()

    def forward(self, x: Tensor) -> Tensor:
        return self.network[2:](nn.functional.dropout(self.network[0](x)))


def flattening() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))


def narrow() -> nn.Module:
    """Gradients of its second layer would be written beyond their memory."""
    convolutions = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1, stride=2)
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(4 * 4 * 4, 3))


@pytest.mark.parametrize(
    ("layer", "unsafe"),
    [
        (nn.Conv2d(15, 32, 1, stride=2), True),
        (nn.Conv2d(16, 8, 1, stride=2), False),
        (nn.Conv2d(8, 8, 3, stride=2), False),
        (nn.Conv2d(8, 8, 1), False),
        (nn.Conv2d(32, 64, 1, stride=2, groups=4), False),
        (nn.ConvTranspose2d(32, 8, 1, stride=2), True),
        (nn.ConvTranspose2d(8, 32, 1, stride=2), False),
    ],
)
def test_what_a_cpu_cannot_compute_channels_last_is_known(layer: nn.Module, unsafe: bool) -> None:
    """As the issue of oneDNN says; with torch 2.14, 8 channels of either kind were seen to end the process."""
    assert (unsafe_for_cpu(nn.Sequential(nn.ReLU(), layer)) == "1") == unsafe


def volumes() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6 * 6, 3))


@pytest.mark.parametrize(
    ("build", "shape", "changed"),
    [
        (Viewing, (2, 8, 8), False),
        (Striding, (2, 8, 8), False),
        (Asserting, (2, 8, 8), False),
        (flattening, (2, 8, 8), True),
        (narrow, (2, 8, 8), False),
        (volumes, (1, 8, 8, 8), False),
    ],
)
def test_a_network_answers_as_before(build: Any, shape: tuple[int, ...], changed: bool) -> None:
    module, inputs = build().train(), torch.randn(5, *shape)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.eval()
    expected = module(inputs)
    module.train()
    random = torch.get_rng_state()
    lay_out_for_cpu(module, lambda network: network(inputs[:2]))
    assert torch.equal(torch.get_rng_state(), random)
    assert module.training
    assert next(module.parameters()).is_contiguous() != changed
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    module.eval()
    torch.testing.assert_close(module(inputs), expected)
    module(inputs).sum().backward()


def grey() -> nn.Module:
    """One channel, whose weight is contiguous in both layouts unless its strides say otherwise."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))


def normed() -> nn.Module:
    """Its weight is computed anew each time."""
    network = flattening()
    nn.utils.parametrizations.weight_norm(network[0])
    return network


class Watching(nn.Module):
    """Notes how its inner network's first weight lies whenever it answers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, x: Tensor) -> Tensor:
        answer = self.network(x)
        self.seen.append(any(p.shape[3:] == (3,) and p.stride(1) == 1 for p in self.network.parameters()))
        return answer


@pytest.mark.parametrize(
    ("build", "shape", "fast"),
    [
        (Viewing, (2, 8, 8), False),
        (Striding, (2, 8, 8), False),
        (Asserting, (2, 8, 8), False),
        (flattening, (2, 8, 8), True),
        (grey, (1, 8, 8), True),
        (narrow, (2, 8, 8), True),  # wrong are gradients alone
        (volumes, (1, 8, 8, 8), False),
        (lambda: torch.compile(flattening(), backend="eager"), (2, 8, 8), False),
        (normed, (2, 8, 8), False),
    ],
)
def test_a_model_is_asked_in_the_fast_layout_and_given_back(
    build: Any, shape: tuple[int, ...], fast: bool
) -> None:
    module = Watching(build())
    data = TensorData(torch.randn(25, *shape), torch.arange(25) % 3)
    before = {name: (p, p.data_ptr(), p.stride()) for name, p in module.named_parameters()}
    with torch.no_grad():
        expected = module.eval()(data.inputs)
    module.seen.clear()
    found = predict(module.train(), TensorLoader(data, batch_size=8, indexed=True), Runtime())
    torch.testing.assert_close(found.logits, expected)
    assert set(module.seen) == {fast}
    after = {name: (p, p.data_ptr(), p.stride()) for name, p in module.named_parameters()}
    assert after == before


class Noting(Viewing):
    """Notes of its class how many samples it was asked about, and in which mode."""

    asked: ClassVar[list[tuple[int, bool]]] = []

    def forward(self, x: Tensor) -> Tensor:
        Noting.asked.append((len(x), self.training))
        return self.linear(self.normalisation(self.convolution(x)).flatten(1))


def test_a_model_and_its_copies_are_looked_at_once_and_by_few_samples() -> None:
    Noting.asked.clear()
    module, data = Noting(), TensorData(torch.randn(20, 2, 8, 8), torch.arange(20) % 3)
    for model in (module, module, clone(module)):
        predict(model.train(), TensorLoader(data, batch_size=8, indexed=True), Runtime())
    assert Noting.asked == [(2, False)] * 2 + [(8, False), (8, False), (4, False)] * 3


def test_looking_draws_nothing_and_a_network_that_draws_is_asked_as_it_is() -> None:
    module, data = Drawing(), TensorData(torch.randn(9, 2, 8, 8), torch.arange(9) % 3)
    torch.manual_seed(0)
    expected = module.eval()(data.inputs).detach()
    torch.manual_seed(0)
    found = predict(module, TensorLoader(data, batch_size=9, indexed=True), Runtime())
    assert torch.equal(found.logits, expected)


class Kernels(nn.Conv2d):
    """A dynamic convolution: several kernels to choose from."""

    def __init__(self) -> None:
        super().__init__(2, 4, 3)
        self.weight = nn.Parameter(torch.randn(5, *self.weight.shape))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight.mean(0), self.bias).flatten(1)


def test_weights_of_another_rank_stay() -> None:
    data = TensorData(torch.randn(9, 2, 8, 8), torch.arange(9) % 3)
    module = Kernels()
    found = predict(module, TensorLoader(data, batch_size=4, indexed=True), Runtime())
    torch.testing.assert_close(found.logits, module(data.inputs).detach())


def test_a_network_that_views_can_be_asked_under_autocast() -> None:
    data = TensorData(torch.randn(9, 2, 8, 8), torch.arange(9) % 3)
    with torch.autocast("cpu", torch.bfloat16):
        predict(Viewing(), TensorLoader(data, batch_size=4, indexed=True), Runtime())


class Failing(nn.Module):
    """Fails at its second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.calls = flattening(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("of its own")
        return self.network(x)


def test_what_fails_later_is_not_asked_again() -> None:
    data = TensorData(torch.randn(9, 2, 8, 8), torch.arange(9) % 3)
    module = Failing()
    with pytest.raises(RuntimeError, match="of its own"):
        predict(module, TensorLoader(data, batch_size=4, indexed=True), Runtime())
    assert module.calls == 2


def test_weights_come_back_after_a_failure() -> None:
    module = flattening()
    pointer = module[0].weight.data_ptr()
    inputs = torch.zeros(5, 2, 8, 8)

    def fail_later() -> None:
        with answering_fast(module) as answer:
            answer(lambda: module(inputs), lambda network: network(inputs))
            assert module[0].weight.data_ptr() != pointer
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_later()
    assert module[0].weight.data_ptr() == pointer
    assert module[0].weight.is_contiguous()
