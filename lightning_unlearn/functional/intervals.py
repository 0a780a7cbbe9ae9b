"""95% intervals over seeds: noise pooled over models, shares as log-odds, attacks over seeds and samples."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_unlearn.core.checks import in_range
from lightning_unlearn.functional.equivalence import cochran

__all__ = ["pigeonhole_auc_interval", "pooled_intervals"]

Array = np.ndarray[Any, Any]


def pooled_intervals(
    values: Mapping[str, Sequence[float]], *, samples: int | None = None
) -> dict[str, tuple[float, float]]:
    """Return the 95% interval of each model's mean over seeds, with the noise that all models share.

    With three seeds the noise of one model alone is hardly known, and three equal accuracies do not show that there is
    none. A model whose variance stands out by Cochran's test at 1%, that has fewer seeds than the others, or whose
    scores are all equal, is judged by its own.

    Args:
        values: Model name to one score a seed, at least two.
        samples: For shares of so many samples: the interval is built from log-odds, stays within [0, 1], and its noise
            is at least the binomial 1 / (samples · p (1 - p)). ``None`` for scores of any other kind.

    Returns:
        Model name to the ends, which hold the mean.

    Raises:
        ValueError: If a model has fewer than two scores, or a share is outside [0, 1].

    Example:
        >>> intervals = pooled_intervals({"a": [0.9, 0.9, 0.9], "b": [0.88, 0.9, 0.92]}, samples=100)
        >>> [round(end, 3) for end in intervals["a"]]
        [0.793, 0.951]
    """
    from scipy import stats

    scores = {model: np.asarray(row, dtype=float) for model, row in values.items()}
    for model, row in scores.items():
        if len(row) < 2 or (samples is not None and not ((row >= 0) & (row <= 1)).all()):
            raise ValueError(f"values[{model!r}] must hold at least two scores, shares in [0, 1], got {row}")
    within = {model: row if samples is None else _log_odds(row, samples) for model, row in scores.items()}
    variance = {model: float(row.var(ddof=1)) for model, row in within.items()}
    seeds = max(map(len, within.values()), default=0)
    complete = {
        model: variance[model] for model, row in within.items() if len(row) == seeds and variance[model]
    }
    pool = _alike(complete, seeds)
    pooled, pooled_df = _pooled(np.array([within[model] for model in pool]))
    intervals = {}
    for model, row in within.items():
        noise, df = (pooled, pooled_df) if model in pool else (variance[model], len(row) - 1.0)
        mean, plain = float(row.mean()), float(scores[model].mean())
        if samples is not None:
            noise = max(noise, 1 / (samples * _share(mean) * (1 - _share(mean))))
        half = float(stats.t.ppf(0.975, df)) * math.sqrt(noise / len(row))
        ends = (mean - half, mean + half) if samples is None else (_share(mean - half), _share(mean + half))
        intervals[model] = min(ends[0], plain), max(ends[1], plain)
    return intervals


def _pooled(table: Array) -> tuple[float, float]:
    """Return the variance of a score over seeds, from all models' scores ``(M, S)``, and its degrees of freedom.

    What a seed does to all models at once, such as an easy forget set, is no independent evidence of M models:
    Satterthwaite, 1946, for the sum of the mean squares of seeds and of residuals.
    """
    if len(table) < 2:
        return (float(table.var(ddof=1)), table.shape[1] - 1.0) if table.size else (0.0, 1.0)
    models, seeds = table.shape
    centred = table - table.mean(1, keepdims=True)
    of_seeds = models * float(np.square(centred.mean(0)).sum()) / (seeds - 1)
    residual = float(np.square(centred - centred.mean(0)).sum()) / ((models - 1) * (seeds - 1))
    parts = of_seeds / models, residual * (models - 1) / models
    total = sum(parts)
    spread = parts[0] ** 2 / (seeds - 1) + parts[1] ** 2 / ((models - 1) * (seeds - 1))
    return total, total**2 / spread if spread else seeds - 1.0


def _alike(variance: dict[str, float], seeds: int) -> dict[str, float]:
    """Return the models whose variance does not stand out."""
    pool = dict(variance)
    while len(pool) > 2:
        worst = max(pool, key=pool.__getitem__)
        if pool[worst] <= cochran(len(pool), seeds - 1) * sum(pool.values()):
            break
        del pool[worst]
    return pool


def _log_odds(shares: Array, samples: int) -> Array:
    """Return log-odds; half a sample is added to either side, so that none and all have some."""
    counts = shares * samples
    return np.log((counts + 0.5) / (samples - counts + 0.5))


def _share(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))


def pigeonhole_auc_interval(
    forget: Sequence[Array], nonmember: Sequence[Array], *, resamples: int = 500, seed: int = 0
) -> tuple[float, float]:
    """Return the 95% interval of an attack's mean AUC over seeds and samples, where all seeds share the samples.

    Seeds, forget samples and non-members are drawn with replacement, each independently of the others: Owen, "The
    pigeonhole bootstrap", 2007. Student's t over the seeds knows nothing of how other samples would have turned out.

    Args:
        forget: For each seed the scores of the forget set, ``(N,)``, higher for "was trained on", in one order.
        nonmember: For each seed the scores of the non-members, ``(M,)``, in one order.
        resamples: How often to draw.
        seed: Seed of the draws.

    Raises:
        ValueError: If the seeds do not share the samples, or there are none.

    Example:
        >>> low, high = pigeonhole_auc_interval([np.arange(20)] * 3, [np.arange(20) - 3.0] * 3)
        >>> 0.4 < low < 0.64 < high < 0.85
        True
    """
    in_range("resamples", resamples, "[2, inf)", whole=True)
    if len({len(each) for each in forget}) != 1 or len({len(each) for each in nonmember}) != 1:
        raise ValueError("forget and nonmember must hold the same samples in each seed, at least one seed")
    n, m, seeds = len(forget[0]), len(nonmember[0]), len(forget)
    order = [np.argsort(theirs, kind="stable") for theirs in nonmember]
    ranks = [
        [np.searchsorted(theirs[by_score], ours, side) for side in ("left", "right")]
        for ours, theirs, by_score in zip(forget, map(np.asarray, nonmember), order, strict=True)
    ]
    random, means = np.random.default_rng(seed), np.zeros(resamples)
    for draw in range(resamples):  # one at a time: together they would fill the memory
        of_forget, of_nonmember, of_seed = (
            np.bincount(random.integers(k, size=k), minlength=k) for k in (n, m, seeds)
        )
        for weight, by_score, (left, right) in zip(of_seed, order, ranks, strict=True):
            below = np.concatenate([[0], of_nonmember[by_score].cumsum()])
            means[draw] += weight * (of_forget @ (below[left] + below[right])) / (2 * n * m * seeds)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
