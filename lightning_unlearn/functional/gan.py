"""Losses of unlearning by a Wasserstein GAN with gradient penalty, and loss and score of SPD-GAN.

Those of the Wasserstein GAN follow Chen, Huang & Wang, "Machine unlearning via GAN", 2021. "Real" are the source
model's sorted posteriors on non-members, "fake" the unlearned model's (the generator's) sorted posteriors on D_f.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_unlearn.core.checks import in_range, of_shape, shapes
from lightning_unlearn.functional._checks import as_float, require_classes

__all__ = [
    "generator_loss",
    "gradient_penalty",
    "sort_posteriors",
    "spd_gan_loss",
    "unlearning_degree",
    "wasserstein_critic_loss",
]


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
        epsilon: The :math:`\epsilon`, N values in ``(N,)``, ``(N, 1)`` or alike; ``None`` draws from torch's global
            state.

    Returns:
        A scalar of at least float32, not negative.

    Raises:
        ValueError: If the shapes differ, there is no sample, ``weight`` or ``p`` is out of range, or ``epsilon`` or
            the critic's answer does not hold one number a sample.

    Example:
        >>> import torch
        >>> x = torch.rand(4, 3)
        >>> gradient_penalty(lambda x: x @ torch.tensor([0.0, 0.0, 3.0]), x, x)  # slope 3: 10 * (3 - 1) ** 2
        tensor(40.)
    """
    in_range("weight", weight, "(0, inf)")
    if not p >= 1:  # infinity is a norm
        raise ValueError(f"p must be at least 1 for a norm, got {p}")
    n = len(real)
    if real.shape != fake.shape or real.ndim < 2 or n == 0:
        raise ValueError(f"real and fake must have one shape (N, ...), N > 0, got {shapes(real, fake)}")
    epsilon = torch.rand(n, device=real.device) if epsilon is None else epsilon
    if epsilon.numel() != n:
        raise ValueError(f"epsilon must hold one value a sample, {n} in all, got {shapes(epsilon)}")
    real, fake = real.detach(), fake.detach()
    epsilon = epsilon.to(real).view(n, *(1 for _ in real.shape[1:]))
    mixed = (epsilon * real + (1.0 - epsilon) * fake).requires_grad_()
    scores = critic(mixed)
    if scores.numel() != n:
        raise ValueError(f"critic must return one score a sample, {n} in all, got {shapes(scores)}")
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
    in_range("alpha", alpha, "[0, 1]")
    if retain_ce.ndim != 0:
        raise ValueError(f"retain_ce must be a scalar, got shape {shapes(retain_ce)}; average it")
    return -alpha * _mean_score("fake_scores", fake_scores) + (1.0 - alpha) * retain_ce


def spd_gan_loss(source_logits: Tensor, model_logits: Tensor, targets: Tensor, eta: float = 0.03) -> Tensor:
    r"""Loss of the generator, eq. 13 of SPD-GAN: :math:`loss_M - \eta\,loss_{M_{UL}}`, both cross-entropies on D_p.

    Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", section III-C (slightly
    perturbed distribution GAN). Small where the source model still classifies the perturbed samples correctly and the
    other model does not.
    The second term of eq. 12, :math:`-\log M_{UL}(G(z) + x)`, would reward the other model's success when
    minimised, against the aim stated beside it; eq. 13 and algorithm 2 (lines 7 to 9) agree with the aim and
    are what is computed here.

    Args:
        source_logits: Logits of the source model on D_p, ``(B, C)``, floating point.
        model_logits: Logits of the other model on the same samples, ``(B, C)``.
        targets: True classes, ``(B,)`` int64.
        eta: Weight of the other model's failure, finite and >= 0; the paper uses 0.03.

    Returns:
        A scalar, unbounded below.

    Raises:
        ValueError: If ``eta`` is out of range, the shapes do not fit, or there is no sample.

    Example:
        >>> import torch
        >>> undecided = torch.zeros(1, 2)  # a cross-entropy of log 2
        >>> spd_gan_loss(undecided, undecided, torch.tensor([0]), eta=1.0)
        tensor(0.)
    """
    in_range("eta", eta, "[0, inf)", "; the paper uses 0.03")
    of_shape(source_logits=(source_logits, "N C"), model_logits=(model_logits, "N C"), targets=(targets, "N"))
    return cross_entropy(source_logits, targets) - eta * cross_entropy(model_logits, targets)


def unlearning_degree(source_logits: Tensor, model_logits: Tensor, targets: Tensor) -> float:
    """Accuracy of the source model on D_p minus the other model's, eq. 14 (Zuo et al., section III-C).

    Args:
        source_logits: Logits of the source model on D_p, ``(N, C)``, floating point.
        model_logits: Logits of the other model on the same samples, ``(N, C)``.
        targets: True classes, ``(N,)`` int64.

    Returns:
        The degree in [-1, 1]. The paper gives the range [0, 1 − 1/C], which holds where the source model
        is right on all of D_p and the other model no worse than chance.

    Raises:
        ValueError: If the shapes do not fit, there is no sample, a logit is NaN, or the targets are no integers.

    Example:
        >>> import torch
        >>> source, model = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 2.0], [2.0, 0.0]])
        >>> unlearning_degree(source, model, torch.tensor([0, 0]))
        0.5
    """
    of_shape(source_logits=(source_logits, "N C"), model_logits=(model_logits, "N C"), targets=(targets, "N"))
    for name, logits in (("source_logits", source_logits), ("model_logits", model_logits)):
        if bool(logits.isnan().any()):
            raise ValueError(f"{name} holds NaN, which has no largest class; look at the model that gave it")
    require_classes("targets", targets)
    right, still_right = (
        (logits.argmax(dim=-1) == targets).double() for logits in (source_logits, model_logits)
    )
    return float((right - still_right).mean())


def _mean_score(name: str, scores: Tensor) -> Tensor:
    if scores.numel() == 0:
        raise ValueError(f"{name} holds no sample; skip empty batches")
    return scores.mean(dtype=torch.promote_types(scores.dtype, torch.float32))
