"""Statistics of single samples' gradients, against each sample's own backward pass."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.toys import Net, toy_data, toy_source
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.engine.gradients import gradient_statistics
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.functional import add_statistics, output_norm, sample_gradients
from lightning_unlearn.functional.gradients import _numbers_held

ALL: tuple[Any, ...] = ("mean", "magnitude", "square", "norm")


def of_one(kind: str, gradient: Tensor) -> Tensor:
    return {
        "mean": gradient,
        "magnitude": gradient.abs(),
        "square": gradient**2,
        "norm": (gradient**2).sum().sqrt(),
    }[kind]


def convolution_and_linear(p: Any, x: Tensor, y: Tensor) -> Tensor:
    """A small network written out, for one image (1, 4, 4) and its class."""
    h = nn.functional.conv2d(x, p["conv"], p["shift"]).flatten().tanh()
    return nn.functional.cross_entropy(p["fc"] @ h, y)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 7])
def test_statistics_are_of_each_samples_own_gradient(chunk_size: int | None) -> None:
    g = torch.Generator().manual_seed(0)
    shapes = {"conv": (2, 1, 2, 2), "shift": (2,), "fc": (3, 18)}
    parameters = {n: torch.randn(s, generator=g, dtype=torch.float64) for n, s in shapes.items()}
    x, y = torch.randn(7, 1, 4, 4, generator=g, dtype=torch.float64), torch.arange(7) % 3
    weights = torch.rand(7, generator=g, dtype=torch.float64)
    totals: Any = {
        kind: {n: torch.zeros(() if kind == "norm" else s, dtype=torch.float64) for n, s in shapes.items()}
        for kind in ALL
    }
    for chosen, gradients in sample_gradients(
        convolution_and_linear, parameters, (x, y), chunk_size=chunk_size
    ):
        assert not any(value.requires_grad for value in gradients.values())
        add_statistics(totals, gradients, weights[chosen])
    expected: Any = {kind: {n: torch.zeros_like(t) for n, t in totals[kind].items()} for kind in ALL}
    for i in range(7):
        leaves = {n: p.clone().requires_grad_() for n, p in parameters.items()}
        convolution_and_linear(leaves, x[i], y[i]).backward()
        for kind in ALL:
            for n, p in leaves.items():
                expected[kind][n] += weights[i] * of_one(kind, p.grad)
    assert_close(totals, expected)


def test_opposite_gradients_do_not_cancel_but_in_their_mean() -> None:
    inputs = torch.tensor([[1.0, 0.1], [-1.0, 0.1]])
    totals: Any = {kind: {"w": torch.zeros(2)} for kind in ("mean", "magnitude", "square")}
    for _, gradients in sample_gradients(
        lambda p, x: p["w"] @ x["input"], {"w": torch.ones(2)}, ({"input": inputs},)
    ):
        add_statistics(totals, gradients, torch.ones(2))
    assert_close(totals["mean"]["w"], torch.tensor([0.0, 0.2]))
    assert_close(totals["magnitude"]["w"], torch.tensor([2.0, 0.2]))
    assert_close(totals["square"]["w"], torch.tensor([2.0, 0.02]))


@pytest.mark.parametrize(("memory", "numbers"), [(80 * 2**30, 80 * 2**23), (2**30, 2**26)])
def test_a_gpu_holds_gradients_by_the_size_of_its_memory(
    monkeypatch: pytest.MonkeyPatch, memory: int, numbers: int
) -> None:
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=memory)
    )
    assert _numbers_held(torch.device("cuda:0")) == numbers
    assert _numbers_held(torch.device("cpu")) == 2**22


def test_fewer_gradients_are_taken_at_once_where_memory_runs_out() -> None:
    tried = []

    def objective(parameters: Any, inputs: Tensor) -> Tensor:
        return parameters["w"] @ inputs

    def short(function: Any, **how: Any) -> Any:
        def gradients(parameters: Any, inputs: Tensor) -> Any:
            tried.append(len(inputs))
            if len(inputs) > 2:
                raise torch.OutOfMemoryError("full")
            return vmap(function, **how)(parameters, inputs)

        return gradients

    vmap, inputs = torch.func.vmap, torch.randn(7, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.func, "vmap", short)
        found = list(sample_gradients(objective, {"w": torch.ones(2)}, (inputs,), chunk_size=5))
    assert tried == [5, 2, 2, 2, 1]
    assert torch.equal(torch.cat([gradients["w"] for _, gradients in found]), inputs)
    assert torch.equal(torch.cat([inputs[chosen] for chosen, _ in found]), inputs)


def test_a_chunk_holds_at_least_one_sample() -> None:
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        list(
            sample_gradients(lambda p, x: p["w"] @ x, {"w": torch.ones(2)}, (torch.ones(3, 2),), chunk_size=0)
        )


class Branching(nn.Module):
    """Looks at values, which cannot be batched over samples, and has a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.net = toy_source().net
        self.net[0].bias.requires_grad_(False)  # type: ignore[index, union-attr]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x if float(x.sum()) > 1e9 else x * 1)
        return out


def set_up(**arguments: Any) -> UnlearningDataModule:
    data = toy_data(**arguments)
    data.setup("fit")
    return data


@pytest.mark.parametrize("loss", [nn.functional.cross_entropy, output_norm])
@pytest.mark.filterwarnings("ignore:gradients are taken one sample at a time")
def test_a_stream_s_statistics_are_the_same_for_any_batch_size_and_way(loss: Any) -> None:
    """With batch normalisation and dropout, which would mix or change samples in training mode."""
    source = toy_source()
    names = [name for name, _ in source.named_parameters()]
    expected: Any = {kind: dict.fromkeys(names, 0.0) for kind in ALL}
    inputs, targets = zip(*set_up().loader("forget"), strict=True)
    samples = list(zip(torch.cat(inputs), torch.cat(targets), strict=True))
    source.eval()
    for x, y in samples:
        found = torch.autograd.grad(loss(source(x[None]), y[None]), list(source.parameters()))
        for kind in ALL:
            for name, gradient in zip(names, found, strict=True):
                expected[kind][name] += of_one(kind, gradient) / len(samples)
    source.train()
    for model in (source, Branching()):
        for batch_size in (1, 5, 60):
            measured = gradient_statistics(
                model, set_up(batch_size=batch_size), "forget", ALL, runtime=Runtime(), loss=loss
            )
            for kind in ALL:
                for name in measured[kind]:
                    assert_close(measured[kind][name], expected[kind][name], rtol=1e-4, atol=1e-6)
    assert model.training
    assert "net.0.bias" not in measured["mean"], "what is frozen is left out"
    cheap = gradient_statistics(
        source, set_up(batch_size=5), "forget", ["mean"], runtime=Runtime(), loss=loss
    )
    for name, value in cheap["mean"].items():
        assert_close(value, expected["mean"][name], rtol=1e-4, atol=1e-6)


def test_half_precision_is_summed_up_in_float32() -> None:
    data = set_up()
    measured = gradient_statistics(Net().bfloat16(), Halved(data), "train", ["square"], runtime=Runtime())  # type: ignore[arg-type]
    assert {value.dtype for value in measured["square"].values()} == {torch.float32}


class Halved:
    """Data whose inputs are bfloat16, as a Trainer's precision makes them."""

    def __init__(self, data: UnlearningDataModule) -> None:
        self.data = data

    def loader(self, *arguments: Any, **more: Any) -> Any:
        loader = self.data.loader(*arguments, **more)
        loader.dataset.inputs = loader.dataset.inputs.bfloat16()  # type: ignore[union-attr]
        return loader
