"""LiRA: does the model's confidence look like that of models trained with the sample, or without it?"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.many_models import ManyModels, confidence_metrics
from lightning_unlearn.callbacks.base.populations import Population
from lightning_unlearn.core.checks import in_range, one_of
from lightning_unlearn.functional import lira_scores, u_lira_rates
from lightning_unlearn.functional.lira import Centre, Variance
from lightning_unlearn.metrics.declared import (
    MODELS_FOUND_OUT,
    DeclaredMetric,
    low_fpr_rates,
    near_score,
    near_share,
)


class LiRA(ManyModels):
    """The likelihood ratio attack with ordinary references, which know nothing of unlearning.

    Online, references are 2K models, each trained as the source was on the retain set and its own random half of the
    forget set, so that every sample was trained on by exactly K of them; offline, K models that never saw the forget
    set (:func:`~lightning_unlearn.functional.lira_scores`; Carlini et al., "Membership Inference Attacks From First
    Principles", 2022). Attacked are K unlearned models, and, for its false positives, K retrained models that are no
    references. :class:`~lightning_unlearn.callbacks.ULiRA` is the stronger attack on unlearning; this one says
    whether a model still looks as if it had been trained with the samples.

    - ``<name>/auc``: area under its receiver operating characteristic; 0.5 is guessing. Below: the samples look less
      known than ones never seen.
    - ``<name>/accuracy``: mean of the shares of both kinds that are told right (online only); 0.5 is guessing.
    - ``<name>/tpr_at_1pct_fpr`` and ``<name>/tpr_at_0.1pct_fpr``; guessing gives (k + 1) / (K + 1) where k of K models
      may be mistaken.
    - ``<name>/matched``: the AUC at matched confidence.
    - ``<name>/nonmember``: the AUC on samples that no model was trained on, and ``<name>/difference``: auc − nonmember.
      Offline only: no online reference is trained with them.

    Args:
        models: K, at least 4 with ``variance="per_sample"`` and 2 with ``"global"``.
        mode: ``"online"``, which needs at least 2 samples in the forget set, or ``"offline"``.
        variance: ``"global"`` fits one variance for all samples, the better choice with few models;
            ``"per_sample"`` each sample's own.
        centre: ``"median"`` or ``"mean"`` of the references.
        bootstrap: Resamples for the intervals.
        **many: Arguments of :class:`~lightning_unlearn.callbacks.base.many_models.ManyModels`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    default_name: ClassVar[str] = "lira"
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "lira/auc": near_score(
            "LiRA: area under the ROC curve",
            "LiRA AUC",
            "How well an attacker with ordinary reference models tells that D_f was trained on: 0.5 is guessing, 1 is "
            "certainty, and below 0.5 the samples look less known than ones never seen.",
            ideal=0.5,
        ),
        "lira/accuracy": near_share(
            "LiRA: accuracy",
            "LiRA accuracy",
            "Share of unlearned and retrained models, sample by sample, that the attacker tells right: 50 % is "
            "guessing.",
            ideal=0.5,
        ),
        **low_fpr_rates("lira", "LiRA", "LiRA", MODELS_FOUND_OUT),
        **confidence_metrics("lira", "LiRA AUC", ideal=0.5),
    }
    least_models: ClassVar[int] = 2

    def __init__(
        self,
        models: int = 64,
        *,
        mode: Literal["online", "offline"] = "online",
        variance: Variance = "global",
        centre: Centre = "median",
        bootstrap: int = 1000,
        **many: Any,
    ) -> None:
        one_of("mode", mode, "online", "offline")
        one_of("variance", variance, "per_sample", "global")
        one_of("centre", centre, "median", "mean")
        if variance == "per_sample":
            in_range("models", models, "[4, inf)", "; variance='per_sample' needs as many", whole=True)
        in_range("bootstrap", bootstrap, "[2, inf)", whole=True)
        super().__init__(models, **many)
        self.mode = mode
        self.variance: Variance = variance
        self.centre: Centre = centre
        self.bootstrap = bootstrap

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Attack K models of the audited one's kind, and K retrained ones."""
        members: Tensor | None = None
        if self.mode == "online":
            known, members = self.half_trained_population(model, audit)
        else:
            known = self.retrained_population(model, audit)

        def scores(some: Sequence[Population], stream: str) -> tuple[Tensor, Tensor]:
            audited, references, others = (each.confidence[stream] for each in some)
            ours, theirs = (
                lira_scores(each, references, members, variance=self.variance, centre=self.centre)
                for each in (audited, others)
            )
            return ours, theirs

        audited = self.audited_population(model, audit)
        populations = audited, known, self.retrained_population(model, audit, second=True)
        ours, theirs = scores(populations, "forget")
        rates = self.attack_rates(
            model,
            audit,
            ours,
            theirs,
            self.bootstrap,
            threshold=self.mode == "online",  # offline scores have no natural one
            mode=self.mode,
            variance=self.variance,
        )
        rates |= self.beside_unseen(
            rates["auc"],
            lambda *some: u_lira_rates(*scores(*some))["auc"],
            populations,
            audit,
            unseen=members is None,
        )
        return {f"{self.name}/{name}": value for name, value in rates.items()}
