"""Compare unlearned with retrained models, sample by sample: forgetting quality and the KL divergence of margins.

The input is one number a model and sample, the logit-scaled confidence φ of
:func:`~lightning_unlearn.functional.logit_scaled_confidence`. Everything is computed on the CPU in float64,
forgetting quality from exact counts.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_unlearn.core.checks import in_range, of_shape, one_of
from lightning_unlearn.functional._checks import as_populations, require_resampling
from lightning_unlearn.functional.statistics import percentiles

__all__ = [
    "ForgettingQualityResult",
    "forgetting_final_score",
    "forgetting_quality",
    "forgetting_quality_intervals",
    "klom",
    "match_confidence",
]

Thresholds = Literal["competition", "all"]

# The competition's constants (scoring code and technical report of the NeurIPS 2023 Machine Unlearning Challenge).
EPSILON_CAP = 50.0
_PER_UNIT = 100  # thresholds in one unit of φ
_MARGIN = (
    2.0  # how far, in units of φ, the grids of the double rule reach beyond where they would match exactly
)
_PEAKED = 0.01  # ratio of the two ranges below which ε is the cap without any counting
_BUCKET = 0.5  # width of a bucket of ε

_STD_FLOOR = 1e-3  # of φ over samples; a model below it answers all of them alike
_MIN_MODELS = 3  # ceil(ln(N - 1)), the largest ε that counts, is 0 below
_MIN_MODELS_KLOM = 2
_BLOCK_PAIRS = 2_000_000  # pairs of thresholds counted at a time (12 bytes each), to bound memory
_DISCARDED = -1.0  # below every ε


class ForgettingQualityResult(NamedTuple):
    """What :func:`forgetting_quality` finds.

    Attributes:
        epsilon: ε of each sample, shape ``(n,)`` float64, in ``[0, 50]``.
        points: Points H of each sample, shape ``(n,)`` float64, in ``[0, 1]``.
        score: Their mean F.
        epsilon_max: The ε from which on there are no points, ``ceil(ln(N - 1))``.
        models: Numbers of unlearned and of retrained models.
    """

    epsilon: Tensor
    points: Tensor
    score: float
    epsilon_max: int
    models: tuple[int, int]


def forgetting_quality(
    unlearned: Tensor, retrained: Tensor, delta: float = 1e-5, thresholds: Thresholds = "competition"
) -> ForgettingQualityResult:
    r"""Forgetting quality F of the NeurIPS 2023 Machine Unlearning Challenge, before the accuracy factors.

    For each sample, attacks that see only φ decide whether a model was unlearned or retrained. An attack with
    false positive rate FPR and false negative rate FNR bounds ε from below by

    .. math:: \max(\ln(1 - \delta - FPR) - \ln FNR, \ln(1 - \delta - FNR) - \ln FPR, 0)

    (Akbari, Morshed & Gaudi, "Machine Unlearning", eq. 1-2), and the sample's ε is the largest bound of all
    attacks, at most 50. Attacks, as the competition scored them:

    - single threshold: the models with the larger median φ are taken to have φ >= t;
    - double threshold: the models whose φ has the smaller range are taken to have l <= φ <= r.

    A threshold without any error gives ε = 50; one with errors of one kind only is discarded, as a sign of too
    few models; and where one range is below 1% of the other, ε is 50. Points are :math:`2^{-\lfloor 2ε \rfloor}`
    below :math:`ε_{max} = \lceil \ln(N - 1) \rceil` and 0 from there on; F is their mean over the samples.

    Even a perfect unlearner is far from 1, because the largest of many noisy bounds counts: at δ = 1e-5 it scores
    about 0.19 with the competition's thresholds and less with all. A bad one's score depends strongly on N. So
    compare F only at one N, and beside the value of retrained against other retrained models.

    Args:
        unlearned: φ of N unlearned models on n samples, shape ``(N, n)``, N >= 3.
        retrained: φ of M retrained models on the same samples, shape ``(M, n)``, M >= 3. With M != N the smaller
            number takes the place of N above.
        delta: δ, in ``[0, 1)``; the competition's is 1e-5.
        thresholds: ``"competition"`` tries the competition's grids: about 100 single thresholds a unit of φ, and
            about 160,000 pairs whose distance differs from the smaller range by at most 2. ``"all"`` tries every
            observed φ and every pair of them, which is stricter. Where no threshold of a sample's grids can be
            used, because its φ lie closer than the grids are fine, the observed φ are tried instead (the
            competition's code stops there); where none of those can either, nothing tells the models apart and
            ε is 0.

    Returns:
        ε and points of each sample, their mean and what they depend on.

    Raises:
        ValueError: If a shape or an option does not fit, there are fewer than 3 models, or a φ is not finite.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> retrained = torch.randn(64, 5, generator=generator)
        >>> forgetting_quality(retrained + 100.0, retrained).epsilon.tolist()
        [50.0, 50.0, 50.0, 50.0, 50.0]
        >>> perfect = forgetting_quality(torch.randn(64, 5, generator=generator), retrained)
        >>> perfect.epsilon_max, 0.0 < perfect.score < 0.5
        (5, True)
    """
    one_of("thresholds", thresholds, "competition", "all")
    in_range("delta", delta, "[0, 1)", "; the competition's is 1e-5")
    advice = "16 give a usable score, the competition took 512"
    kinds = as_populations(unlearned, retrained, "forgetting quality", _MIN_MODELS, advice)
    u, r = (scores.T.contiguous() for scores in kinds)
    epsilon = _epsilon(u, r, delta, thresholds)
    models = (u.shape[1], r.shape[1])
    epsilon_max = math.ceil(math.log(min(models) - 1))
    points = torch.where(epsilon < epsilon_max, torch.exp2(-(epsilon / _BUCKET).floor()), 0.0)
    return ForgettingQualityResult(epsilon, points, float(points.mean()), epsilon_max, models)


def forgetting_final_score(
    score: float,
    *,
    retain_unlearned: float,
    retain_retrained: float,
    test_unlearned: float,
    test_retrained: float,
) -> float:
    """Final score: F times the ratios of retain and test accuracy to the retrained models'.

    Args:
        score: Forgetting quality F, in ``[0, 1]``.
        retain_unlearned: Accuracy on the retain set, mean over the unlearned models, in ``[0, 1]``.
        retain_retrained: The same of the retrained models, in ``(0, 1]``.
        test_unlearned: Accuracy on the test set, mean over the unlearned models, in ``[0, 1]``.
        test_retrained: The same of the retrained models, in ``(0, 1]``.

    Returns:
        The final score, not negative.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> forgetting_final_score(
        ...     0.5, retain_unlearned=0.5, retain_retrained=1.0, test_unlearned=0.75, test_retrained=1.0)
        0.1875
    """
    in_range("score", score, "[0, 1]")
    in_range("retain_unlearned", retain_unlearned, "[0, 1]")
    in_range("retain_retrained", retain_retrained, "(0, 1]")
    in_range("test_unlearned", test_unlearned, "[0, 1]")
    in_range("test_retrained", test_retrained, "(0, 1]")
    return score * (retain_unlearned / retain_retrained) * (test_unlearned / test_retrained)


def forgetting_quality_intervals(
    points: Tensor,
    null_points: Tensor,
    generator: torch.Generator,
    level: float = 0.95,
    resamples: int = 1000,
) -> dict[str, tuple[float, float] | None]:
    """Percentile bootstrap intervals, over the samples, of F, of the null and of their ratio.

    The samples are drawn with replacement, the same ones for both, since their ε vary together. The models are held
    fixed: how far F would move with other models shows in a second set of retrained models, the null itself.

    Args:
        points: Points H of each sample for the unlearned models, shape ``(n,)``.
        null_points: Points of the same samples for retrained against other retrained models, shape ``(n,)``.
        generator: Source of randomness, on the CPU.
        level: Coverage, strictly between 0 and 1.
        resamples: How many resamples, at least 2.

    Returns:
        Lower and upper bound of ``score``, ``null`` and ``relative`` (F over the null); ``None`` for ``relative``
        where the null is so often 0 that its ratio has no bound.

    Raises:
        ValueError: If ``level`` or ``resamples`` is out of range, or the shapes are not one equal ``(n,)``.

    Example:
        >>> import torch
        >>> points = torch.tensor([0.25, 0.5, 0.125, 0.25])
        >>> forgetting_quality_intervals(points, points, torch.Generator().manual_seed(0))["relative"]
        (1.0, 1.0)
    """
    require_resampling(level, resamples)
    of_shape(points=(points, "n"), null_points=(null_points, "n"))
    n = len(points)
    sums = []
    block = max(1, _BLOCK_PAIRS // n)
    for start in range(0, resamples, block):
        drawn = torch.randint(n, (min(block, resamples - start), n), generator=generator)
        sums.append(torch.stack([points[drawn].sum(-1), null_points[drawn].sum(-1)]))
    own, null = torch.cat(sums, dim=1).double()
    found = {"score": own / n, "null": null / n, "relative": torch.where(null > 0, own / null, math.inf)}
    # the nearest resample: interpolating towards an infinite ratio would give NaN
    bounds = {name: percentiles(values, level, nearest=True) for name, values in found.items()}
    return {name: (low, high) if math.isfinite(high) else None for name, (low, high) in bounds.items()}


def klom(
    unlearned: Tensor, retrained: Tensor, *, bins: int = 20, clip: float = 100.0, floor: float = 1e-5
) -> Tensor:
    r"""KL divergence of margins, KL(unlearned ‖ retrained), of each sample.

    The margin of a model on a sample is its logit-scaled confidence,
    :func:`~lightning_unlearn.functional.logit_scaled_confidence`. For each sample both populations' margins are
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
    in_range("bins", bins, "[2, inf)", "; 20 are usual", whole=True)
    in_range("clip", clip, "(0, inf)", "; 100 is usual")
    in_range("floor", floor, "(0, 1)", "; 1e-5 is usual")
    kinds = as_populations(unlearned, retrained, "KLOM", _MIN_MODELS_KLOM, "100 are usual", finite=False)
    u, r = (margins.clamp(-clip, clip) for margins in kinds)
    low = torch.minimum(u.amin(0), r.amin(0))
    width = (torch.maximum(u.amax(0), r.amax(0)) - low) / bins
    p, q = _shares(u, low, width, bins), _shares(r, low, width, bins)
    q = torch.where(p > 0, q.clamp_min(floor), q)
    q = q / q.sum(1, keepdim=True)
    # of a bin without unlearned models p·ln p is 0, and no logarithm of q is needed
    divergence: Tensor = (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(1)
    return divergence.clamp_min(0.0)


def match_confidence(scores: Tensor, unseen: Tensor, references_unseen: Tensor) -> Tensor:
    r"""Shift and scale each model's φ so that on unseen samples it has the references' mean and spread.

    .. math:: φ' = (φ - m) \cdot S / s + M

    with m and s the mean and standard deviation over the unseen samples under the model itself, and M and S their means
    over the reference models. Dividing logits by a temperature divides φ by nearly as much, for memory as for
    mere confidence; on samples that no model was trained on there is only the latter, and it is taken off. What
    differs from sample to sample stays.

    Args:
        scores: φ of N models on n samples, shape ``(N, n)``.
        unseen: φ of the same models on samples that they were not trained on, ``(N, m)``, m >= 2.
        references_unseen: φ of M reference models, retrained ones, on the same unseen samples, ``(M, m)``.

    Returns:
        Matched φ, ``(N, n)`` float64.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> import torch
        >>> references = torch.tensor([[0.0, 2.0, 4.0]])
        >>> match_confidence(torch.tensor([[3.0]]), references / 2, references).tolist()
        [[6.0]]
    """
    own, references = unseen.double(), references_unseen.double()
    of_shape(scores=(scores, "N n"), unseen=(own, "N m"), references_unseen=(references, "M m"))
    in_range("unseen samples", own.shape[1], "[2, inf)", "; one has no spread")
    scale = references.std(1).mean() / own.std(1, keepdim=True).clamp_min(_STD_FLOOR)
    return (scores.double() - own.mean(1, keepdim=True)) * scale + references.mean()


def _shares(margins: Tensor, low: Tensor, width: Tensor, bins: int) -> Tensor:
    """Share of models in each bin, ``(n, bins)``."""
    # all margins equal: one bin, whichever the width
    place = ((margins - low) / width.where(width > 0, 1.0)).long().clamp_max(bins - 1).T
    counts = torch.zeros(place.shape[0], bins, dtype=torch.float64)
    return counts.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float64)) / place.shape[1]


# Scores are held as (n, models), one row a sample. Both populations' scores of a sample are sorted together; a
# threshold is then a position in that order, and an attack a range of positions. The range holds u scores of the
# unlearned models and v of the retrained ones, and ε depends on (u, v) alone: a table has it. The running sums of
# u·M + (u + v) along the order make the place in the table the difference of two of them.


def _epsilon(u: Tensor, r: Tensor, delta: float, thresholds: Thresholds) -> Tensor:
    """ε of each sample, ``(n,)``, for scores of shape ``(n, N)`` and ``(n, M)``."""
    spread_u, spread_r = u.amax(1) - u.amin(1), r.amax(1) - r.amin(1)
    ratio = torch.minimum(spread_u, spread_r) / torch.maximum(spread_u, spread_r)
    # which of two equal medians or equal ranges counts as the larger is the competition's choice
    r_larger = _median(r) > _median(u)
    r_peaked = torch.where(r_larger, spread_r < spread_u, spread_r <= spread_u)
    table = _table(u.shape[1], r.shape[1], delta)
    epsilon = torch.full((len(u),), EPSILON_CAP, dtype=torch.float64)
    left = (~(ratio < _PEAKED)).nonzero().squeeze(1)  # 0 / 0, two constants, is left to counting
    modes: tuple[Thresholds, ...] = ("competition", "all") if thresholds == "competition" else ("all",)
    for mode in modes:
        pairs = (u.shape[1] + r.shape[1]) ** 2 if mode == "all" else (2 * _MARGIN * _PER_UNIT) ** 2
        block = max(1, int(_BLOCK_PAIRS // pairs))
        for start in range(0, len(left), block):
            part = left[start : start + block]
            epsilon[part] = _largest(u[part], r[part], r_larger[part], r_peaked[part], table, mode)
        left = left[epsilon[left] == _DISCARDED]
    epsilon[left] = 0.0
    return epsilon


def _largest(
    u: Tensor, r: Tensor, r_larger: Tensor, r_peaked: Tensor, table: Tensor, mode: Thresholds
) -> Tensor:
    """Largest ε of each sample over the thresholds of both rules, or ``_DISCARDED`` where none can be used."""
    pooled, order = torch.cat([u, r], dim=1).sort(dim=1)
    sums = (order < u.shape[1]).cumsum(1) * r.shape[1] + torch.arange(1, pooled.shape[1] + 1)
    sums = torch.nn.functional.pad(sums, (1, 0)).int()
    if mode == "all":
        single, stops, starts = pooled, pooled, pooled.unsqueeze(1)
    else:
        peaked = torch.where(r_peaked.unsqueeze(1), _extremes(r), _extremes(u))
        single = _grid(pooled[:, 0], pooled[:, -1])
        stops, starts = _pairs(peaked[:, 0], peaked[:, 1])
    below = _sum_at(sums, pooled, single, right=False)
    best = _look_up(table, sums[:, -1:] - below, r_larger)
    inside = _sum_at(sums, pooled, stops, right=True).unsqueeze(2) - _sum_at(
        sums, pooled, starts, right=False
    )
    # an interval that ends before it starts holds nothing
    return torch.maximum(best, _look_up(table, inside.flatten(1).clamp_min_(0), r_peaked))


def _table(n: int, m: int, delta: float) -> Tensor:
    """ε by what a region holds, ``(2, (n + 1) * (m + 1))`` float64: u unlearned and v retrained scores are at
    ``u * (m + 1) + v``; the first row is for regions that are said to be the unlearned models', the second for the
    retrained models'.
    """  # noqa: D205 - one sentence
    u = torch.arange(n + 1, dtype=torch.float64).unsqueeze(1) / n
    v = torch.arange(m + 1, dtype=torch.float64) / m
    return torch.stack([_bound(fpr, fnr, delta).flatten() for fpr, fnr in ((v, 1 - u), (u, 1 - v))])


def _bound(fpr: Tensor, fnr: Tensor, delta: float) -> Tensor:
    """Equation 2 with the competition's handling of error rates of zero."""
    one, other = (1 - delta - fpr).log() - fnr.log(), (1 - delta - fnr).log() - fpr.log()
    # a rate within δ of 1 gives NaN: fmax passes over one, and two, where the attack is always wrong, say nothing
    epsilon = torch.fmax(one, other).clamp(0.0, EPSILON_CAP).nan_to_num(_DISCARDED)
    epsilon = epsilon.masked_fill((fpr == 0) ^ (fnr == 0), _DISCARDED)
    return epsilon.masked_fill((fpr == 0) & (fnr == 0), EPSILON_CAP)


def _look_up(table: Tensor, places: Tensor, second_row: Tensor) -> Tensor:
    """Largest entry at each sample's places, ``(n,)``."""
    places = places + (second_row.int() * table.shape[1]).unsqueeze(1)
    return table.flatten().index_select(0, places.flatten()).view(places.shape).amax(1)


def _sum_at(sums: Tensor, pooled: Tensor, thresholds: Tensor, *, right: bool) -> Tensor:
    """Running sum over the scores below each threshold, those equal to it included if ``right``."""
    flat = thresholds.flatten(1)
    places = torch.searchsorted(pooled, flat, right=right)
    return sums.gather(1, places).view(thresholds.shape)


def _grid(low: Tensor, high: Tensor) -> Tensor:
    """About 100 thresholds a unit from ``low`` to ``high``, a row a sample; short rows repeat their last one."""
    numbers = ((high - low) * _PER_UNIT).ceil().clamp_min(1)
    place = torch.arange(int(numbers.max()), dtype=torch.float64)
    low, high, last = low.unsqueeze(1), high.unsqueeze(1), (numbers - 1).unsqueeze(1)
    # written like numpy.linspace, whose rounding decides where a threshold meets a score
    inner = place * ((high - low) / last.clamp_min(1)) + low
    return torch.where((place >= last) & (last > 0), high, inner.where(last > 0, low))


def _pairs(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Right ends ``(n, R)`` and, for each, left ends ``(n, R, 400)`` of the double rule, low and high the peaked
    models' smallest and largest φ.
    """  # noqa: D205 - one sentence
    width = high - low
    stops = _grid(low + width - _MARGIN, high + _MARGIN)
    first, last = stops - width.unsqueeze(1) - _MARGIN, stops - width.unsqueeze(1) + _MARGIN
    number = math.ceil(2 * _MARGIN * _PER_UNIT)
    first, last = first.unsqueeze(2), last.unsqueeze(2)
    starts = torch.arange(number, dtype=torch.float64) * ((last - first) / (number - 1)) + first
    starts[..., -1:] = last
    return stops, starts


def _extremes(scores: Tensor) -> Tensor:
    return torch.stack([scores.amin(1), scores.amax(1)], dim=1)


def _median(scores: Tensor) -> Tensor:
    ordered, k = scores.sort(1).values, scores.shape[1]
    return (ordered[:, (k - 1) // 2] + ordered[:, k // 2]) / 2
