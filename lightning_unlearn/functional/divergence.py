"""Distances between posteriors and between weights, and the spread of posteriors.

Functions named ``*_from_logits`` take logits, look at no value and so neither wait for the device nor break
``torch.func.vmap``: use them in a training step. The others take posteriors and check that they got
posteriors. All of them compute float16 and bfloat16 input in float32 and keep float64.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from lightning_unlearn.core.checks import shapes
from lightning_unlearn.functional._checks import (
    as_float,
    as_float_pair,
    as_posterior_pair,
    as_posteriors,
    log_scale,
)

__all__ = [
    "activation_distance",
    "confidence",
    "entropy",
    "js_divergence",
    "js_from_logits",
    "kl_divergence",
    "kl_from_logits",
    "posteriors",
    "similarity",
    "weight_distance",
]

Reduction = Literal["mean", "sum", "none"]


def _reduce(per_sample: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return per_sample
    if reduction == "sum":
        return per_sample.sum()
    if reduction != "mean":
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if per_sample.numel() == 0:
        raise ValueError("the batch holds no sample, so its mean is undefined; skip empty batches")
    return per_sample.mean()


def _masked_log(value: Tensor, mask: Tensor, fill: float) -> Tensor:
    # The fill goes in before the logarithm: masking afterwards would leave a 0 * inf = NaN in the gradient.
    return torch.where(mask, value, fill).log()


def _at_least_zero(divergence: Tensor) -> Tensor:
    # Rounding can take a divergence just below 0. The value is put back; unlike clamp, this keeps the
    # gradient.
    return torch.where(divergence < 0, divergence - divergence.detach(), divergence)


def _js(p: Tensor, q: Tensor, dim: int, base: float | None) -> Tensor:
    scale = log_scale(base)
    total = p + q

    def half(part: Tensor) -> Tensor:
        # part * log(part / ((p + q) / 2)), written with p + q, which, unlike its half, cannot underflow to 0.
        mask = part > 0
        return part * (_masked_log(part, mask, 1.0) - _masked_log(total, mask, 2.0) + math.log(2.0))

    js = 0.5 * scale * (half(p) + half(q)).sum(dim)
    excess = (js - scale * math.log(2.0)).clamp(min=0.0)  # of rounding, at disjoint posteriors
    return _at_least_zero(js - excess.detach())


def posteriors(logits: Tensor) -> Tensor:
    """Softmax over the last dimension, computed in at least float32.

    Args:
        logits: Logits of shape ``(..., C)``, any floating-point dtype.

    Returns:
        Posteriors of shape ``(..., C)``; float32 for half-precision input, else the dtype of ``logits``.

    Raises:
        TypeError: If ``logits`` is not a floating-point tensor.
        ValueError: If there are fewer than two classes.
    """
    return as_float("logits", logits).softmax(-1)


def kl_divergence(p: Tensor, q: Tensor, dim: int = -1, base: float | None = None) -> Tensor:
    r"""Kullback-Leibler divergence :math:`\mathrm{KL}(P \| Q) = \sum_c p_c \log (p_c / q_c)` of each sample.

    Classes with :math:`p_c = 0` contribute nothing. The result is infinite where :math:`q_c = 0 < p_c`.

    Args:
        p: Posteriors of shape ``(..., C)``.
        q: Posteriors of the same shape.
        dim: The class dimension.
        base: Base of the logarithm; ``None`` gives nats, 2 gives bits.

    Returns:
        Divergence of each sample, ``p.shape`` without ``dim``, in ``[0, inf]``.

    Raises:
        TypeError: If an argument is not a floating-point tensor.
        ValueError: If the shapes differ, there are fewer than two classes, an argument does not hold
            posteriors or ``base`` is not above 1.

    Example:
        >>> import torch
        >>> kl_divergence(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]), base=2)
        tensor([1.])
    """
    scale = log_scale(base)
    p, q = as_posterior_pair(p, q, dim)
    mask = p > 0
    return scale * _at_least_zero((p * (_masked_log(p, mask, 1.0) - _masked_log(q, mask, 1.0))).sum(dim))


def kl_from_logits(p_logits: Tensor, q_logits: Tensor, reduction: Reduction = "mean") -> Tensor:
    r"""Kullback-Leibler divergence :math:`\mathrm{KL}(P \| Q)` in nats between the posteriors of two models.

    With the reference model as P and the unlearned model as Q this is the distance S of Chen et al., "Private
    Data Protection with Machine Unlearning for Next-Generation Networks", 2024, eq. 1 (and of Chen, Wang &
    Huang, "Lightweight machine unlearning in neural network", 2021). It works on log-posteriors throughout,
    so that a confident Q costs neither an infinity nor the gradient. A logit of minus infinity in P is a
    class of probability 0.

    Args:
        p_logits: Logits of P, shape ``(..., C)``. Log-posteriors are logits too.
        q_logits: Logits of Q, same shape.
        reduction: ``"mean"`` or ``"sum"`` over all samples, or ``"none"``.

    Returns:
        A scalar, or shape ``(...)`` for ``"none"``. Gradients reach both arguments; detach P to train Q
        alone.

    Raises:
        TypeError: If an argument is not a floating-point tensor.
        ValueError: If the shapes differ, there are fewer than two classes, ``reduction`` is unknown, or the
            mean of an empty batch is asked for.

    Example:
        >>> import torch
        >>> kl_from_logits(torch.tensor([[2.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
        tensor(0.)
    """
    p_logits, q_logits = as_float_pair("p_logits", p_logits, "q_logits", q_logits)
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    p = log_p.exp()
    log_ratio = torch.where(p > 0, log_p - log_q, 0.0)
    return _reduce(_at_least_zero((p * log_ratio).sum(-1)), reduction)


def js_divergence(p: Tensor, q: Tensor, base: float | None = 2.0, *, dim: int = -1) -> Tensor:
    r"""Jensen-Shannon divergence of each sample; in base 2 it lies in ``[0, 1]``.

    .. math::
        \mathrm{JS}(P \| Q) = \tfrac12 \mathrm{KL}(P \| M) + \tfrac12 \mathrm{KL}(Q \| M),
        \quad M = \tfrac12 (P + Q)

    This is Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", eq. 8. Their
    expanded eq. 9 has the sign of :math:`\log 2` reversed and lacks the weight :math:`\tfrac12 (p_c + q_c)`
    of its last logarithm; expanded correctly, eq. 8 reads

    .. math::
        \mathrm{JS} = \log 2 + \tfrac12 \sum_c \bigl[ p_c \log p_c + q_c \log q_c
                      - (p_c + q_c) \log (p_c + q_c) \bigr]

    (and their eq. 10 lacks the minus sign of the cross entropy, see
    :func:`~lightning_unlearn.functional.perturbation_loss`). They state the range ``[0, 1]``, which holds in
    base 2. The result is exact on one-hot and disjoint posteriors. Where a posterior is exactly 0 the true
    slope of :math:`p \log p` is infinite; that term's gradient is taken as 0 there, so gradients are finite
    everywhere.

    Args:
        p: Posteriors of shape ``(..., C)``.
        q: Posteriors of the same shape.
        base: Base of the logarithm; ``None`` gives nats and the range ``[0, log 2]``.
        dim: The class dimension.

    Returns:
        Divergence of each sample, ``p.shape`` without ``dim``.

    Raises:
        TypeError: If an argument is not a floating-point tensor.
        ValueError: If the shapes differ, there are fewer than two classes, an argument does not hold
            posteriors or ``base`` is not above 1.

    Example:
        >>> import torch
        >>> p = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
        >>> q = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
        >>> js_divergence(p, q)
        tensor([1., 0.])
    """
    p, q = as_posterior_pair(p, q, dim)
    return _js(p, q, dim, base)


def js_from_logits(p_logits: Tensor, q_logits: Tensor, base: float | None = 2.0) -> Tensor:
    """Jensen-Shannon divergence of each sample between the posteriors of two models, from their logits.

    Args:
        p_logits: Logits of shape ``(..., C)``.
        q_logits: Logits of the same shape.
        base: Base of the logarithm; ``None`` gives nats.

    Returns:
        Divergence of each sample, shape ``(...)``, in ``[0, 1]`` for base 2. Gradients reach both arguments.

    Raises:
        TypeError: If an argument is not a floating-point tensor.
        ValueError: If the shapes differ, there are fewer than two classes or ``base`` is not above 1.
    """
    p_logits, q_logits = as_float_pair("p_logits", p_logits, "q_logits", q_logits)
    return _js(p_logits.softmax(-1), q_logits.softmax(-1), -1, base)


def similarity(p: Tensor, q: Tensor) -> Tensor:
    """Mean over samples of ``1 - js_divergence(p, q)`` in base 2.

    Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", section IV-B d,
    between the unlearned and the retrained model.

    Args:
        p: Posteriors of shape ``(..., C)``.
        q: Posteriors of the same shape.

    Returns:
        A scalar in ``[0, 1]``; 1 means equal posteriors.

    Raises:
        TypeError: If an argument is not a floating-point tensor.
        ValueError: As :func:`js_divergence`, and if there is no sample.

    Example:
        >>> import torch
        >>> similarity(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.0, 1.0], [0.5, 0.5]]))
        tensor(0.5000)
    """
    return _reduce(1.0 - js_divergence(p, q), "mean")


def activation_distance(p: Tensor, q: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Euclidean distance between the posteriors of two models.

    Args:
        p: Posteriors of shape ``(..., C)``.
        q: Posteriors of the same shape.
        reduction: ``"mean"`` or ``"sum"`` over all samples, or ``"none"``.

    Returns:
        A scalar, or shape ``(...)`` for ``"none"``; each distance lies in ``[0, sqrt(2)]``.

    Raises:
        TypeError: If an argument is not a floating-point tensor.
        ValueError: If the shapes differ, an argument does not hold posteriors, ``reduction`` is unknown, or
            the mean of an empty batch is asked for.

    Example:
        >>> import torch
        >>> activation_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.4, 0.6]]), reduction="none")
        tensor([0.8485])
    """
    p, q = as_posterior_pair(p, q)
    return _reduce(torch.linalg.vector_norm(p - q, dim=-1), reduction)


def entropy(p: Tensor, base: float | None = None) -> Tensor:
    """Shannon entropy of each sample's posterior.

    Args:
        p: Posteriors of shape ``(..., C)``.
        base: Base of the logarithm; ``None`` gives nats.

    Returns:
        Entropy of each sample, shape ``(...)``, in ``[0, log C]``; gradients are finite at a posterior
        of 0.

    Raises:
        TypeError: If ``p`` is not a floating-point tensor.
        ValueError: If ``p`` does not hold posteriors or ``base`` is not above 1.

    Example:
        >>> import torch
        >>> entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), base=2)
        tensor([0., 1.])
    """
    scale = log_scale(base)
    p = as_posteriors("p", p)
    # p * log(1 / p) rather than -(p * log p): the latter returns -0.0 for a one-hot posterior.
    return scale * (p * -_masked_log(p, p > 0, 1.0)).sum(-1).clamp(min=0.0)


def confidence(p: Tensor) -> Tensor:
    """Largest posterior of each sample.

    Args:
        p: Posteriors of shape ``(..., C)``.

    Returns:
        Confidence of each sample, shape ``(...)``, in ``[1 / C, 1]``.

    Raises:
        TypeError: If ``p`` is not a floating-point tensor.
        ValueError: If ``p`` does not hold posteriors.

    Example:
        >>> import torch
        >>> confidence(torch.tensor([[0.1, 0.9], [0.5, 0.5]]))
        tensor([0.9000, 0.5000])
    """
    return as_posteriors("p", p).amax(-1)


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
    advice = "compare models of one architecture"
    if weights.keys() != reference.keys():
        differing = sorted(weights.keys() ^ reference.keys())
        found = f"but {differing[:3]} (of {len(differing)}) are in one only; {advice}"
        raise ValueError(f"weights and reference must have the same names, {found}")
    squares: dict[str, tuple[Tensor, Tensor]] = {}
    for name, weight in weights.items():
        other = reference[name]
        if weight.shape != other.shape:
            raise ValueError(
                f"weights[{name!r}] and its reference have shapes {shapes(weight, other)}; {advice}"
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
            raise ValueError(f"all reference weights of layer {layer!r} are 0; leave the layer out")
    return {layer: (moved / size).sqrt() for layer, (moved, size) in squares.items()}
