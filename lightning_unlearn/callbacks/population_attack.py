"""Population attack: is the loss of the forget set lower than that of samples never trained on?"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from lightning_unlearn.callbacks.base.attack_details import attack_details
from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.nonmembers import AgainstNonmembers
from lightning_unlearn.core.checks import in_range
from lightning_unlearn.ensembles import Outputs, ask
from lightning_unlearn.functional import auc, population_attack_scores, ranking_intervals, ranking_rates
from lightning_unlearn.functional.tasks import TokenScores, min_k
from lightning_unlearn.metrics.declared import DeclaredMetric, low_fpr_rates, near_score
from lightning_unlearn.models.surgery import clone


class PopulationAttack(AgainstNonmembers):
    """The attack that needs no further model: a loss below that of samples never trained on.

    A sample's score is the share of the non-members whose loss is higher than its own
    (:func:`~lightning_unlearn.functional.population_attack_scores`; Ye et al., "Enhanced Membership Inference Attacks
    against Machine Learning Models", 2022, attack P). The score keeps the order of the losses, so its rates are those
    of the loss itself. How difficult a single sample is, the attack does not know, so it is the weakest and the
    cheapest: what it finds, anybody would.

    - ``<name>/auc``: area under its receiver operating characteristic; 0.5 is guessing. Below: the samples look less
      known than ones never seen.
    - ``<name>/tpr_at_1pct_fpr`` and ``<name>/tpr_at_0.1pct_fpr``: share of the forget set found when at most so few of
      the non-members are taken for members. With fewer than 100 and 1000 non-members that is none of them. Guessing
      gives ``(k + 1) / (M + 1)`` where k of M non-members are allowed: nearly 0.01 and 0.001 with many, 0.011 and
      0.002 with 1000.

    Of a language model two scores that know more are measured beside it: ``<name>/min_k_auc`` by the mean log
    probability of each sequence's least likely fifth of tokens (Shi et al., "Detecting Pretraining Data from Large
    Language Models", 2024). With a ``reference``, ``<name>/ratio_auc`` goes by the loss over that of the reference
    model, which knows how difficult a sample is (Carlini et al., "Extracting Training Data from Large Language
    Models", 2021, section 5.1).

    All non-members set the thresholds, and all count as false positives. Attack P's decision at one false positive rate
    (the threshold from one half of the non-members, the achieved rates from the forget set and the other half) is no
    metric here: its share of the forget set estimates the rates above from half of the samples, and how its false
    positives scatter around the chosen rate depends on the numbers of samples alone, not on the model.

    The results' file also holds bootstrap intervals over the samples, the receiver operating characteristic and the
    score of every sample.

    Args:
        reference: A model that was not trained on the samples, such as the pretrained one; ``None`` for no ratio.
        bootstrap: Resamples for the intervals.
        **evaluator: Arguments of :class:`~lightning_unlearn.callbacks.base.evaluator.Evaluator`.

    Raises:
        ValueError: If ``bootstrap`` < 2, or if there is no non-member.
    """

    of_streams = True
    default_name: ClassVar[str] = "population_attack"
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "population_attack/auc": near_score(
            "Population attack: area under the ROC curve",
            "population attack AUC",
            "How well a low loss alone tells D_f from samples never trained on: 0.5 is guessing, 1 is certainty, and "
            "below 0.5 D_f looks less known than they do.",
            ideal=0.5,
        ),
        "population_attack/min_k_auc": near_score(
            "Attack by the least likely tokens (min-k%): area under the ROC curve",
            "min-k% AUC",
            "How well the least likely fifth of its tokens tells D_f from sequences never trained on: 0.5 is guessing.",
            ideal=0.5,
        ),
        "population_attack/ratio_auc": near_score(
            "Attack by the ratio to a reference model: area under the ROC curve",
            "loss ratio AUC",
            "How well the loss over a reference model's tells D_f from samples never trained on: 0.5 is guessing.",
            ideal=0.5,
        ),
        **low_fpr_rates(
            "population_attack",
            "Population attack",
            "population attack",
            "Share of D_f whose loss gives it away when the attack may err on {rate} % of the samples never trained "
            "on. Guessing gives (k + 1) / (M + 1) where it may err on k of M.",
        ),
    }

    def __init__(
        self, *, reference: nn.Module | None = None, bootstrap: int = 1000, **evaluator: Any
    ) -> None:
        in_range("bootstrap", bootstrap, "[2, inf)", "; 1000 is usual", whole=True)
        super().__init__(**evaluator)
        self.reference = reference
        self.bootstrap = bootstrap

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Rank the losses of the forget set among those of the non-members."""
        losses = audit.outputs(model, "nonmember").loss
        forget = population_attack_scores(audit.outputs(model, "forget").loss, losses)
        nonmember = population_attack_scores(losses, losses)
        intervals = ranking_intervals(
            forget, nonmember, torch.Generator().manual_seed(audit.seed), resamples=self.bootstrap
        )
        audit.details.update(attack_details(forget, nonmember, intervals))
        rates = ranking_rates(forget, nonmember) | self._with_more(model, audit)
        return {f"{self.name}/{rate}": value for rate, value in rates.items()}

    def _with_more(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Return how well the attacks do that know the tokens, or a reference model, where there are such."""
        ours = [audit.outputs(model, stream) for stream in ("forget", "nonmember")]
        more: dict[str, float] = {}
        if isinstance(ours[0].task, TokenScores):
            more["min_k_auc"] = auc(*(min_k(ours[0].task.logs(each.logits)) for each in ours))
        if self.reference is not None:
            reference = self.reference

            def asked() -> list[Outputs]:
                model = audit.runtime.place(clone(reference))
                streams = ("forget", "nonmember")
                return list(ask(model, audit.data, streams, audit.runtime, audit.adapter).values())

            theirs = self.once(audit.adapter, [reference, audit.data], asked)
            ratios = [
                -our.loss / their.loss.clamp_min(1e-12) for our, their in zip(ours, theirs, strict=True)
            ]
            more["ratio_auc"] = auc(*ratios)
        return more
