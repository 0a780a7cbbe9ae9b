"""Distances between the weights of two models of one architecture. Posteriors and losses live elsewhere."""

from collections.abc import Mapping

import torch
from torch import Tensor


def weight_distance(weights: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Relative Euclidean distance of each layer's weights: :math:`\|w - w_{ref}\|_2 / \|w_{ref}\|_2`.

    The tensors of one layer (those whose names agree up to the last dot, such as ``conv1.weight`` and
    ``conv1.bias``) count as one vector; names without a dot are the layer ``""``. Integer tensors, such as
    the step counters of batch normalisation, are left out.

    Args:
        weights: Weights by name, as from ``dict(module.named_parameters())`` or ``module.state_dict()``.
        reference: Weights of the other model under the same names and in the same shapes.

    Returns:
        A scalar of at least float32 for each layer, not negative, detached, in the order of ``weights``.

    Raises:
        ValueError: If names or shapes differ, there are no floating-point weights, or all of a layer's
            reference weights are 0, so that no distance is relative to them.

    Example:
        >>> import torch
        >>> weight_distance({"fc.weight": torch.tensor([3.0, 0.0])}, {"fc.weight": torch.tensor([2.0, 0.0])})
        {'fc': tensor(0.5000)}
    """
    if weights.keys() != reference.keys():
        differing = sorted(weights.keys() ^ reference.keys())
        raise ValueError(
            f"weights and reference must have the same names, but {differing[:3]} (of {len(differing)}) are "
            "in one only; compare models of one architecture"
        )
    squares: dict[str, tuple[Tensor, Tensor]] = {}
    for name, weight in weights.items():
        other = reference[name]
        if weight.shape != other.shape:
            raise ValueError(
                f"weights[{name!r}] has shape {tuple(weight.shape)}, the reference {tuple(other.shape)}; "
                "compare models of one architecture"
            )
        if not weight.is_floating_point():
            continue
        dtype = torch.promote_types(weight.dtype, torch.float32)
        w, r = weight.detach().to(dtype), other.detach().to(weight.device, dtype)
        layer = name.rpartition(".")[0]
        moved, size = (w - r).square().sum(), r.square().sum()
        if layer in squares:
            moved, size = squares[layer][0] + moved, squares[layer][1] + size
        squares[layer] = (moved, size)
    if not squares:
        raise ValueError("weights holds no floating-point tensor; pass dict(module.named_parameters())")
    for layer, (_, size) in squares.items():
        if size.item() == 0:
            raise ValueError(
                f"all reference weights of layer {layer!r} are 0, so a distance relative to them is "
                "undefined; leave the layer out"
            )
    return {layer: (moved / size).sqrt() for layer, (moved, size) in squares.items()}
