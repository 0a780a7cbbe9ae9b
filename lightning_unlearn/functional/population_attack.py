"""Population attack: is a sample's loss lower than that of samples never trained on? Needs no further model.

Everything is computed on the CPU in float64.
"""

import torch
from torch import Tensor

__all__ = ["population_attack_scores"]


def population_attack_scores(losses: Tensor, nonmember_losses: Tensor) -> Tensor:
    """Share of non-members whose loss is higher, those of equal loss counting one half.

    Taking samples with a score of at least ``1 - α`` for members has a false positive rate of about α: the loss
    threshold is then the α-quantile of the non-members' losses (Ye et al., "Enhanced Membership Inference Attacks
    against Machine Learning Models", 2022, attack P). Counted on these same non-members, the false positive rate comes
    out too low by less than 1 / (m + 1) on average.

    Args:
        losses: Losses of the attacked samples under one model, shape ``(n,)``; any score that is lower for members.
        nonmember_losses: Losses of non-members under the same model, shape ``(m,)``.

    Returns:
        Scores, shape ``(n,)`` float64, in ``[0, 1]``; higher for "was trained on".

    Raises:
        ValueError: If the losses are not one-dimensional, hold NaN, or there are no non-members.

    Example:
        >>> import torch
        >>> population_attack_scores(torch.tensor([0.1, 2.0, 9.0]), torch.tensor([1.0, 2.0])).tolist()
        [1.0, 0.25, 0.0]
    """
    own, others = (
        _checked("losses", losses),
        _checked("nonmember_losses", nonmember_losses).sort().values,
    )
    if not len(others):
        raise ValueError("nonmember_losses is empty; the attack needs samples that were never trained on")
    lower = torch.searchsorted(others, own)
    not_higher = torch.searchsorted(others, own, right=True)
    return 1.0 - (lower + not_higher).double() / (2 * len(others))


def _checked(name: str, losses: Tensor) -> Tensor:
    if losses.ndim != 1:
        raise ValueError(f"{name} must be one loss a sample, shape (n,), got {tuple(losses.shape)}")
    losses = losses.detach().to("cpu", torch.float64)
    if bool(losses.isnan().any()):
        raise ValueError(f"{name} holds NaN; look for a non-finite logit in the attacked model")
    return losses
