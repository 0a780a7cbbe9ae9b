"""Forgetting quality: can any attack on the outputs tell unlearned from retrained models?"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.many_models import ManyModels, confidence_metrics
from lightning_unlearn.callbacks.base.populations import Population
from lightning_unlearn.core.checks import in_range, one_of
from lightning_unlearn.functional import (
    ForgettingQualityResult,
    forgetting_final_score,
    forgetting_quality,
    forgetting_quality_intervals,
)
from lightning_unlearn.functional.populations import Thresholds
from lightning_unlearn.metrics.declared import DeclaredMetric, near_score

Nulls = dict[tuple[str, bool], ForgettingQualityResult]  # by stream, and whether confidence was matched


class ForgettingQuality(ManyModels):
    """The ε of the NeurIPS 2023 unlearning competition, over K unlearned and K retrained models, and its null.

    For each sample of the forget set the best attack on the logit-scaled confidence gives an ε
    (:func:`~lightning_unlearn.functional.forgetting_quality`; Akbari, Morshed & Gaudi, "Machine Unlearning",
    eq. 1-2). A perfect unlearner is far from an ε of 0 and a score of 1, and both depend on K, so:

    - ``<name>/epsilon_mean``: mean ε over the forget set, in [0, 50].
    - ``<name>/score``: forgetting quality F, the mean of the points that the ε give, in [0, 1].
    - ``<name>/null``: the F of K more retrained models, what a perfect unlearner gets with as many models.
    - ``<name>/relative``: F over the null; absent where the null is 0.
    - ``<name>/nonmember``: relative on samples that no model was trained on.
    - ``<name>/difference``: relative − nonmember.
    - ``<name>/matched``: relative at matched confidence, which decides.
    - ``<name>/final``: F times the ratios of retain and test accuracy to the retrained models'. Absent without a test
      set.

    The results' file also holds K, the intervals over samples, and how many samples have which ε; beside it is
    an .npz file with ε and points of every sample.

    Args:
        models: K, at least 3; the competition took 512. Compare scores only at one K.
        delta: δ, in [0, 1).
        thresholds: ``"competition"`` for comparable figures, ``"all"`` for a stricter test.
        bootstrap: Resamples for the intervals.
        **many: Arguments of :class:`~lightning_unlearn.callbacks.base.many_models.ManyModels`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    default_name: ClassVar[str] = "forgetting_quality"
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "forgetting_quality/epsilon_mean": near_score(
            "Forgetting quality: mean ε",
            "mean ε",
            "Mean over D_f of the privacy parameter ε that tells unlearned from retrained models. It depends on how "
            "many models were compared, and that of retrained models is not 0 either.",
        ),
        "forgetting_quality/score": DeclaredMetric(
            "Forgetting quality: score",
            "quality score",
            "Forgetting quality F as the NeurIPS 2023 unlearning competition scores it, before the accuracy factors. A "
            "perfect unlearner is far from 1, and only scores of equally many models can be compared.",
            direction="higher",
            digits=4,
        ),
        "forgetting_quality/null": DeclaredMetric(
            "Forgetting quality of other retrained models",
            "quality, null",
            "The score of a second set of retrained models: what a perfect unlearner gets with as many models.",
            digits=4,
        ),
        "forgetting_quality/relative": DeclaredMetric(
            "Forgetting quality over its null",
            "quality / null",
            "The forgetting quality score over that of a second set of retrained models: 1 is what a perfect unlearner "
            "gets, whatever the number of models.",
            direction="higher",
            digits=3,
            headline=True,
            ideal=1.0,
        ),
        **confidence_metrics(
            "forgetting_quality", "quality / null", direction="higher", decides="forgetting", ideal=1.0
        ),
        "forgetting_quality/final": DeclaredMetric(
            "Forgetting quality: final score",
            "quality, final",
            "The forgetting quality score times the ratios of retain and test accuracy to the retrained models'.",
            direction="higher",
            digits=4,
            headline=True,
        ),
    }
    least_models: ClassVar[int] = 3

    def __init__(
        self,
        models: int = 64,
        *,
        delta: float = 1e-5,
        thresholds: Thresholds = "competition",
        bootstrap: int = 1000,
        **many: Any,
    ) -> None:
        in_range("delta", delta, "[0, 1)", "; the competition's is 1e-5")
        one_of("thresholds", thresholds, "competition", "all")
        in_range("bootstrap", bootstrap, "[2, inf)", whole=True)
        super().__init__(models, **many)
        self.delta = delta
        self.thresholds: Thresholds = thresholds
        self.bootstrap = bootstrap

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Compare K models of the audited one's kind with K retrained ones, and these with K more."""
        unlearned, retrained = self.audited_population(model, audit), self.retrained_population(model, audit)
        null = self.retrained_population(model, audit, second=True)
        populations = (unlearned, null, retrained)
        nulls: Nulls = self.once(audit.seed, [self.populations_of(audit), audit.data], dict)
        own, floor = self._qualities(populations, "forget", nulls)
        scores = {
            "epsilon_mean": float(own.epsilon.mean()),
            "score": own.score,
            "null": floor.score,
        }
        if floor.score > 0:
            scores["relative"] = own.score / floor.score

            def relative(some: Sequence[Population], stream: str) -> float:
                mine, least = self._qualities(some, stream, nulls, matched=some[-1] is not retrained)
                return mine.score / least.score if least.score else math.nan

            scores |= self.beside_unseen(scores["relative"], relative, populations, audit)
        if "test" in unlearned.accuracy and "retain" in unlearned.accuracy:
            accuracies = {
                f"{stream}_{kind}": float(some.accuracy[stream].mean())
                for stream in ("retain", "test")
                for kind, some in (("unlearned", unlearned), ("retrained", retrained))
            }
            if accuracies["retain_retrained"] and accuracies["test_retrained"]:
                scores["final"] = forgetting_final_score(own.score, **accuracies)
            audit.details["accuracy"] = accuracies
        intervals = forgetting_quality_intervals(
            own.points,
            floor.points,
            torch.Generator().manual_seed(audit.seed),
            resamples=self.bootstrap,
        )
        audit.details.update(
            {
                **self.counted(),
                "delta": self.delta,
                "thresholds": self.thresholds,
                "epsilon_max": own.epsilon_max,
                "epsilon_null": float(floor.epsilon.mean()),
                "ci95": {name: None if ends is None else list(ends) for name, ends in intervals.items()},
                "buckets": own.epsilon.div(0.5)
                .floor()
                .clamp(max=2 * own.epsilon_max)
                .long()
                .bincount()
                .tolist(),
            }
        )
        self.save_samples(model, audit, epsilon=own.epsilon, points=own.points, null_epsilon=floor.epsilon)
        return {f"{self.name}/{name}": value for name, value in scores.items()}

    def _qualities(
        self, populations: Sequence[Population], stream: str, nulls: Nulls, *, matched: bool = False
    ) -> tuple[ForgettingQualityResult, ForgettingQualityResult]:
        """Return the audited models' forgetting quality and the null's, which all models of a seed share."""
        audited, null, retrained = (some.confidence[stream] for some in populations)
        if (stream, matched) not in nulls:
            nulls[stream, matched] = forgetting_quality(null, retrained, self.delta, self.thresholds)
        return forgetting_quality(audited, retrained, self.delta, self.thresholds), nulls[stream, matched]
