"""Statistics of the gradients of single samples, several at once."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Literal

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_unlearn.core.checks import in_range

__all__ = ["add_statistics", "output_norm", "sample_gradients"]

Statistic = Literal["mean", "magnitude", "square", "norm"]

# Gradients of single samples that are held at once, as a count of numbers in float32: a thirty-second of a GPU's memory
# (of all of it, so that the same card always adds up alike), and what a processor's cache holds, as fast there.
_NUMBERS_HELD = 2**26  # of other devices
_NUMBERS_HELD_ON_CPU = 2**22


def _numbers_held(device: torch.device) -> int:
    if device.type == "cuda":
        return max(_NUMBERS_HELD, torch.cuda.get_device_properties(device).total_memory // 32 // 4)
    return _NUMBERS_HELD_ON_CPU if device.type == "cpu" else _NUMBERS_HELD


_OF_SAMPLE: dict[Statistic, Callable[[Tensor], Tensor]] = {
    "mean": lambda gradients: gradients,
    "magnitude": torch.abs,
    "square": torch.square,
    "norm": lambda gradients: torch.linalg.vector_norm(gradients.reshape(len(gradients), -1), dim=1),
}


def sample_gradients(
    objective: Callable[..., Tensor],
    parameters: Mapping[str, Tensor],
    samples: tuple[Any, ...],
    *,
    chunk_size: int | None = None,
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Compute each sample's own gradient, many samples at once (:func:`torch.func.vmap`).

    The gradient of a batch's mean would not do where magnitudes or squares are asked for: training has brought just
    that one close to zero, so that large gradients of opposite sign cancel and what is left is noise, of a size that
    goes with the batch's.

    Args:
        objective: Called as ``objective(parameters, *sample)`` for one sample without batch dimension; returns a
            scalar, in operations that ``vmap`` can batch.
        parameters: What to differentiate by, by name.
        samples: The arguments of ``objective`` with a batch dimension first; tensors or structures of them.
        chunk_size: How many samples at once; ``None`` for as many as fit into a thirty-second of a GPU's memory (or
            256 MB), on the CPU into 16 MB, one at least. Where memory runs out half as many are tried.

    Yields:
        Which samples, and their gradients by name, detached, with the samples first.

    Raises:
        ValueError: If ``chunk_size`` is below 1.

    Example:
        >>> import torch
        >>> inputs = torch.tensor([[3.0, 1.0], [-3.0, 1.0]])
        >>> weight = {"w": torch.tensor([1.0, 1.0])}
        >>> [gradients for _, gradients in sample_gradients(lambda p, x: (p["w"] * x).sum(), weight, (inputs,))]
        [{'w': tensor([[ 3.,  1.],
                [-3.,  1.]])}]
    """
    in_range("chunk_size", chunk_size, "[1, inf)", whole=True, none=True)
    by_name = dict(parameters)
    numbers = sum(value.numel() for value in by_name.values())
    device = next((value.device for value in by_name.values()), torch.device("cpu"))
    step = chunk_size or max(1, _numbers_held(device) // max(1, numbers))
    gradients_of = torch.func.vmap(
        torch.func.grad(objective), in_dims=(None, *(0 for _ in samples)), randomness="different"
    )
    leaves: list[Tensor] = []
    apply_to_collection(samples, Tensor, leaves.append)
    start = 0
    while start < len(leaves[0]):
        chosen = slice(start, start + step)
        part = apply_to_collection(samples, Tensor, lambda value: value[chosen])  # noqa: B023  used at once
        try:
            found = gradients_of(by_name, *part)
        except torch.OutOfMemoryError:
            if step == 1:
                raise
            step //= 2
            continue
        yield chosen, {name: value.detach() for name, value in found.items()}
        start += step


def add_statistics(
    totals: Mapping[Statistic, MutableMapping[str, Tensor]],
    gradients: Mapping[str, Tensor],
    weights: Tensor,
) -> None:
    r"""Add to sums over samples, :math:`\sum_b w_b f(g_b)`, in place.

    Args:
        totals: The sums by statistic and name, at least float32, contiguous: ``"mean"`` of the gradients themselves,
            ``"magnitude"`` :math:`|g|`, ``"square"`` :math:`g^2`, and ``"norm"``, the L2 norm of the gradient by a
            whole tensor, a scalar.
        gradients: Gradients of samples by name, with the samples first.
        weights: Weight of each sample, ``(B,)``.

    Example:
        >>> import torch
        >>> totals = {"square": {"w": torch.zeros(2)}, "mean": {"w": torch.zeros(2)}}
        >>> add_statistics(totals, {"w": torch.tensor([[3.0, 1.0], [-3.0, 1.0]])}, torch.ones(2))
        >>> totals
        {'square': {'w': tensor([18.,  2.])}, 'mean': {'w': tensor([0., 2.])}}
    """
    for statistic, by_name in totals.items():
        for name, total in by_name.items():
            values = _OF_SAMPLE[statistic](gradients[name].to(total.dtype))
            total.view(-1).addmv_(values.reshape(len(weights), total.numel()).mT, weights.to(values))


def output_norm(logits: Tensor, targets: Tensor) -> Tensor:
    """Squared L2 norm of the logits, a mean over samples: what a model does, without a label.

    Its gradient says what a model's outputs hang on. Source: Aljundi et al., "Memory Aware Synapses", 2018, eq. 3.

    Args:
        logits: ``(B, C)``.
        targets: Not looked at; losses have it.
    """
    return logits.square().sum(dim=-1).mean()
