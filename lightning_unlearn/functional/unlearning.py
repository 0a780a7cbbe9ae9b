"""What unlearning methods compute on logits, labels and weights, and their learning rate."""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_unlearn.core.checks import in_range

__all__ = [
    "annealed",
    "bounded_ascent",
    "contrast_loss",
    "dampening",
    "filtration",
    "memory_of_labels",
    "preference_loss",
    "wrong_labels",
]


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


def contrast_loss(forget: Tensor, retain: Tensor, temperature: float) -> Tensor:
    r"""Return how unlike the forgotten samples are in their likeness to retained ones, in nats.

    .. math:: -\frac{1}{|B_f| |B_r|} \sum_{f, r} \log softmax_r(z_f z_r / T)

    Source: NeurIPS 2023 unlearning competition, first place. Least, :math:`\log |B_r|`, where each forgotten sample is
    as near to any retained one.

    Args:
        forget: Logits of a batch of D_f, ``(B_f, C)`` or ``(B_f,)``.
        retain: Those of a batch of D_r, which have no gradient, ``(B_r, C)`` or ``(B_r,)``.
        temperature: Temperature T, > 0.

    Example:
        >>> import torch
        >>> near, far = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.ones(1, 2)
        >>> contrast_loss(near, near, 1.0), contrast_loss(far, near, 1.0)
        (tensor(2.0181), tensor(0.6931))
    """
    rows, columns = (z.float().reshape(len(z), -1) for z in (forget, retain.detach()))
    return -(rows @ columns.T / temperature).log_softmax(dim=1).mean()


def memory_of_labels(logits: Tensor, labels: Tensor, loss: float) -> float:
    r"""Return by how much the labels' logits are too high for samples that were never trained on.

    The least :math:`\delta \ge 0` with :math:`CE(z - \delta \, e_y, y)` at or above ``loss``, in the mean. A mean loss
    that is as high already gives 0.

    Args:
        logits: Logits z of samples that were trained on, shape ``(N, C)``.
        labels: Their labels y, shape ``(N,)``.
        loss: Mean cross-entropy of the same network on samples like them that were not trained on, in nats.

    Example:
        >>> import math, torch
        >>> logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> round(memory_of_labels(logits, labels, math.log(2)), 4), memory_of_labels(logits, labels, 0.1)
        (2.0, 0.0)
    """
    hits = F.one_hot(labels, logits.shape[1]).double()
    logits, low, high = logits.double(), 0.0, 1.0

    def enough(delta: float) -> bool:
        return bool(F.cross_entropy(logits - delta * hits, labels) >= loss)

    if enough(low):
        return low
    while high < 1e6 and not enough(high):  # never, where a logit is NaN
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


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


def filtration(means: Tensor, gone: Sequence[int]) -> Tensor:
    r"""Return the matrix :math:`(C, C)` that filters classes out of the logits: logits become ``logits @ matrix.T``.

    Mean logits of the classes that stay are kept, without those of the classes that go; mean logits of a class that
    goes are shifted to the mean of all the others'. The logit of a class that goes is the mean of those that stay.
    Baumhauer, Schöttle & Zeppelzauer, "Machine Unlearning: Linear Filtration for Logit-based Classifiers", 2022,
    section 4, normalization.

    Args:
        means: Mean logits of the samples of each class, ``(C, C)`` float64, a row a class.
        gone: The classes to filter out.

    Raises:
        torch.linalg.LinAlgError: If the rows are linearly dependent.

    Example:
        >>> import torch
        >>> means = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [2.0, 0.0, 4.0]], dtype=torch.float64)
        >>> means @ filtration(means, [2]).T
        tensor([[4., 0., 2.],
                [0., 4., 2.],
                [3., 1., 2.]], dtype=torch.float64)
    """
    stays = torch.ones(len(means), dtype=torch.bool)
    stays[list(gone)] = False
    wanted = means[:, stays].clone()
    wanted[~stays] += wanted[stays].mean() - wanted[~stays].mean(dim=1, keepdim=True)
    matrix = torch.empty_like(means)
    matrix[stays] = torch.linalg.solve(means, wanted).T
    matrix[~stays] = matrix[stays].mean(dim=0)
    return matrix
