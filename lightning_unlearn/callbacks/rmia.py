"""RMIA: is a sample likelier under the model than others are, once its own difficulty is taken off?"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_unlearn.callbacks.audit import Audit
from lightning_unlearn.callbacks.many_models import ManyModels
from lightning_unlearn.callbacks.populations import Population
from lightning_unlearn.functional import rmia_scores, u_lira_intervals, u_lira_rates

__all__ = ["RMIA"]


class RMIA(ManyModels):
    """The robust membership inference attack on K unlearned models, with K references that never saw the samples.

    A sample's posterior over its mean under the references is set against that of the population's samples, the
    test set (:func:`~lightning_unlearn.functional.rmia_scores`; Zarifzadeh, Liu & Shokri, "Low-Cost High-Power
    Membership Inference Attacks", 2024). It needs few references. Attacked are K unlearned models and, for its
    false positives, K retrained models that are no references.

    - ``<name>/auc``: area under its receiver operating characteristic; 0.5 is guessing. Below: the samples look less
      known than ones never seen.
    - ``<name>/tpr_at_1pct_fpr`` and ``<name>/tpr_at_0.1pct_fpr``: 0.01 and 0.001 are guessing.

    Args:
        models: K, at least 2.
        gamma: How far a sample must dominate another, above 0.
        offline: Share ``a`` in [0, 1] by which models trained with a sample are guessed from those without.
        bootstrap: Resamples for the intervals.
        **many: Arguments of :class:`~lightning_unlearn.callbacks.many_models.ManyModels`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    default_name: ClassVar[str] = "rmia"
    least_models: ClassVar[int] = 2

    def __init__(
        self,
        models: int = 64,
        *,
        gamma: float = 1.0,
        offline: float = 0.3,
        bootstrap: int = 1000,
        **many: Any,
    ) -> None:
        if not 0 < gamma < float("inf"):
            raise ValueError(f"gamma must be a finite number above 0, got {gamma}; 1 or 2 are usual")
        if not 0 <= offline <= 1:
            raise ValueError(f"offline must lie in [0, 1], got {offline}; 0.3 is usual")
        if bootstrap < 2:
            raise ValueError(f"bootstrap must be at least 2, got {bootstrap}")
        super().__init__(models, **many)
        self.gamma = gamma
        self.offline = offline
        self.bootstrap = bootstrap

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Attack K models of the audited one's kind, and K retrained ones."""
        if not audit.data.stream_size("test"):
            raise ValueError("RMIA needs a test set as its population, and the data has none")
        references = self.retrained_population(model, audit)
        ours, theirs = (
            self._attack(some, references)
            for some in (
                self.audited_population(model, audit),
                self.retrained_population(model, audit, second=True),
            )
        )
        generator = torch.Generator().manual_seed(audit.seed)
        rates = u_lira_rates(ours, theirs)
        intervals = u_lira_intervals(ours, theirs, generator, resamples=self.bootstrap)
        del rates["accuracy"], intervals["accuracy"]  # its scores have no natural threshold
        audit.details.update(
            {
                **self.counted(),
                "gamma": self.gamma,
                "offline": self.offline,
                "ci95": {name: list(ends) for name, ends in intervals.items()},
            }
        )
        self.save_samples(model, audit, unlearned=ours, retrained=theirs)
        return {f"{self.name}/{name}": value for name, value in rates.items()}

    def _attack(self, attacked: Population, references: Population) -> Tensor:
        """Return the scores of each model on the forget set, ``(K, n)``."""
        known, known_population = (_log_posterior(references, stream) for stream in ("forget", "test"))
        pairs = zip(*(_log_posterior(attacked, stream) for stream in ("forget", "test")), strict=True)
        return torch.stack(
            [
                rmia_scores(own, known, population, known_population, gamma=self.gamma, offline=self.offline)
                for own, population in pairs
            ]
        )


def _log_posterior(population: Population, stream: str) -> Tensor:
    """Return the logarithm of the true class's posterior, which the logit-scaled confidence determines."""
    return nn.functional.logsigmoid(population.confidence[stream])
