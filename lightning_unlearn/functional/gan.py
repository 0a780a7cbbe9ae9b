"""Losses of unlearning by a Wasserstein GAN with gradient penalty. No networks, no loops, no state.

All follow Chen, Huang & Wang, "Machine unlearning via GAN", 2021. "Real" are the source model's sorted
posteriors on non-members, "fake" the unlearned model's (the generator's) sorted posteriors on D_f.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_unlearn.functional._checks import as_float, require_positive_finite, require_unit_interval


def sort_posteriors(p: Tensor) -> Tensor:
    """Sort each sample's posterior in descending order: the function S of section 2.4.

    Sorting hides the class from the critic, so that the unlearned model is taught how sure to be on D_f, not
    what to answer.

    Args:
        p: Posteriors of shape ``(..., C)``.

    Returns:
        The sorted posteriors, same shape and at least float32; gradients flow back to the unsorted ones.

    Raises:
        TypeError: If ``p`` is not a floating-point tensor.
        ValueError: If there are fewer than two classes.

    Example:
        >>> import torch
        >>> sort_posteriors(torch.tensor([[0.1, 0.7, 0.2]]))
        tensor([[0.7000, 0.2000, 0.1000]])
    """
    return as_float("p", p).sort(dim=-1, descending=True).values


def wasserstein_critic_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """First two terms of eq. 5: ``mean(fake_scores) - mean(real_scores)``, which the critic minimises.

    Args:
        real_scores: Critic scores of real samples, any shape; float32 is computed from half precision.
        fake_scores: Critic scores of fake samples, any shape; the two counts may differ.

    Returns:
        A scalar; minus it estimates the Wasserstein distance once the critic is trained.

    Raises:
        ValueError: If either is empty.

    Example:
        >>> import torch
        >>> wasserstein_critic_loss(torch.tensor([1.0, 3.0]), torch.tensor([0.5]))
        tensor(-1.5000)
    """
    return _mean_score("fake_scores", fake_scores) - _mean_score("real_scores", real_scores)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    weight: float = 10.0,
    p: float = 2.0,
    generator: torch.Generator | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    r"""Third term of eq. 5: :math:`\lambda\,\mathbb{E}[(\|\nabla_{\hat x} D(\hat x)\|_p - 1)^2]`.

    :math:`\hat x = \epsilon\,real + (1 - \epsilon)\,fake` with one :math:`\epsilon \sim U(0, 1)` a sample.
    The result is differentiable with respect to the critic's parameters; ``real`` and ``fake`` are detached,
    because the penalty shapes the critic only. The critic must score each sample by itself (no batch
    normalisation), else a sample's gradient holds the other samples' scores.

    Args:
        critic: Maps ``(N, ...)`` to scores of shape ``(N,)`` or ``(N, 1)``.
        real: Real samples of shape ``(N, ...)``.
        fake: Fake samples of the same shape.
        weight: The coefficient :math:`\lambda`, above 0. The paper gives no value; 10 is the common one.
        p: Order of the norm, at least 1.
        generator: Source of :math:`\epsilon`, on any device; ``None`` uses torch's global state.
        epsilon: The :math:`\epsilon` to use instead of drawing, N values in ``(N,)``, ``(N, 1)`` or alike.

    Returns:
        A scalar of at least float32, not negative.

    Raises:
        ValueError: If the shapes differ, there is no sample, ``weight`` or ``p`` is out of range, ``epsilon``
            does not hold one value a sample, both ``generator`` and ``epsilon`` are given, or the critic does
            not return one score a sample.

    Example:
        >>> import torch
        >>> x = torch.rand(4, 3)
        >>> gradient_penalty(lambda x: x @ torch.tensor([0.0, 0.0, 3.0]), x, x)  # slope 3: 10 * (3 - 1) ** 2
        tensor(40.)
    """
    require_positive_finite("weight", weight)
    if not p >= 1:
        raise ValueError(f"p must be at least 1 for a norm, got {p}")
    if real.shape != fake.shape or real.ndim < 2:
        raise ValueError(
            f"real and fake must have one shape (N, ...), got {tuple(real.shape)} and {tuple(fake.shape)}; "
            "draw equally many samples of both"
        )
    n = real.shape[0]
    if n == 0:
        raise ValueError("real and fake hold no sample; skip empty batches")
    if epsilon is None:
        device = real.device if generator is None else generator.device
        epsilon = torch.rand(n, generator=generator, device=device)
    elif generator is not None:
        raise ValueError("give either generator or epsilon, not both")
    elif epsilon.numel() != n:
        raise ValueError(
            f"epsilon must hold one value a sample, {n} in all, got shape {tuple(epsilon.shape)}"
        )

    real, fake = real.detach(), fake.detach()
    epsilon = epsilon.to(real).view(n, *(1 for _ in real.shape[1:]))
    mixed = (epsilon * real + (1.0 - epsilon) * fake).requires_grad_()
    scores = critic(mixed)
    if scores.numel() != n:
        raise ValueError(
            f"critic must return one score a sample, {n} in all, got shape {tuple(scores.shape)}"
        )
    (slope,) = torch.autograd.grad(scores.sum(), mixed, create_graph=True)
    slope = slope.flatten(1)
    norm = torch.linalg.vector_norm(slope.float() if slope.dtype != torch.float64 else slope, ord=p, dim=1)
    penalty: Tensor = weight * (norm - 1.0).square().mean()
    return penalty


def generator_loss(fake_scores: Tensor, retain_ce: Tensor, alpha: float) -> Tensor:
    r"""Eq. 6: :math:`-\alpha\,\mathbb{E}[D(S(G(z)))] + (1 - \alpha)\,L`, which the unlearned model minimises.

    Args:
        fake_scores: Critic scores of the unlearned model's sorted posteriors on D_f, any shape.
        retain_ce: Loss of the unlearned model on (a subset of) D_r, a scalar.
        alpha: Weight of forgetting against performance, in ``[0, 1]``.

    Returns:
        A scalar.

    Raises:
        ValueError: If ``alpha`` is out of range, ``fake_scores`` is empty or ``retain_ce`` is not a scalar.

    Example:
        >>> import torch
        >>> generator_loss(torch.tensor([2.0, 4.0]), torch.tensor(1.0), alpha=0.75)
        tensor(-2.)
    """
    require_unit_interval("alpha", alpha)
    if retain_ce.ndim != 0:
        raise ValueError(
            f"retain_ce must be a scalar, got shape {tuple(retain_ce.shape)}; average it over the batch"
        )
    return -alpha * _mean_score("fake_scores", fake_scores) + (1.0 - alpha) * retain_ce


def _mean_score(name: str, scores: Tensor) -> Tensor:
    if scores.numel() == 0:
        raise ValueError(f"{name} holds no sample; skip empty batches")
    return scores.mean(dtype=torch.promote_types(scores.dtype, torch.float32))
