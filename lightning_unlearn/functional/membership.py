"""How well a membership inference attack tells D_f from samples never trained on, and the population attack.

Scores are one number a sample, higher for "was trained on"; decisions (booleans) are scores of 0 and 1.
"Member" below means a sample of D_f, whether or not the attacked model still remembers it. Everything is
computed on the CPU from exact counts in float64.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_unlearn.core.checks import in_range, of_shape
from lightning_unlearn.functional._checks import as_scores, require_resampling
from lightning_unlearn.functional.statistics import percentiles

__all__ = [
    "auc",
    "bootstrap_intervals",
    "confusion_matrix",
    "guessed_tpr",
    "membership_rates",
    "population_attack_scores",
    "ranking_intervals",
    "ranking_rates",
    "roc_curve",
    "tpr_at_fpr",
]

# The report's low-FPR operating point, `tpr_at_1pct_fpr`.
LOW_FPR = 0.01
# Attacks without a natural threshold are read at both.
LOW_FPRS = {"tpr_at_1pct_fpr": LOW_FPR, "tpr_at_0.1pct_fpr": 0.001}
# Bootstrap histograms are built in blocks of at most this many counts (8 bytes each), to bound memory.
_BLOCK_COUNTS = 4_000_000


def roc_curve(forget_scores: Tensor, nonmember_scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Receiver operating characteristic of the attack: one point for each distinct score.

    Args:
        forget_scores: Scores of D_f, shape ``(N,)``.
        nonmember_scores: Scores of non-members, shape ``(M,)``.

    Returns:
        False positive rates, true positive rates and thresholds (member if score >= threshold), float64, from
        ``(0, 0)`` at threshold infinity to ``(1, 1)``.

    Raises:
        ValueError: If the scores are not one-dimensional, are empty or hold NaN.

    Example:
        >>> import torch
        >>> fpr, tpr, thresholds = roc_curve(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]))
        >>> fpr.tolist(), tpr.tolist(), thresholds.tolist()
        ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0], [inf, 3.0, 2.0, 1.0])
    """
    scores, forget_counts, nonmember_counts = _histograms(forget_scores, nonmember_scores)
    start = torch.zeros(1, dtype=torch.float64)
    fpr = torch.cat([start, _share_from_top(nonmember_counts).flip(-1)])
    tpr = torch.cat([start, _share_from_top(forget_counts).flip(-1)])
    return fpr, tpr, torch.cat([start + math.inf, scores.flip(-1)])


def auc(forget_scores: Tensor, nonmember_scores: Tensor) -> float:
    """Area under the attack's receiver operating characteristic.

    It is the Mann-Whitney statistic: the chance that a random sample of D_f scores above a random non-member,
    ties counting one half. 0.5 is blind guessing.

    Args:
        forget_scores: Scores of D_f, shape ``(N,)``.
        nonmember_scores: Scores of non-members, shape ``(M,)``.

    Returns:
        The area, in ``[0, 1]``.

    Raises:
        ValueError: If the scores are not one-dimensional, are empty or hold NaN.

    Example:
        >>> import torch
        >>> auc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]))
        0.875
    """
    _, forget_counts, nonmember_counts = _histograms(forget_scores, nonmember_scores)
    return float(_auc(forget_counts, nonmember_counts))


def tpr_at_fpr(forget_scores: Tensor, nonmember_scores: Tensor, fpr: float = LOW_FPR) -> float:
    """Largest true positive rate of any threshold whose false positive rate does not exceed ``fpr``.

    Args:
        forget_scores: Scores of D_f, shape ``(N,)``.
        nonmember_scores: Scores of non-members, shape ``(M,)``. Below ``M = 1 / fpr`` no false positive is
            allowed.
        fpr: The false positive rate allowed, in ``[0, 1]``.

    Returns:
        The rate, in ``[0, 1]``; a random score gives about ``fpr``.

    Raises:
        ValueError: If ``fpr`` is out of range or the scores are not one-dimensional, are empty or hold NaN.

    Example:
        >>> import torch
        >>> tpr_at_fpr(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]), fpr=0.01)
        0.5
    """
    in_range("fpr", fpr, "[0, 1]")
    _, forget_counts, nonmember_counts = _histograms(forget_scores, nonmember_scores)
    return float(_tpr_at_fpr(forget_counts, nonmember_counts, fpr))


def guessed_tpr(nonmembers: int, fpr: float = LOW_FPR) -> float:
    """True positive rate that guessing has at a low false positive rate, on average: :math:`(k + 1) / (M + 1)`.

    Where at most k of M non-members may score above the threshold, it lies at the next one's score, and a random sample
    of D_f is as likely above it as below any other.

    Args:
        nonmembers: M, at least 1.
        fpr: The false positive rate allowed, in ``[0, 1)``; k is the most with ``k / M <= fpr``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> round(guessed_tpr(100), 4), round(guessed_tpr(99), 4), round(guessed_tpr(100_000), 4)
        (0.0198, 0.01, 0.01)
    """
    in_range("nonmembers", nonmembers, "[1, inf)", whole=True)
    in_range("fpr", fpr, "[0, 1)")
    allowed = int(fpr * nonmembers)
    allowed += (allowed + 1) / nonmembers <= fpr  # the product may have been rounded down
    return (allowed + 1) / (nonmembers + 1)


def confusion_matrix(forget_scores: Tensor, nonmember_scores: Tensor, threshold: float = 0.5) -> Tensor:
    """Counts of the attack's decisions at a threshold.

    Args:
        forget_scores: Scores of D_f, shape ``(N,)``.
        nonmember_scores: Scores of non-members, shape ``(M,)``.
        threshold: A sample is inferred as member if its score is at least this.

    Returns:
        int64 tensor ``[[TP, FN], [FP, TN]]``: rows are D_f and non-members, columns "member" and
        "non-member".

    Raises:
        ValueError: If ``threshold`` is NaN or the scores are not one-dimensional, are empty or hold NaN.

    Example:
        >>> import torch
        >>> confusion_matrix(torch.tensor([0.9, 0.8, 0.2]), torch.tensor([0.1, 0.6]))
        tensor([[2, 1],
                [1, 1]])
    """
    _require_threshold(threshold)
    forget = _checked("forget_scores", forget_scores) >= threshold
    nonmember = _checked("nonmember_scores", nonmember_scores) >= threshold
    return torch.stack([torch.stack([d.sum(), (~d).sum()]) for d in (forget, nonmember)])


def membership_rates(
    forget_scores: Tensor, nonmember_scores: Tensor, threshold: float = 0.5
) -> dict[str, float]:
    """All rates of the report at once.

    Args:
        forget_scores: Scores of D_f, shape ``(N,)``.
        nonmember_scores: Scores of non-members, shape ``(M,)``.
        threshold: A sample is inferred as member if its score is at least this; ``auc`` and
            ``tpr_at_1pct_fpr`` do not depend on it.

    Returns:
        Rates in ``[0, 1]``:

        - ``hit_rate``: share of D_f inferred as member; read it beside ``fpr``.
        - ``auc``: see :func:`auc`.
        - ``fnr``: share of D_f inferred as non-member, FN / (TP + FN): Chen, Huang & Wang, "Machine
          unlearning via GAN", 2021, eq. 7.
        - ``fpr``: share of non-members inferred as member.
        - ``balanced_accuracy``: mean of ``1 - fnr`` and ``1 - fpr``; 0.5 is blind guessing.
        - ``tpr_at_1pct_fpr``: see :func:`tpr_at_fpr`.

    Raises:
        ValueError: If ``threshold`` is NaN or the scores are not one-dimensional, are empty or hold NaN.

    Example:
        >>> import torch
        >>> rates = membership_rates(torch.tensor([0.9, 0.8, 0.6, 0.2]), torch.tensor([0.1, 0.7]))
        >>> rates["hit_rate"], rates["fnr"], rates["fpr"], rates["balanced_accuracy"]
        (0.75, 0.25, 0.5, 0.625)
    """
    _require_threshold(threshold)
    scores, forget_counts, nonmember_counts = _histograms(forget_scores, nonmember_scores)
    rates = _rates(scores, forget_counts, nonmember_counts, threshold)
    return {name: float(value) for name, value in rates.items()}


def bootstrap_intervals(
    forget_scores: Tensor,
    nonmember_scores: Tensor,
    generator: torch.Generator,
    threshold: float = 0.5,
    level: float = 0.95,
    resamples: int = 1000,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of all rates of :func:`membership_rates`.

    D_f and the non-members are resampled apart, each with replacement to its own size. The intervals hold the
    variation due to the samples, not that due to training. Where a rate sits at 0 or 1 they are too narrow,
    as every bootstrap is.

    Args:
        forget_scores: Scores of D_f, shape ``(N,)``.
        nonmember_scores: Scores of non-members, shape ``(M,)``.
        generator: Source of randomness, on the CPU.
        threshold: A sample is inferred as member if its score is at least this.
        level: Coverage of the interval, strictly between 0 and 1.
        resamples: How many resamples, at least 2.

    Returns:
        Lower and upper bound by name of the rate.

    Raises:
        ValueError: If ``level`` or ``resamples`` is out of range, ``threshold`` is NaN, the generator is not
            on the CPU or the scores are not one-dimensional, are empty or hold NaN.

    Example:
        >>> import torch
        >>> forget, nonmember = torch.linspace(0, 1, 100), torch.linspace(-0.5, 0.5, 100)
        >>> low, high = bootstrap_intervals(forget, nonmember, torch.Generator().manual_seed(0))["auc"]
        >>> low < auc(forget, nonmember) < high
        True
    """
    _require_threshold(threshold)

    def rates(scores: Tensor, forget_counts: Tensor, nonmember_counts: Tensor) -> dict[str, Tensor]:
        return _rates(scores, forget_counts, nonmember_counts, threshold)

    return _intervals(forget_scores, nonmember_scores, rates, generator, level, resamples)


def ranking_rates(forget_scores: Tensor, nonmember_scores: Tensor) -> dict[str, float]:
    """The rates that an attack has whose scores have no natural threshold.

    Args:
        forget_scores: Scores of D_f, shape ``(N,)``.
        nonmember_scores: Scores of non-members, shape ``(M,)``.

    Returns:
        Rates in ``[0, 1]``: ``auc``, see :func:`auc`, and ``tpr_at_1pct_fpr`` and ``tpr_at_0.1pct_fpr``, see
        :func:`tpr_at_fpr`.

    Raises:
        ValueError: If the scores are not one-dimensional, are empty or hold NaN.

    Example:
        >>> import torch
        >>> ranking_rates(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]))
        {'auc': 0.875, 'tpr_at_1pct_fpr': 0.5, 'tpr_at_0.1pct_fpr': 0.5}
    """
    rates = _ranking_rates(*_histograms(forget_scores, nonmember_scores))
    return {name: float(value) for name, value in rates.items()}


def ranking_intervals(
    forget_scores: Tensor,
    nonmember_scores: Tensor,
    generator: torch.Generator,
    level: float = 0.95,
    resamples: int = 1000,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of all rates of :func:`ranking_rates`, as :func:`bootstrap_intervals` has them.

    Args:
        forget_scores: Scores of D_f, shape ``(N,)``.
        nonmember_scores: Scores of non-members, shape ``(M,)``.
        generator: Source of randomness, on the CPU.
        level: Coverage of the interval, strictly between 0 and 1.
        resamples: How many resamples, at least 2.

    Returns:
        Lower and upper bound by name of the rate.

    Raises:
        ValueError: If ``level`` or ``resamples`` is out of range, the generator is not on the CPU or the scores are
            not one-dimensional, are empty or hold NaN.
    """
    return _intervals(forget_scores, nonmember_scores, _ranking_rates, generator, level, resamples)


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
    own, others = _checked("losses", losses), _checked("nonmember_losses", nonmember_losses)
    others = others.sort().values
    lower = torch.searchsorted(others, own)
    not_higher = torch.searchsorted(others, own, right=True)
    return 1.0 - (lower + not_higher).double() / (2 * len(others))


def _require_threshold(threshold: float) -> None:
    if math.isnan(threshold):
        raise ValueError("threshold must be a number, got nan; choose it on the shadow sets")


def _checked(name: str, scores: Tensor) -> Tensor:
    of_shape(**{name: (scores, "N")})
    return as_scores(name, scores)


def _ranks(forget_scores: Tensor, nonmember_scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct scores, ascending, and the place among them of each score of D_f and of the non-members."""
    forget = _checked("forget_scores", forget_scores)
    nonmember = _checked("nonmember_scores", nonmember_scores)
    scores, ranks = torch.unique(torch.cat([forget, nonmember]), return_inverse=True)
    return scores, ranks[: forget.numel()], ranks[forget.numel() :]


def _histograms(forget_scores: Tensor, nonmember_scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct scores, ascending, and how often each occurs in D_f and among the non-members."""
    scores, *ranks = _ranks(forget_scores, nonmember_scores)
    forget_counts, nonmember_counts = (torch.bincount(part, minlength=len(scores)) for part in ranks)
    return scores, forget_counts, nonmember_counts


def _intervals(
    forget_scores: Tensor,
    nonmember_scores: Tensor,
    rates: Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]],
    generator: torch.Generator,
    level: float,
    resamples: int,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of rates, each computed of a block of resamples at once."""
    require_resampling(level, resamples)
    if generator.device.type != "cpu":
        raise ValueError(f"generator must be on the CPU, got {generator.device}; pass torch.Generator()")
    scores, forget_ranks, nonmember_ranks = _ranks(forget_scores, nonmember_scores)
    block = max(1, _BLOCK_COUNTS // max(map(len, (scores, forget_ranks, nonmember_ranks))))
    blocks: list[dict[str, Tensor]] = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        forget_counts = _resampled_counts(forget_ranks, scores.numel(), rows, generator)
        nonmember_counts = _resampled_counts(nonmember_ranks, scores.numel(), rows, generator)
        blocks.append(rates(scores, forget_counts, nonmember_counts))
    return {name: percentiles(torch.cat([part[name] for part in blocks]), level) for name in blocks[0]}


def _resampled_counts(ranks: Tensor, distinct: int, rows: int, generator: torch.Generator) -> Tensor:
    """Histograms of ``rows`` resamples with replacement, shape ``(rows, distinct)``."""
    drawn = ranks[torch.randint(ranks.numel(), (rows, ranks.numel()), generator=generator)]
    drawn += distinct * torch.arange(rows).unsqueeze(1)
    return torch.bincount(drawn.flatten(), minlength=rows * distinct).view(rows, distinct)


# The functions below take histograms over the ascending distinct scores, shape (..., distinct), and so serve
# one data set and a block of resamples alike.


def _share_from_top(counts: Tensor) -> Tensor:
    """Share of samples that score at least as high as each distinct score."""
    return counts.flip(-1).cumsum(-1).flip(-1).double() / counts.sum(-1, keepdim=True)


def _auc(forget_counts: Tensor, nonmember_counts: Tensor) -> Tensor:
    below = nonmember_counts.cumsum(-1) - nonmember_counts
    wins = (forget_counts * (below + 0.5 * nonmember_counts.double())).sum(-1)
    return wins / (forget_counts.sum(-1) * nonmember_counts.sum(-1))


def _tpr_at_fpr(forget_counts: Tensor, nonmember_counts: Tensor, fpr: float) -> Tensor:
    return tpr_at(_share_from_top(forget_counts), _share_from_top(nonmember_counts), fpr)


def tpr_at(tpr: Tensor, fpr: Tensor, allowed: float) -> Tensor:
    """Largest true positive rate of the points ``(..., points)`` of a curve whose false positive rate is allowed."""
    return torch.where(fpr <= allowed, tpr, 0.0).amax(-1)


def _rates(
    scores: Tensor, forget_counts: Tensor, nonmember_counts: Tensor, threshold: float
) -> dict[str, Tensor]:
    inferred = scores >= threshold
    tpr = (forget_counts * inferred).sum(-1).double() / forget_counts.sum(-1)
    fpr = (nonmember_counts * inferred).sum(-1).double() / nonmember_counts.sum(-1)
    return {
        "hit_rate": tpr,
        "auc": _auc(forget_counts, nonmember_counts),
        "fnr": 1.0 - tpr,
        "fpr": fpr,
        "balanced_accuracy": 0.5 * (tpr + 1.0 - fpr),
        "tpr_at_1pct_fpr": _tpr_at_fpr(forget_counts, nonmember_counts, LOW_FPR),
    }


def _ranking_rates(scores: Tensor, forget_counts: Tensor, nonmember_counts: Tensor) -> dict[str, Tensor]:
    low = {name: _tpr_at_fpr(forget_counts, nonmember_counts, fpr) for name, fpr in LOW_FPRS.items()}
    return {"auc": _auc(forget_counts, nonmember_counts), **low}
