"""Losses of the unlearning methods that fine-tune on D_f and D_r together, and their learning rate."""

import functools
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_unlearn.core.checks import in_range, one_of, shapes
from lightning_unlearn.functional._checks import as_float_pair
from lightning_unlearn.functional.divergence import js_from_logits, kl_from_logits

__all__ = [
    "annealed",
    "bounded_ascent",
    "dampening",
    "distillation_loss",
    "perturbation_loss",
    "preference_loss",
    "reference_kl_loss",
    "wrong_labels",
]

Loss = Callable[[Tensor, Tensor], Tensor]


def _retain_loss(loss: Loss, retain_logits: Tensor, retain_targets: Tensor) -> Tensor:
    value = loss(retain_logits, retain_targets)
    if value.ndim != 0:
        raise ValueError(f"loss must return a scalar, got shape {shapes(value)}; use reduction='mean'")
    return value


def reference_kl_loss(
    unlearned_logits: Tensor,
    reference: Tensor,
    retain_logits: Tensor,
    retain_targets: Tensor,
    lambda_: float,
    *,
    reference_kind: Literal["logits", "posteriors"] = "logits",
    loss: Loss = F.cross_entropy,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Loss of unlearning towards a reference model, with a penalty that keeps the accuracy on D_r.

    .. math::
        \lambda\,\mathrm{KL}(P_{ref} \| P_{unlearned}) + (1 - \lambda)\,\mathrm{CE}

    Chen et al., "Private Data Protection with Machine Unlearning for Next-Generation Networks", 2024, eq.
    1-3. Their eq. 2 writes the cross entropy for two classes and with prediction and label exchanged; meant,
    and computed here, is the usual cross entropy over all classes. KL is in nats and averaged over the
    samples of D_f.

    Args:
        unlearned_logits: Logits of the unlearned model on D_f, shape ``(..., C)``.
        reference: Output of the reference model on the same samples, same shape; no gradient flows into it.
        retain_logits: Logits of the unlearned model on a batch of D_r, shape ``(M, C)``.
        retain_targets: Labels of that batch, as ``loss`` wants them.
        lambda_: Weight of KL against cross entropy, in ``[0, 1]``.
        reference_kind: What ``reference`` holds: ``"logits"`` or ``"posteriors"``.
        loss: The loss on D_r, a callable of logits and targets that returns a scalar.

    Returns:
        The loss to minimise, and its parts KL and cross entropy without their weights; all scalars.

    Raises:
        TypeError: If a tensor of logits is not floating-point.
        ValueError: If ``lambda_`` is outside ``[0, 1]``, shapes differ, ``reference_kind`` is unknown, D_f's
            batch is empty or ``loss`` does not return a scalar.

    Example:
        >>> import torch
        >>> forget, retain = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 0.0]])
        >>> reference, targets = torch.zeros(1, 2), torch.tensor([0])
        >>> reference_kl_loss(forget, reference, retain, targets, lambda_=0.5)
        (tensor(0.3466), tensor(0.), tensor(0.6931))
    """
    in_range("lambda_", lambda_, "[0, 1]")
    one_of("reference_kind", reference_kind, "logits", "posteriors")
    reference, unlearned_logits = as_float_pair(
        "reference", reference.detach(), "unlearned_logits", unlearned_logits
    )
    # The logarithm of a posterior is a valid logit vector, minus infinity at a posterior of 0 included.
    kl = kl_from_logits(reference.log() if reference_kind == "posteriors" else reference, unlearned_logits)
    ce = _retain_loss(loss, retain_logits, retain_targets)
    return lambda_ * kl + (1.0 - lambda_) * ce, kl, ce


def perturbation_loss(
    unlearned_logits: Tensor,
    source_logits: Tensor,
    retain_logits: Tensor,
    retain_targets: Tensor,
    lambda_: float,
    *,
    loss: Loss = F.cross_entropy,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Loss of fine-tuning after a perturbation of the weights.

    .. math::
        \mathrm{CE} + \lambda\,\mathrm{JS}(P_{unlearned} \| P_{source})

    Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", eq. 10. As printed it
    adds :math:`\sum y \log p` without the minus sign, which would maximise the cross entropy; the sign is
    restored here. JS (their eq. 8, base 2) is averaged over the samples of D_f, against the source model in
    place of the retrained one as in their section III-B.

    Args:
        unlearned_logits: Logits of the unlearned model on D_f, shape ``(..., C)``.
        source_logits: Logits of the source model on the same samples, same shape; no gradient flows into
            them.
        retain_logits: Logits of the unlearned model on a batch of D_r, shape ``(M, C)``.
        retain_targets: Labels of that batch, as ``loss`` wants them.
        lambda_: Weight of JS, finite and not negative.
        loss: The loss on D_r, a callable of logits and targets that returns a scalar.

    Returns:
        The loss to minimise, and its parts JS and cross entropy without their weights; all scalars.

    Raises:
        TypeError: If a tensor of logits is not floating-point.
        ValueError: If ``lambda_`` is negative or not finite, shapes differ, D_f's batch is empty or ``loss``
            does not return a scalar.

    Example:
        >>> import torch
        >>> forget, retain = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 0.0]])
        >>> source, targets = torch.zeros(1, 2), torch.tensor([0])
        >>> perturbation_loss(forget, source, retain, targets, lambda_=0.1)
        (tensor(0.6931), tensor(0.), tensor(0.6931))
    """
    in_range("lambda_", lambda_, "[0, inf)", "; 0 leaves the JS term out")
    unlearned_logits, source_logits = as_float_pair(
        "unlearned_logits", unlearned_logits, "source_logits", source_logits.detach()
    )
    per_sample = js_from_logits(unlearned_logits, source_logits)
    if per_sample.numel() == 0:
        raise ValueError("unlearned_logits holds no sample of D_f; skip empty batches")
    js = per_sample.mean()
    ce = _retain_loss(loss, retain_logits, retain_targets)
    return ce + lambda_ * js, js, ce


def bounded_ascent(forget_loss: Tensor, clamp: float) -> Tensor:
    r"""Return what gradient ascent minimises, :math:`-\min(L(D_f), clamp)`: beyond the bound there is no gradient.

    Without a bound the cross-entropy grows for ever, and the weights with it.

    Args:
        forget_loss: Loss on a batch of D_f, a scalar.
        clamp: Where ascent ends, > 0, in the unit of the loss.

    Example:
        >>> import torch
        >>> bounded_ascent(torch.tensor(2.0), 6.0), bounded_ascent(torch.tensor(9.0), 6.0)
        (tensor(-2.), tensor(-6.))
    """
    return -forget_loss.clamp(max=clamp)


def distillation_loss(teacher_logits: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Divergence :math:`T^2 \, KL(P_{teacher} \| P)` of posteriors softened by a temperature: a mean over samples.

    It sums over the classes; ``kl_div`` with its default reduction divides by their number as well. Source: Hinton,
    Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015; :math:`T^2` keeps the gradient's scale.

    Args:
        teacher_logits: Logits of the teacher, ``(B, C)``.
        logits: Logits of the model, ``(B, C)``.
        temperature: Temperature T, > 0.

    Example:
        >>> import torch
        >>> loss = distillation_loss(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), temperature=2.0)
        >>> round(float(loss), 3)  # 4 log cosh(1/2)
        0.48
    """
    return temperature**2 * kl_from_logits(teacher_logits / temperature, logits / temperature)


def annealed(step: int, steps: int, *, warm_up: float = 0.2, end: float = 0.02) -> float:
    """Return the share of the peak learning rate at a step: up, then linearly down to almost nothing.

    Args:
        step: The step, from 0.
        steps: How many there are.
        warm_up: Share of the steps in which the rate rises.
        end: Share of the peak that is left at the last step.

    Example:
        >>> [round(annealed(step, 5), 3) for step in range(5)]
        [1.0, 0.755, 0.51, 0.265, 0.02]
    """
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return (step + 1) / rising
    return 1 - (1 - end) * min(1.0, (step + 1 - rising) / max(1, steps - rising))


def preference_loss(
    log_p: Tensor, reference_log_p: Tensor | None = None, *, beta: float = 0.1, gamma: float = 0.0
) -> Tensor:
    r"""Return the loss of negative preference optimization on D_f, a bounded stand-in for gradient ascent.

    .. math::
        \frac{2}{\beta}\,\mathrm{mean}\,\log\big(1 + (p_y / p_{source,y})^\beta e^\gamma\big)

    Zhang et al., "Negative Preference Optimization", 2024, eq. 3. Without a reference it is SimNPO, Fan et al.,
    "Simplicity Prevails", 2024, for an answer of one token, a class. For β to 0 it becomes gradient ascent; its
    gradient vanishes where the true class has become unlikely.

    Args:
        log_p: Log posterior of the true class under the unlearned model, ``(B,)`` floating point.
        reference_log_p: The same under the source model; ``None`` leaves it out (SimNPO).
        beta: How sharply the gradient fades, > 0.
        gamma: Margin γ of SimNPO, which has it with the other sign.

    Raises:
        ValueError: If ``beta`` is not above 0.

    Example:
        >>> import torch
        >>> preference_loss(torch.zeros(1), torch.zeros(1), beta=2.0)
        tensor(0.6931)
    """
    in_range("beta", beta, "(0, inf)", "; 0.1 is the paper's")
    ratio = log_p if reference_log_p is None else log_p - reference_log_p.detach()
    return (2 / beta) * F.softplus(beta * ratio + gamma).mean()


def wrong_labels(labels: Tensor, index: Tensor, *, count: int, classes: int, seed: int) -> Tensor:
    """Return a label for each sample that is not its own, uniform over all other classes.

    It belongs to the sample and the seed: neither the order of the batches nor a resumed run changes it.

    Args:
        labels: The true classes, ``(B,)`` int64.
        index: Places of the samples in their set, ``(B,)`` in ``[0, count)``.
        count: How many samples the set has.
        classes: How many classes there are, at least 2.
        seed: Seed of the draw.

    Raises:
        ValueError: If there is no other class.

    Example:
        >>> import torch
        >>> wrong_labels(torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1]), count=3, classes=2, seed=0)
        tensor([1, 0, 0])
    """
    in_range("classes", classes, "[2, inf)", ": a wrong label needs another class", whole=True)
    shifts = _shifts(count, classes, seed).to(labels.device)
    return (labels + shifts[index.to(labels.device)]) % classes


@functools.lru_cache(maxsize=2)  # one draw serves all steps of an epoch
def _shifts(count: int, classes: int, seed: int) -> Tensor:
    return torch.randint(1, classes, (count,), generator=torch.Generator().manual_seed(seed))


def dampening(forget: Tensor, whole: Tensor, alpha: float, lambda_: float) -> Tensor:
    r"""Factor of each weight, :math:`\min(\lambda I / I_f, 1)` where :math:`I_f > \alpha I`, else 1.

    Foster, Schoepf & Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening",
    2024, eq. 5-7.

    Args:
        forget: Importance of each weight to the forget set, :math:`I_f`, not negative.
        whole: Its importance to all of the data, :math:`I`, of the same shape.
        alpha: How many times as much a weight must matter.
        lambda_: Strength of the dampening.

    Returns:
        Factors in [0, 1].

    Example:
        >>> import torch
        >>> dampening(torch.tensor([9.0, 4.0, 0.0]), torch.tensor([1.0, 2.0, 0.0]), alpha=3.0, lambda_=0.9)
        tensor([0.1000, 1.0000, 1.0000])
    """
    factors = (lambda_ * whole / forget).clamp(max=1)
    return torch.where(forget > alpha * whole, factors, torch.ones_like(factors))
