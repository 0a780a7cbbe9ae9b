"""RMIA: is a sample likelier under the model than others are, once its own difficulty is taken off?"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.many_models import ManyModels, confidence_metrics
from lightning_unlearn.callbacks.base.populations import Population
from lightning_unlearn.core.checks import in_range, one_of
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.functional import rmia_scores, rmia_unlearned_scores, u_lira_rates
from lightning_unlearn.metrics.declared import MODELS_FOUND_OUT, DeclaredMetric, low_fpr_rates, near_score

References = Literal["unlearned", "retrained"]

_OFFLINE = 0.3


class RMIA(ManyModels):
    """The robust membership inference attack on K unlearned models, with unlearned and retrained references.

    A sample's posterior over its mean under the references is set against that of the population's samples, the
    test set (Zarifzadeh, Liu & Shokri, "Low-Cost High-Power Membership Inference Attacks", 2024). It needs few
    references:

    - ``references="unlearned"``: the K models that were trained with the forget set and unlearned it, and K that never
      saw it. All 2K are attacked, each left out of its own references
      (:func:`~lightning_unlearn.functional.rmia_unlearned_scores`). The attacker knows the method and can repeat it,
      as U-LiRA's.
    - ``references="retrained"``: K models that never saw the forget set, from which those that did are guessed
      (:func:`~lightning_unlearn.functional.rmia_scores`). The attacker knows nothing of unlearning. Attacked are K
      unlearned models and, for its false positives, K retrained models that are no references.

    The scores:

    - ``<name>/auc``: area under its receiver operating characteristic; 0.5 is guessing. Below: the samples look less
      known than ones never seen.
    - ``<name>/tpr_at_1pct_fpr`` and ``<name>/tpr_at_0.1pct_fpr``; guessing gives (k + 1) / (K + 1) where k of K models
      may be mistaken.
    - ``<name>/nonmember``: the AUC on the non-members, if there are any beside the test set; ``<name>/difference``:
      auc − nonmember; ``<name>/matched``: the AUC at matched confidence.

    Args:
        models: K, at least 2.
        references: ``"unlearned"`` or ``"retrained"``.
        gamma: How far a sample must dominate another, above 0.
        offline: Share ``a`` in [0, 1] by which models trained with a sample are guessed from those without; ``None``
            for 0.3. Only with ``references="retrained"``: with ``"unlearned"`` nothing is guessed.
        bootstrap: Resamples for the intervals.
        **many: Arguments of :class:`~lightning_unlearn.callbacks.base.many_models.ManyModels`.

    Raises:
        ValueError: If an argument is outside its range, or ``offline`` is given where nothing is guessed.
    """

    default_name: ClassVar[str] = "rmia"
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "rmia/auc": near_score(
            "RMIA: area under the ROC curve",
            "RMIA AUC",
            "How well the robust membership inference attack tells that D_f was trained on: 0.5 is guessing, 1 is "
            "certainty, and below 0.5 the samples look less known than ones never seen.",
            ideal=0.5,
        ),
        **low_fpr_rates("rmia", "RMIA", "RMIA", MODELS_FOUND_OUT),
        **confidence_metrics("rmia", "RMIA AUC", ideal=0.5),
    }
    least_models: ClassVar[int] = 2

    def __init__(
        self,
        models: int = 64,
        *,
        references: References = "unlearned",
        gamma: float = 1.0,
        offline: float | None = None,
        bootstrap: int = 1000,
        **many: Any,
    ) -> None:
        one_of("references", references, "unlearned", "retrained")
        in_range("gamma", gamma, "(0, inf)", "; 1 or 2 are usual")
        if offline is not None and references == "unlearned":
            raise ValueError(
                f"offline={offline} guesses models trained with a sample, which references='unlearned' has; leave it "
                "out, or take references='retrained'"
            )
        in_range("offline", offline, "[0, 1]", "; 0.3 is usual", none=True)
        in_range("bootstrap", bootstrap, "[2, inf)", whole=True)
        super().__init__(models, **many)
        self.references = references
        self.gamma = gamma
        self.offline = _OFFLINE if offline is None and references == "retrained" else offline
        self.bootstrap = bootstrap

    def require(self, data: UnlearningDataModule) -> None:
        """Refuse data without a population to compare with."""
        if not data.stream_size("test"):
            raise ValueError("RMIA needs a test set as its population, and the data has none")

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Attack K models of the audited one's kind and K retrained ones."""
        populations = [self.audited_population(model, audit), self.retrained_population(model, audit)]
        if self.references == "retrained":
            populations.insert(1, self.retrained_population(model, audit, second=True))
        ours, theirs = self._scores(populations, "forget")
        details = {"references": self.references, "gamma": self.gamma}
        if self.offline is not None:
            details["offline"] = self.offline
        # its scores have no natural threshold
        rates = self.attack_rates(model, audit, ours, theirs, self.bootstrap, threshold=False, **details)
        rates |= self.beside_unseen(
            rates["auc"],
            lambda *some: u_lira_rates(*self._scores(*some))["auc"],
            populations,
            audit,
            unseen=populations[0].unseen == "nonmember",
        )
        return {f"{self.name}/{name}": value for name, value in rates.items()}

    def _scores(self, populations: Sequence[Population], stream: str) -> tuple[Tensor, Tensor]:
        """Return the scores on a stream of the audited models and of those that never saw it, ``(K, n)`` each."""
        *attacked, references = populations
        if self.references == "unlearned":
            parts = [
                _log_posterior(some, part) for part in (stream, "test") for some in (attacked[0], references)
            ]
            return rmia_unlearned_scores(*parts, gamma=self.gamma)
        ours, theirs = (self._attack(some, references, stream) for some in attacked)
        return ours, theirs

    def _attack(self, attacked: Population, references: Population, stream: str) -> Tensor:
        """Return the scores of each model on a stream, ``(K, n)``."""
        known, known_population = (_log_posterior(references, part) for part in (stream, "test"))
        pairs = zip(*(_log_posterior(attacked, part) for part in (stream, "test")), strict=True)
        return torch.stack(
            [
                rmia_scores(own, known, population, known_population, gamma=self.gamma, offline=self.offline)
                for own, population in pairs
            ]
        )


def _log_posterior(population: Population, stream: str) -> Tensor:
    """Return the logarithm of the true class's posterior, which the logit-scaled confidence determines."""
    return nn.functional.logsigmoid(population.confidence[stream])
