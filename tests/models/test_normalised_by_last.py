"""Batch normalisation by the last samples: the kernels of CUDA, here by what they compute, give what the plain one gives."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_unlearn.models.statistics import _ByLast, _FusedByLast, _is_precise


def around(values: Tensor) -> tuple[int, ...]:
    return 0, *range(2, values.ndim)


def across(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 2))


def stats(inputs: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(inputs, around(inputs), correction=0)
    return mean, (variance + eps).rsqrt()


def gather(inputs: Tensor, mean: Tensor, scale: Tensor, *moved: Any) -> tuple[Tensor, Tensor]:
    running_mean, running_variance, momentum, eps, counts = moved
    assert mean.shape[0] == counts.numel() == 1, "of one process"
    variance = scale[0].square().reciprocal() - eps
    running_mean.lerp_(mean[0], momentum)
    running_variance.lerp_(variance * counts / (counts - 1), momentum)
    return mean[0], scale[0]


def elemt(inputs: Tensor, weight: Any, bias: Any, mean: Tensor, scale: Tensor, eps: float) -> Tensor:
    values = (inputs - across(mean, inputs)) * across(scale, inputs)
    values = values if weight is None else values * across(weight, inputs)
    return values if bias is None else values + across(bias, inputs)


def reduce(
    gradient: Tensor, inputs: Tensor, mean: Tensor, scale: Tensor, weight: Any, *wanted: bool
) -> tuple[Tensor | None, ...]:
    total = gradient.sum(around(inputs))
    product = (gradient * (inputs - across(mean, inputs))).sum(around(inputs))
    return total, product, product * scale if wanted[1] else None, total.clone() if wanted[2] else None


def backward(
    gradient: Tensor,
    inputs: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Any,
    total: Tensor,
    product: Tensor,
    count: Tensor,
) -> Tensor:
    assert count.dtype == torch.int32
    back = gradient - across(total / count, inputs)
    back = back - (inputs - across(mean, inputs)) * across(scale.square() * product / count, inputs)
    return back * across(scale if weight is None else scale * weight, inputs)


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 5), (7, 3, 4, 2), (7, 3, 2, 2, 2)])
@pytest.mark.parametrize("affine", [(True, True), (True, False), (False, False)])
def test_the_kernels_of_cuda_give_what_the_plain_one_gives(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], affine: tuple[bool, bool]
) -> None:
    for name, function in {
        "batch_norm_stats": stats,
        "batch_norm_gather_stats_with_counts": gather,
        "batch_norm_elemt": elemt,
        "batch_norm_backward_reduce": reduce,
        "batch_norm_backward_elemt": backward,
    }.items():
        monkeypatch.setattr(torch, name, function)
    torch.manual_seed(0)
    inputs, slopes = torch.randn(shape).double() * 3 + 1, torch.randn(shape).double()
    found = []
    for function in (_ByLast, _FusedByLast):
        own = inputs.clone().requires_grad_()
        weights = [torch.tensor([0.5, 1, 2]).double().requires_grad_() if asked else None for asked in affine]
        moved = torch.zeros(3).double(), torch.ones(3).double()
        outputs = function.apply(own, *weights, 4, 1e-5, (*moved, 0.3))
        (outputs * slopes).sum().backward()
        found.append([outputs.detach(), own.grad, *(w.grad for w in weights if w is not None), *moved])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


def test_half_weights_are_left_to_the_plain_one() -> None:
    layer = nn.BatchNorm2d(3)
    assert _is_precise(layer)
    assert _is_precise(layer.double())
    assert not _is_precise(layer.bfloat16())
    layer.running_mean = torch.zeros(3)
    assert not _is_precise(layer), "statistics in another type"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("batch_norm_stats", "input eps"),
        (
            "batch_norm_gather_stats_with_counts",
            "input mean invstd running_mean running_var momentum eps counts",
        ),
        ("batch_norm_elemt", "input weight bias mean invstd eps"),
        ("batch_norm_backward_reduce", "grad_out input mean invstd weight input_g weight_g bias_g"),
        ("batch_norm_backward_elemt", "grad_out input mean invstd weight sum_dy sum_dy_xmu count"),
    ],
)
def test_the_kernels_take_what_they_are_given(name: str, arguments: str) -> None:
    """They are undocumented, and no CPU runs them: what another release takes is seen here."""
    schema = getattr(torch.ops.aten, name).default._schema
    assert " ".join(argument.name for argument in schema.arguments) == arguments
