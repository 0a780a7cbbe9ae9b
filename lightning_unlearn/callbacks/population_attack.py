"""Population attack: is the loss of the forget set lower than that of samples never trained on?"""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lightning_unlearn.callbacks.audit import Audit
from lightning_unlearn.callbacks.base import Evaluator
from lightning_unlearn.functional import (
    population_attack_scores,
    ranking_intervals,
    ranking_rates,
    roc_curve,
)

__all__ = ["PopulationAttack"]

_ROC_POINTS = 200  # as many as a figure can show


class PopulationAttack(Evaluator):
    """The attack that needs no further model: a loss below that of samples never trained on.

    The cross-entropy of each sample of the forget set is ranked among that of one half of the non-members
    (:func:`~lightning_unlearn.functional.population_attack_scores`; Ye et al., "Enhanced Membership Inference Attacks
    against Machine Learning Models", 2022, attack P); the other half gives the false positives. How difficult a single
    sample is, the attack does not know, so it is the weakest and the cheapest: what it finds, anybody would.

    - ``<name>/auc``: area under its receiver operating characteristic; 0.5 is guessing. Below: the samples look less
      known than ones never seen.
    - ``<name>/tpr_at_1pct_fpr`` and ``<name>/tpr_at_0.1pct_fpr``: 0.01 and 0.001 are guessing. With fewer than 200 and
      2000 non-members no false positive is allowed at all.

    The results' file also holds bootstrap intervals over the samples, the receiver operating characteristic and the
    score of every sample but those of the first half of the non-members.

    Args:
        bootstrap: Resamples for the intervals.
        **evaluator: Arguments of :class:`~lightning_unlearn.callbacks.base.Evaluator`.

    Raises:
        ValueError: If ``bootstrap`` < 2, or if there are fewer than 2 non-members.
    """

    default_name: ClassVar[str] = "population_attack"

    def __init__(self, *, bootstrap: int = 1000, **evaluator: Any) -> None:
        if bootstrap < 2:
            raise ValueError(f"bootstrap must be at least 2, got {bootstrap}")
        super().__init__(**evaluator)
        self.bootstrap = bootstrap

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Rank the losses of the forget set and of half of the non-members among those of the other half."""
        size = audit.data.stream_size("nonmember")
        if size < 2:
            raise ValueError(
                "the population attack needs at least 2 samples that were never trained on, and the non-member set has "
                f"{size}; give the project a test set, or set nonmember, and nonmember_from='train'"
            )
        losses = _losses(model, "nonmember", audit)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(audit.seed))
        population, attacked = losses[order[: size // 2]], losses[order[size // 2 :].sort().values]
        forget = population_attack_scores(_losses(model, "forget", audit), population)
        nonmember = population_attack_scores(attacked, population)
        intervals = ranking_intervals(
            forget, nonmember, torch.Generator().manual_seed(audit.seed), resamples=self.bootstrap
        )
        fpr, tpr, _ = roc_curve(forget, nonmember)
        shown = np.unique(np.linspace(0, len(fpr) - 1, _ROC_POINTS).round().astype(int))
        audit.details.update(
            {
                "population": len(population),
                "ci95": {name: list(bounds) for name, bounds in intervals.items()},
                "fpr": fpr[shown].tolist(),
                "tpr": tpr[shown].tolist(),
                # in the order of the streams; no sample is named
                "samples": {
                    "set": ["forget set"] * len(forget) + ["non-member set"] * len(nonmember),
                    "score": [round(score, 6) for score in torch.cat([forget, nonmember]).tolist()],
                },
            }
        )
        return {f"{self.name}/{rate}": value for rate, value in ranking_rates(forget, nonmember).items()}


def _losses(model: nn.Module, stream: str, audit: Audit) -> Tensor:
    """Return the cross-entropy of every sample, ``(n,)`` float64."""
    outputs = audit.outputs(model, stream)
    return nn.functional.cross_entropy(outputs.logits.double(), outputs.targets, reduction="none")
