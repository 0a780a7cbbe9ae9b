"""U-LiRA: was this model trained with the sample and made to forget it, or did it never see it?"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.many_models import ManyModels, confidence_metrics
from lightning_unlearn.callbacks.base.populations import Population
from lightning_unlearn.core.checks import in_range
from lightning_unlearn.functional import u_lira_rates, u_lira_scores
from lightning_unlearn.metrics.declared import (
    MODELS_FOUND_OUT,
    DeclaredMetric,
    low_fpr_rates,
    near_score,
    near_share,
)

_UNBIASED = 16  # models from which the AUC of retrained ones is 0.5 but for 0.005, as simulated


class ULiRA(ManyModels):
    """The likelihood ratio attack on unlearning, with references that were unlearned themselves.

    For each sample of the forget set, Gaussians are fitted to the logit-scaled confidence of K models that were
    trained with it and unlearned it, and of K that never saw it; every one of the 2K models is attacked, left out of
    its own fit (:func:`~lightning_unlearn.functional.u_lira_scores`; Hayes et al., "Inexact Unlearning Needs More
    Careful Evaluations to Avoid a False Sense of Privacy", 2024). The attacker knows the method and can repeat it,
    which is why the attack is stronger than one with ordinary shadow models.

    - ``<name>/auc``: area under its receiver operating characteristic; 0.5 is guessing.
    - ``<name>/accuracy``: mean of the shares of both kinds that are told right; 0.5 is guessing.
    - ``<name>/tpr_at_1pct_fpr`` and ``<name>/tpr_at_0.1pct_fpr``: share of unlearned models found out where so few of
      the others are mistaken for one; guessing gives (k + 1) / (K + 1) where it may mistake k of K.
    - ``<name>/null``: the AUC between K other retrained models and the retrained ones, near 0.5.
    - ``<name>/nonmember``: the AUC on samples that no model was trained on.
    - ``<name>/difference``: auc − nonmember.
    - ``<name>/matched``: the AUC at matched confidence, which decides.

    The results' file also holds K and the intervals over models and samples; beside it is an .npz file with the
    scores of every model on every sample.

    Args:
        models: K, at least 4. Below 16, of which a warning tells, even retrained models score well below 0.5; 32 give a
            usable score.
        bootstrap: Resamples for the intervals.
        **many: Arguments of :class:`~lightning_unlearn.callbacks.base.many_models.ManyModels`. ``sources="many"`` is
            the attack as published.

    Raises:
        ValueError: If an argument is outside its range.
    """

    default_name: ClassVar[str] = "u_lira"
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "u_lira/auc": near_score(
            "U-LiRA: area under the ROC curve",
            "U-LiRA AUC",
            "How well an attacker who can repeat the unlearning tells models that unlearned a sample of D_f from "
            "models that never saw it: 0.5 is guessing, 1 is certainty.",
            headline=True,
            ideal=0.5,
        ),
        "u_lira/accuracy": near_share(
            "U-LiRA: accuracy",
            "U-LiRA accuracy",
            "Share of unlearned and retrained models, sample by sample, that the attacker tells right: 50 % is "
            "guessing.",
            ideal=0.5,
        ),
        **low_fpr_rates("u_lira", "U-LiRA", "U-LiRA", MODELS_FOUND_OUT),
        "u_lira/null": DeclaredMetric(
            "U-LiRA on other retrained models: area under the ROC curve",
            "U-LiRA, null",
            "The same attack on a second set of retrained models: 0.5 but for chance.",
            digits=3,
        ),
        **confidence_metrics("u_lira", "U-LiRA AUC", decides="forgetting", ideal=0.5),
    }
    least_models: ClassVar[int] = 4

    def __init__(self, models: int = 64, *, bootstrap: int = 1000, **many: Any) -> None:
        in_range("bootstrap", bootstrap, "[2, inf)", whole=True)
        super().__init__(models, **many)
        if models < _UNBIASED:
            rank_zero_warn(
                f"models={models}: of retrained models {self.name} finds an AUC below 0.5 then (0.44 with 4, 0.49 with "
                f"8, 0.495 with 16); give {_UNBIASED} or more, or read auc beside null"
            )
        self.bootstrap = bootstrap

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Attack K models of the audited one's kind and K retrained ones."""
        populations = self.audited_population(model, audit), self.retrained_population(model, audit)
        null = self.retrained_population(model, audit, second=True)
        ours, theirs = u_lira_scores(*(some.confidence["forget"] for some in populations))
        rates = self.attack_rates(model, audit, ours, theirs, self.bootstrap)
        rates["null"] = _auc((null, populations[1]), "forget")
        rates |= self.beside_unseen(rates["auc"], _auc, populations, audit)
        return {f"{self.name}/{name}": value for name, value in rates.items()}


def _auc(populations: Sequence[Population], stream: str) -> float:
    scores = u_lira_scores(*(some.confidence[stream] for some in populations))
    return u_lira_rates(*scores)["auc"]
