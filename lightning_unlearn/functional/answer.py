"""Answer, from per-sample scores before and after, whether samples were forgotten: shown, not shown, or cannot tell."""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from torch import Tensor

from lightning_unlearn.functional._checks import as_scores
from lightning_unlearn.functional.membership import auc, population_attack_scores

__all__ = ["Answer", "Estimate", "Outcome", "answer", "auc_estimate", "share_estimate"]

Outcome = Literal["shown", "not shown", "cannot tell"]

_LEVEL = 0.95
_Z = 1.959963984540054
_MOST = 100  # times the samples; nobody is told to bring more


class Estimate(NamedTuple):
    """A value with its 95% interval over samples.

    Attributes:
        value: The value.
        low: Lower end, at most the value.
        high: Upper end, at least the value.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Answer:
    """Whether samples were forgotten.

    Attributes:
        outcome: The answer.
        before: The source's value.
        after: The unlearned model's.
        target: That of samples, or of a model, to which nothing was taught.
        samples: Number of samples to forget.
        needed: About how many would tell, with as many unseen ones, if the values stay; ``None`` where it is told, or
            no hundred times as many would.
        traced: Whether the source itself shows a trace.
        within: How near to the target is near enough.
    """

    outcome: Outcome
    before: Estimate
    after: Estimate
    target: float
    samples: int
    needed: int | None
    traced: bool
    within: float


def share_estimate(hits: Tensor) -> Estimate:
    """Return a share with its exact interval: Clopper & Pearson, 1934.

    Args:
        hits: One truth value a sample, ``(N,)``, N > 0.

    Example:
        >>> import torch
        >>> [round(end, 3) for end in share_estimate(torch.tensor([True] * 5))]
        [1.0, 0.478, 1.0]
    """
    from scipy import stats

    size, found = len(hits), int(hits.sum())
    ends = stats.binomtest(found, size).proportion_ci(_LEVEL, method="exact")
    return Estimate(found / size, float(ends.low), float(ends.high))


def auc_estimate(forget: Tensor, nonmember: Tensor) -> Estimate:
    """Return the area under an attack's curve with its interval: the wider end of two.

    The score interval of Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic, part 2", 2006, method 5, is right for few samples and at 0 and 1, where the estimated variance is 0. That
    of DeLong et al., 1988, is right for scores of any distribution.

    Args:
        forget: Scores of the forget set, ``(N,)``, N > 0; higher, or always lower, for "was trained on".
        nonmember: Scores of samples never trained on, ``(M,)``, M > 0.

    Raises:
        ValueError: If the scores are not one-dimensional, are empty or hold NaN.

    Example:
        >>> import torch
        >>> [round(end, 2) for end in auc_estimate(torch.arange(100) + 20.0, torch.arange(100))]
        [0.68, 0.6, 0.75]
    """
    value = auc(forget, nonmember)
    ours, theirs = as_scores("forget", forget), as_scores("nonmember", nonmember)
    n, m = len(ours), len(theirs)
    places = (population_attack_scores(ours, theirs), population_attack_scores(theirs, ours))
    spread = _Z * math.sqrt(sum(float(place.var(correction=0)) / len(place) for place in places))

    def beyond(area: float) -> bool:
        """Whether the value found would be a surprise if this were the true area."""
        variance = (1 - area) / (2 - area) + area / (1 + area)
        variance = area * (1 - area) * (1 + ((n + m) / 2 - 1) * variance) / (n * m)
        return (area - value) ** 2 > _Z**2 * variance

    ends = []
    for end in (0.0, 1.0):  # halving between the end, which is beyond, and the value, which is not
        near = value
        for _ in range(50):
            middle = (near + end) / 2
            near, end = (near, middle) if beyond(middle) else (middle, end)
        ends.append(near)
    return Estimate(value, max(0.0, min(ends[0], value - spread)), min(1.0, max(ends[1], value + spread)))


def answer(
    before: Estimate,
    after: Estimate,
    target: float,
    *,
    samples: int,
    compared: bool = False,
    below: bool = False,
    most: float = math.inf,
) -> Answer:
    """Answer whether samples were forgotten.

    *Shown*: the source's interval lies above the target, and the unlearned model's within half that gap of it. *Not
    shown*: it lies wholly outside. *Cannot tell* otherwise: the source shows no trace, or there are too few samples.

    Args:
        before: The source's value.
        after: The unlearned model's, of the same measure on the same samples.
        target: The value of samples, or of a model, to which nothing was taught.
        samples: Number of samples to forget.
        compared: Whether the target is that of a retrained model, so that a source below it shows a trace as well.
            Samples that are less known than unseen ones are otherwise only harder.
        below: Whether an unlearned model beyond the target, seen from the source, is fine, as for wrong labels;
            otherwise samples that look less known than unseen ones can be told from them just as well.
        most: The farthest from the target that is near enough, however wide the gap.

    Example:
        >>> answer(Estimate(0.57, 0.54, 0.60), Estimate(0.50, 0.48, 0.52), 0.5, samples=1000).outcome
        'shown'
        >>> answer(Estimate(0.57, 0.54, 0.60), Estimate(0.57, 0.54, 0.60), 0.5, samples=1000).outcome
        'not shown'
    """
    gap = before.value - target
    side = math.copysign(1.0, gap)
    low, value, high = sorted(side * (end - target) for end in after)  # the source's side is the positive one
    half = min(abs(gap) / 2, most)
    traced = before.low > target or (compared and before.high < target)
    least = -math.inf if below else -half
    result = Answer("cannot tell", before, after, target, samples, None, traced, half)
    if traced and least <= low and high <= half:
        return replace(result, outcome="shown")
    if traced and (low > half or high < least):
        return replace(result, outcome="not shown")
    room = abs((value if below else abs(value)) - half)
    width = max(after.high - after.value, after.value - after.low)
    from_target = before.value - before.low if gap > 0 else before.high - before.value
    more = room and (gap > 0 or (compared and gap < 0))  # whether more samples could show anything
    needed = samples * max(from_target / abs(gap), width / room) ** 2 if more else math.inf
    return replace(result, needed=None if needed > _MOST * samples else max(samples + 1, math.ceil(needed)))
