"""What an attack that scores samples writes into its results' file beside its rates."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_unlearn.functional import guessed_tpr, roc_curve
from lightning_unlearn.functional.membership import LOW_FPRS

_ROC_POINTS = 200  # as many as a figure can show


def attack_details(
    forget: Tensor, nonmember: Tensor, intervals: Mapping[str, tuple[float, float]]
) -> dict[str, Any]:
    """Describe an attack by its intervals, its receiver operating characteristic and the score of every sample.

    Args:
        forget: Scores of the forget set, shape ``(N,)``, higher for "was trained on".
        nonmember: Scores of the non-members, shape ``(M,)``.
        intervals: Lower and upper bound by name of the rate.

    Returns:
        Plain values that JSON can hold: ``ci95``; ``guessing``, what guessing has as rates at low false positive rates;
        ``fpr`` and ``tpr``, at most 200 points of the characteristic from ``(0, 0)`` to ``(1, 1)``; and ``samples``,
        the columns ``set`` and ``score`` (twelve decimals) in the order of the streams, by which no sample is named.

    Raises:
        ValueError: If the scores are not one-dimensional, are empty or hold NaN.
    """
    fpr, tpr, _ = roc_curve(forget, nonmember)
    shown = np.unique(np.linspace(0, len(fpr) - 1, _ROC_POINTS).round().astype(int))
    return {
        "ci95": {name: list(bounds) for name, bounds in intervals.items()},
        "guessing": {
            name: guessed_tpr(len(nonmember), allowed)
            for name, allowed in LOW_FPRS.items()
            if name in intervals
        },
        "fpr": fpr[shown].tolist(),
        "tpr": tpr[shown].tolist(),
        "samples": {
            "set": ["forget set"] * len(forget) + ["non-member set"] * len(nonmember),
            "score": [round(score, 12) for score in torch.cat([forget, nonmember]).tolist()],
        },
    }
