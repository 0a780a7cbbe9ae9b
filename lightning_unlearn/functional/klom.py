"""KLOM: how far the margins of unlearned models are from those of retrained ones, sample by sample.

Everything is computed on the CPU in float64.
"""

import math

import torch
from torch import Tensor

from lightning_unlearn.functional._checks import as_population

__all__ = ["klom"]

_MIN_MODELS = 2


def klom(
    unlearned: Tensor, retrained: Tensor, *, bins: int = 20, clip: float = 100.0, floor: float = 1e-5
) -> Tensor:
    r"""KL divergence of margins, KL(unlearned ‖ retrained), of each sample.

    The margin of a model on a sample is its logit-scaled confidence,
    :func:`~lightning_unlearn.functional.lira.logit_scaled_confidence`. For each sample both populations' margins are
    clipped and counted in bins of equal width between their common smallest and largest, and the shares are compared
    (Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching", 2024, KL divergence of
    margins). Where there are unlearned models and (almost) no retrained ones, the retrained share is taken for
    ``floor``, and the shares are made to sum to 1 again, so that the divergence is finite and not negative. Unlike in
    the published code, the largest margin is counted: in the last bin.

    Its value depends on the number of models: two samples of few models from *one* distribution fill the bins
    differently. So read it beside that of retrained against other retrained models.

    Args:
        unlearned: Margins of N unlearned models on n samples, shape ``(N, n)``, N >= 2.
        retrained: Margins of M retrained models on the same samples, shape ``(M, n)``, M >= 2.
        bins: Number of bins, >= 2.
        clip: Margins beyond ± this are taken for it; above 0.
        floor: Smallest share of retrained models, in ``(0, 1)``.

    Returns:
        Divergence in nats, shape ``(n,)`` float64, from 0 to about ``-ln(floor)``.

    Raises:
        ValueError: If a shape or an option does not fit, there are fewer than 2 models of a kind, or a margin is NaN.

    Example:
        >>> import torch
        >>> margins = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> klom(margins, margins).tolist()
        [0.0]
        >>> round(float(klom(margins + 10.0, margins)), 2)
        10.13
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}; 20 are usual")
    if not (math.isfinite(clip) and clip > 0):
        raise ValueError(f"clip must be a finite number above 0, got {clip}; 100 is usual")
    if not 0.0 < floor < 1.0:
        raise ValueError(f"floor must lie strictly between 0 and 1, got {floor}; 1e-5 is usual")
    u, r = _checked("unlearned", unlearned, clip), _checked("retrained", retrained, clip)
    if u.shape[1] != r.shape[1]:
        raise ValueError(
            f"unlearned and retrained must hold the same samples, got {u.shape[1]} and {r.shape[1]}; both are "
            "(models, samples)"
        )
    low = torch.minimum(u.amin(0), r.amin(0))
    width = (torch.maximum(u.amax(0), r.amax(0)) - low) / bins
    p, q = _shares(u, low, width, bins), _shares(r, low, width, bins)
    q = torch.where(p > 0, q.clamp_min(floor), q)
    q = q / q.sum(1, keepdim=True)
    # of a bin without unlearned models p·ln p is 0, and no logarithm of q is needed
    divergence: Tensor = (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(1)
    return divergence.clamp_min(0.0)


def _checked(name: str, margins: Tensor, clip: float) -> Tensor:
    return as_population(name, margins, "KLOM", _MIN_MODELS, "100 are usual").clamp(-clip, clip)


def _shares(margins: Tensor, low: Tensor, width: Tensor, bins: int) -> Tensor:
    """Share of models in each bin, ``(n, bins)``."""
    # all margins equal: one bin, whichever the width
    place = ((margins - low) / width.where(width > 0, 1.0)).long().clamp_max(bins - 1).T
    counts = torch.zeros(place.shape[0], bins, dtype=torch.float64)
    return counts.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float64)) / place.shape[1]
