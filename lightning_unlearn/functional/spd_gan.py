"""Loss and score of the slightly perturbed distribution GAN (SPD-GAN). No networks, no loops, no state.

Both follow Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", section III-C.
"""

import math

from torch import Tensor
from torch.nn.functional import cross_entropy

__all__ = ["spd_gan_loss", "unlearning_degree"]


def spd_gan_loss(source_logits: Tensor, model_logits: Tensor, targets: Tensor, eta: float = 0.03) -> Tensor:
    r"""Loss of the generator, eq. 13: :math:`loss_M - \eta\,loss_{M_{UL}}`, both cross-entropies on D_p.

    Small where the source model still classifies the perturbed samples correctly and the other model does not.
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
    if not (math.isfinite(eta) and eta >= 0):
        raise ValueError(f"eta must be a finite number of at least 0, got {eta}; the paper uses 0.03")
    _check_pair(source_logits, model_logits, targets)
    return cross_entropy(source_logits, targets) - eta * cross_entropy(model_logits, targets)


def unlearning_degree(source_logits: Tensor, model_logits: Tensor, targets: Tensor) -> float:
    """Accuracy of the source model on D_p minus the other model's, eq. 14.

    Args:
        source_logits: Logits of the source model on D_p, ``(N, C)``, floating point.
        model_logits: Logits of the other model on the same samples, ``(N, C)``.
        targets: True classes, ``(N,)`` int64.

    Returns:
        The degree in [-1, 1]. The paper gives the range [0, 1 − 1/C], which holds where the source model
        is right on all of D_p and the other model no worse than chance.

    Raises:
        ValueError: If the shapes do not fit, or there is no sample.

    Example:
        >>> import torch
        >>> source, model = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 2.0], [2.0, 0.0]])
        >>> unlearning_degree(source, model, torch.tensor([0, 0]))
        0.5
    """
    _check_pair(source_logits, model_logits, targets)
    right, still_right = (
        (logits.argmax(dim=-1) == targets).double() for logits in (source_logits, model_logits)
    )
    return float((right - still_right).mean())


def _check_pair(source_logits: Tensor, model_logits: Tensor, targets: Tensor) -> None:
    if source_logits.shape != model_logits.shape or source_logits.ndim != 2:
        raise ValueError(
            f"source_logits and model_logits must have one shape (N, C), got {tuple(source_logits.shape)} and "
            f"{tuple(model_logits.shape)}; ask both models about the same perturbed samples"
        )
    if targets.shape != source_logits.shape[:1] or len(targets) == 0:
        raise ValueError(
            f"targets must hold one class for each row of the logits and at least one, got shape "
            f"{tuple(targets.shape)} beside {tuple(source_logits.shape)}"
        )
