"""Bounds of certified unlearning: how far two trainings can be apart, and what noise makes of that."""

import math

import torch

from lightning_unlearn.core.checks import in_range

__all__ = ["gaussian_epsilon", "rewind_sensitivity"]


def rewind_sensitivity(
    *,
    smoothness: float,
    gradient_bound: float,
    lr: float,
    forgotten: int,
    members: int,
    before: int,
    after: int,
) -> float:
    r"""Return how far rewound weights can be from retrained ones, in the Euclidean norm.

    .. math:: \Delta = (1 + \eta L)^K \, \frac{2 m G}{n L} \big((1 + \eta L)^t - 1\big)

    Both start from the same weights and take t + K steps of full-batch gradient descent, retraining all on the mean
    loss of D_r, the other the first t on that of all members. At the same weights the two gradients differ by
    m/n times the difference of the means over D_f and D_r, at most 2mG/n; one step moves two weights apart by a factor
    of at most 1 + ηL. Nothing needs to be convex. Source: after Mu & Klabjan, "Rewind-to-Delete", NeurIPS 2025, its
    main theorem; derived here from the assumptions, without the paper's factor n/(n − m) at L.

    Args:
        smoothness: L, a Lipschitz constant of the gradient of the mean loss on D_r, > 0.
        gradient_bound: G, at least the norm of the gradient of any sample's loss, > 0.
        lr: Learning rate η of both, > 0.
        forgotten: m, how many of the members are forgotten.
        members: n, how many the source was trained on.
        before: t, steps before the checkpoint.
        after: K, steps from there on D_r.

    Returns:
        The distance; infinity where it is beyond any number.

    Example:
        >>> rewind_sensitivity(smoothness=1, gradient_bound=1, lr=0.1, forgotten=1, members=100, before=1, after=0)
        0.002
    """
    for name, value in (("smoothness", smoothness), ("gradient_bound", gradient_bound), ("lr", lr)):
        in_range(name, value, "(0, inf)")
    in_range("members", members, "[1, inf)", whole=True)
    in_range("forgotten", forgotten, f"[0, {members}]", whole=True)
    growth = math.log1p(lr * smoothness)
    try:
        apart = 2 * forgotten * gradient_bound / (members * smoothness) * math.expm1(before * growth)
        return apart * math.exp(after * growth)
    except OverflowError:
        return math.inf


def gaussian_epsilon(ratio: float, delta: float) -> float:
    r"""Return the smallest ε for which Gaussian noise makes two results (ε, δ)-indistinguishable.

    It solves :math:`\delta = \Phi(r/2 - ε/r) - e^ε \, \Phi(-r/2 - ε/r)`, which is exact for every ε, where the usual
    :math:`\sigma = \sqrt{2 \ln(1.25/\delta)}\,\Delta/ε` holds below 1 only. Source: Balle & Wang, "Improving the
    Gaussian Mechanism for Differential Privacy", 2018, theorem 8.

    Args:
        ratio: Distance r of the results in standard deviations of the noise, >= 0.
        delta: δ, in (0, 1).

    Example:
        >>> round(gaussian_epsilon(1.0, 1e-5), 3)
        4.377
        >>> gaussian_epsilon(0.0, 1e-5)
        0.0
    """
    in_range("delta", delta, "(0, 1)")
    if ratio == 0 or math.isinf(ratio):
        return ratio

    def exceeds(epsilon: float) -> bool:
        at = torch.tensor([ratio / 2 - epsilon / ratio, -ratio / 2 - epsilon / ratio], dtype=torch.float64)
        first, second = torch.special.log_ndtr(at).tolist()
        return math.exp(first) - math.exp(min(0.0, epsilon + second)) > delta

    # of zero-concentrated privacy, and so enough
    low, high = 0.0, ratio**2 / 2 + ratio * math.sqrt(2 * math.log(1 / delta))
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if exceeds(middle) else (low, middle)
    return high
