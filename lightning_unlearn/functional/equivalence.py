"""Decide whether a method ends where retraining ends: equivalence tests on scores paired by seed.

Scores of one metric are a table ``(M, S)``: a row a model, a column a seed. A difference between two models is taken
within each seed; its noise is the residual of the additive model *score = model + seed*, shared by all models whose
noise is alike. Schuirmann, "A comparison of the two one-sided tests procedure ...", 1987; Cochran, "The distribution of
the largest of a set of estimated variances", 1941; Fieller, "Some problems in interval estimation", 1954.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "Difference",
    "Noise",
    "cochran",
    "contrast",
    "holm",
    "paired_difference",
    "pooled_noise",
    "room_to_halfway",
    "seeds_to_decide",
    "share_of_gap",
]

Array = np.ndarray[Any, Any]


class Noise(NamedTuple):
    """The noise of one score of one model in one seed.

    Attributes:
        variance: Residual mean square of the models in the pool; NaN where fewer than two are left.
        df: Its degrees of freedom.
        apart: For each model whether its variance stands out, so that it is judged by its own.
    """

    variance: float
    df: int
    apart: tuple[bool, ...]


class Difference(NamedTuple):
    """A mean difference over seeds.

    Attributes:
        mean: The mean.
        se: Its standard error.
        df: Degrees of freedom of the standard error.
    """

    mean: float
    se: float
    df: int

    def interval(self, level: float) -> tuple[float, float]:
        """Return the two-sided interval at ``level``, by Student's t."""
        from scipy import stats

        half = float(stats.t.ppf(0.5 + level / 2, self.df)) * self.se
        return self.mean - half, self.mean + half

    def p_inside(self, margin: float, *, below_only: bool = False) -> float:
        """Return the p-value of two one-sided tests: small where the true difference lies within ``± margin``.

        Args:
            margin: The largest difference that does not matter, >= 0.
            below_only: Whether only a loss matters: small where the true difference is above ``-margin``.
        """
        return self._tail(margin + self.mean if below_only else margin - abs(self.mean))

    def p_outside(self, margin: float, *, below_only: bool = False) -> float:
        """Return the p-value against "within ``± margin``" (or "above ``-margin``"): small where it lies outside."""
        beyond = self._tail(-self.mean - margin if below_only else abs(self.mean) - margin)
        return beyond if below_only else min(1.0, 2 * beyond)

    def p_above(self) -> float:
        """Return the p-value against "at most 0": small where the true difference is above 0."""
        return self._tail(self.mean)

    def p_below(self) -> float:
        """Return the p-value against "at least 0": small where the true difference is below 0."""
        return self._tail(-self.mean)

    def _tail(self, distance: float) -> float:
        """Return how likely chance alone brings a mean this far."""
        from scipy import stats

        if self.se == 0:
            return 0.0 if distance > 0 else 1.0
        return float(stats.t.sf(distance / self.se, self.df))


def pooled_noise(scores: Array, *, floor: float = 0.0, level: float = 0.01) -> Noise:
    """Estimate the noise that all models share, leaving out those whose variance stands out.

    A model leaves the pool while its share of all residual variance exceeds Cochran's critical value.

    Args:
        scores: Scores of one metric, ``(M, S)`` with M >= 2 models and S >= 2 seeds, all finite.
        floor: The least variance of a score, such as p(1 - p)/n of an accuracy over n samples: three equal
            accuracies do not show that there is no noise.
        level: Level of Cochran's test.

    Raises:
        ValueError: If there are fewer than two models or seeds, or a score is not finite.

    Example:
        >>> scores = np.array([[90.0, 91.0, 92.0], [80.0, 81.5, 81.5]])
        >>> pooled_noise(scores)
        Noise(variance=0.125, df=2, apart=(False, False))
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 2 or min(scores.shape) < 2 or not np.isfinite(scores).all():
        raise ValueError(
            f"scores must be finite, of at least 2 models (rows) and 2 seeds (columns), got shape {scores.shape}"
        )
    apart = np.zeros(len(scores), dtype=bool)
    while True:
        pool = scores[~apart]
        residuals = pool - pool.mean(0) - pool.mean(1, keepdims=True) + pool.mean()
        squares = np.square(residuals).sum(1)
        df = (len(pool) - 1) * (scores.shape[1] - 1)
        worst = int(squares.argmax())
        if len(pool) <= 2 or squares[worst] <= cochran(len(pool), scores.shape[1] - 1, level) * squares.sum():
            return Noise(max(float(squares.sum()) / df, floor), df, tuple(map(bool, apart)))
        apart[np.flatnonzero(~apart)[worst]] = True


def cochran(groups: int, df: int, level: float = 0.01) -> float:
    """Return the critical share of the largest of ``groups`` variances, each with ``df`` degrees of freedom."""
    from scipy import stats

    quantile = float(stats.f.ppf(1 - level / groups, df, (groups - 1) * df))
    return 1 / (1 + (groups - 1) / quantile)


def paired_difference(scores: Array, one: int, other: int, noise: Noise, *, floor: float = 0.0) -> Difference:
    """Return the mean of ``scores[one] - scores[other]`` over seeds, with its standard error.

    Args:
        scores: Scores of one metric, ``(M, S)``.
        one: Row of the first model.
        other: Row of the second.
        noise: What :func:`pooled_noise` gave for the scores; a model that is apart is judged by its own.
        floor: The least variance of a score.
    """
    weights = np.zeros(len(scores))
    weights[one] += 1
    weights[other] -= 1
    return contrast(scores, weights, noise, floor=floor)


def contrast(scores: Array, weights: Array, noise: Noise, *, floor: float = 0.0) -> Difference:
    """Return the mean over seeds of a weighted sum of models, with its standard error.

    Args:
        scores: Scores of one metric, ``(M, S)``.
        weights: One weight a model, ``(M,)``.
        noise: What :func:`pooled_noise` gave for the scores; where a model takes part that stands apart, the sum is
            judged by its own.
        floor: The least variance of a score.
    """
    sums = np.asarray(weights, dtype=float) @ np.asarray(scores, dtype=float)
    seeds, scale = len(sums), float(np.square(weights).sum())
    if any(apart and weight for apart, weight in zip(noise.apart, weights, strict=True)):
        own = max(float(sums.var(ddof=1)), scale * floor)
        return Difference(float(sums.mean()), math.sqrt(own / seeds), seeds - 1)
    return Difference(float(sums.mean()), math.sqrt(scale * noise.variance / seeds), noise.df)


def room_to_halfway(
    scores: Array, source: int, goal: int, method: int, noise: Noise, *, floor: float = 0.0
) -> tuple[Difference, Difference]:
    r"""Return how far a method is from having closed half of the gap, and from having overshot by half of it.

    Half the gap is measured too: taken as a margin without noise, it would call a method that overshoots by just that
    much close in 10% of comparisons and not in 5%. With goal r, source s, method m and σ the sign of s - r, the room
    on the source's side is ``σ(r - m) + |s - r|/2``, of 1.5 times the variance of one score, and that on the other
    ``σ(m - r) + |s - r|/2``, of 3.5 times. Both above 0 is close.

    Args:
        scores: Scores of one metric, ``(M, S)``.
        source: Row of the model that forgot nothing.
        goal: Row of the model that is the goal.
        method: Row of the method.
        noise: What :func:`pooled_noise` gave for the scores.
        floor: The least variance of a score.

    Returns:
        The room on the source's side, and that on the other.
    """
    rows = np.asarray(scores, dtype=float)
    sign = 1.0 if rows[source].mean() >= rows[goal].mean() else -1.0
    rooms = []
    for side in (-sign, sign):
        weights = np.zeros(len(rows))
        weights[method] += side
        weights[goal] -= side + sign / 2
        weights[source] += sign / 2
        rooms.append(contrast(rows, weights, noise, floor=floor))
    return rooms[0], rooms[1]


def share_of_gap(
    scores: Array, source: int, retrained: int, method: int, noise: Noise, *, floor: float = 0.0
) -> tuple[float, tuple[float, float] | None]:
    """Return the share of the gap closed, (source − method)/(source − retrained), and Fieller's 95% interval.

    0 is the source model, 1 the retrained one; above 1 overshoots.

    Args:
        scores: Scores of one metric, ``(M, S)``.
        source: Row of the source model.
        retrained: Row of the retrained model.
        method: Row of the method.
        noise: What :func:`pooled_noise` gave for the scores.
        floor: The least variance of a score.

    Returns:
        The share, and its interval; ``None`` for the interval where the gap itself may be nothing.

    Raises:
        ValueError: If source and retrained model have the same mean: there is no gap to close.
    """
    from scipy import stats

    rows = np.asarray(scores, dtype=float)
    closed, gap = rows[source] - rows[method], rows[source] - rows[retrained]
    if gap.mean() == 0:
        raise ValueError(
            "source and retrained model score alike, so there is no gap to close; leave the metric out"
        )
    share = float(closed.mean() / gap.mean())
    seeds = rows.shape[1]
    if any(noise.apart[row] for row in (source, retrained, method)):
        (of_closed, both), (_, of_gap) = np.cov(np.stack([closed, gap])).tolist()
        of_closed, of_gap, df = max(of_closed, 2 * floor), max(of_gap, 2 * floor), seeds - 1
    else:
        of_closed, both, of_gap, df = 2 * noise.variance, noise.variance, 2 * noise.variance, noise.df
    scale = float(stats.t.ppf(0.975, df)) ** 2 / seeds
    # the shares θ with (closed − θ·gap)² <= t²·Var(closed − θ·gap): a quadratic inequality in θ
    a = float(gap.mean()) ** 2 - scale * of_gap
    b = float(closed.mean() * gap.mean()) - scale * both
    c = float(closed.mean()) ** 2 - scale * of_closed
    if a <= 0:
        return share, None
    root = math.sqrt(max(b * b - a * c, 0.0))
    return share, ((b - root) / a, (b + root) / a)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given: each at most 5% keeps all errors together at 5%.

    Args:
        p_values: P-values in [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors))
    result = np.empty(len(p_values))
    result[order] = adjusted
    return [float(value) for value in result]


def seeds_to_decide(distance: float, noise: Noise, models: int, *, at_most: int = 1000) -> int | None:
    """Return about how many seeds would show that a method is close, if it is where it now seems to be.

    Args:
        distance: The margin less the difference found, in the metric's unit.
        noise: The pooled noise.
        models: How many models the pool would hold.
        at_most: Where to give up.

    Returns:
        The smallest number of seeds, at least 3; ``None`` where no number would, or more than ``at_most``.

    Example:
        >>> seeds_to_decide(1.0, Noise(0.64, 14, (False,) * 8), 8)
        4
    """
    from scipy import stats

    if distance <= 0:
        return None
    for seeds in range(3, at_most + 1):
        quantile = float(stats.t.ppf(0.95, (models - 1) * (seeds - 1)))
        if quantile * math.sqrt(2 * noise.variance / seeds) <= distance:
            return seeds
    return None
