"""What a comparison adds to its models' scores before they are reported: ratios of time, margins, intervals."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lightning_unlearn.comparison.folder import RunFolder
from lightning_unlearn.comparison.runs import RETRAIN, SOURCE
from lightning_unlearn.engine.answering import GIVEN_LABELS, MOST_LEFT
from lightning_unlearn.functional import acceleration
from lightning_unlearn.functional.intervals import pigeonhole_auc_interval

Metrics = Mapping[str, Mapping[int, dict[str, float]]]
"""Scores by model, seed and name."""


def add_accelerations(
    metrics: Metrics, names: Iterable[str], starts: Mapping[tuple[str, int], str | None]
) -> list[str]:
    """Add how many times faster than the retraining each model was, by the clock and in CPU time.

    Args:
        metrics: The scores, to which are added.
        names: The models to compare with the retrained one.
        starts: In which start of the comparison a model was trained, by model and seed.

    Returns:
        The models that were trained in another start than the retrained one, when the machine may have been faster.
    """
    others: dict[str, None] = {}
    retrained = metrics.get(RETRAIN, {})
    for name in names:
        for seed, scores in metrics.get(name, {}).items():
            for ratio, time in (("acceleration", "time/total_s"), ("acceleration/cpu", "time/cpu_s")):
                whole, own = retrained.get(seed, {}).get(time), scores.get(time)
                if whole and own:
                    scores[ratio] = acceleration(whole, own)
                    if starts.get((name, seed)) != starts.get((RETRAIN, seed)):
                        others[name] = None
    return list(others)


def most_left(metrics: Metrics, name: str) -> float | None:
    """Return a margin below half the gap where half of a class or of wrong labels would be left within that."""
    if name not in GIVEN_LABELS:
        return None
    source, retrained = (
        [scores[name] for scores in metrics.get(kind, {}).values() if name in scores]
        for kind in (SOURCE, RETRAIN)
    )
    both = bool(source and retrained)
    return MOST_LEFT if both and abs(np.mean(source) - np.mean(retrained)) > 2 * MOST_LEFT else None


def over_samples(
    folder: Path, names: Iterable[str], seeds: list[int]
) -> dict[tuple[str, str], tuple[float, float]]:
    """Return intervals of attacks over seeds and samples, by model and metric.

    Args:
        folder: The comparison's folder.
        names: The models.
        seeds: The seeds, which must share their samples; none of them gives no interval.
    """
    intervals: dict[tuple[str, str], tuple[float, float]] = {}
    for name in names:
        scores: dict[str, list[list[np.ndarray[Any, Any]]]] = {}
        for seed in seeds:
            for key, samples in RunFolder(folder / name / f"seed_{seed}").samples().items():
                of_set, score = np.array(samples["set"]), np.array(samples["score"], dtype=float)
                both = [score[of_set == part] for part in ("forget set", "non-member set")]
                scores.setdefault(key, []).append(both)
        for key, by_seed in scores.items():
            if len(by_seed) == len(seeds):
                forget, nonmember = zip(*by_seed, strict=True)
                intervals[name, f"{key}/auc"] = pigeonhole_auc_interval(forget, nonmember)
    return intervals
