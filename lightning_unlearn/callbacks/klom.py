"""KLOM: how far are the unlearned models' margins from the retrained ones'?"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.many_models import ManyModels, confidence_metrics
from lightning_unlearn.callbacks.base.populations import Population
from lightning_unlearn.core.checks import in_range
from lightning_unlearn.functional import klom
from lightning_unlearn.metrics.declared import DeclaredMetric, near_score


class KLOM(ManyModels):
    """KL divergence of margins between K unlearned and K retrained models, and its null.

    For each sample the distributions of the margin over models are compared
    (:func:`~lightning_unlearn.functional.klom`; Georgiev et al., "Attribute-to-Delete", 2024). It depends on K and is
    never 0, so the same of K more retrained models is given beside it and taken off.

    - ``<name>/mean``: mean over the forget set, in nats.
    - ``<name>/null``: the same between K other retrained models and the retrained ones.
    - ``<name>/excess``: mean − null, 0 for a perfect unlearner whatever K.
    - ``<name>/nonmember``: the excess on samples that no model was trained on.
    - ``<name>/difference``: excess − nonmember.
    - ``<name>/matched``: the excess at matched confidence, which decides.
    - ``<name>/p95``: its 95th percentile: what the worst-forgotten samples have.
    - ``<name>/test``: mean over the test set: what unlearning has changed that it should not. Absent without one.

    Args:
        models: K, at least 2; 100 are usual.
        bins: Bins of the histograms.
        **many: Arguments of :class:`~lightning_unlearn.callbacks.base.many_models.ManyModels`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    default_name: ClassVar[str] = "klom"
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "klom/mean": near_score(
            "KLOM: mean over D_f",
            "KLOM",
            "KL divergence of the unlearned models' margins from the retrained models', mean over D_f, in nats. It "
            "depends on how many models were compared, and that of retrained models is not 0 either.",
        ),
        "klom/p95": near_score(
            "KLOM: 95th percentile over D_f",
            "KLOM, p95",
            "The same for the worst-forgotten samples: 5 % of D_f are beyond it.",
        ),
        "klom/test": near_score(
            "KLOM: mean over the test set",
            "KLOM, test",
            "The same on the test set: what unlearning has changed that it should not have.",
        ),
        "klom/null": DeclaredMetric(
            "KLOM of other retrained models",
            "KLOM, null",
            "KL divergence of a second set of retrained models' margins, mean over D_f: what a perfect unlearner gets.",
            digits=3,
        ),
        "klom/excess": near_score(
            "KLOM: mean over D_f above that of other retrained models",
            "KLOM - null",
            "KLOM minus its null: 0 is what a perfect unlearner gets, whatever the number of models.",
            headline=True,
            ideal=0.0,
        ),
        **confidence_metrics("klom", "KLOM - null", decides="forgetting", ideal=0.0),
    }
    least_models: ClassVar[int] = 2

    def __init__(self, models: int = 64, *, bins: int = 20, **many: Any) -> None:
        in_range("bins", bins, "[2, inf)", "; 20 are usual", whole=True)
        super().__init__(models, **many)
        self.bins = bins

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Compare K models of the audited one's kind with K retrained ones, and these with K more."""
        unlearned, retrained = self.audited_population(model, audit), self.retrained_population(model, audit)
        null = self.retrained_population(model, audit, second=True)
        populations = (unlearned, null, retrained)
        own, floor = self._divergences(populations, "forget")

        def excess(some: Sequence[Population], stream: str) -> float:
            mine, least = self._divergences(some, stream)
            return float(mine.mean() - least.mean())

        scores = {"mean": own.mean(), "p95": own.quantile(0.95), "null": floor.mean()}
        scores["excess"] = scores["mean"] - scores["null"]
        beside = self.beside_unseen(float(scores["excess"]), excess, populations, audit)
        if "test" in unlearned.confidence:
            scores["test"] = self._divergences(populations, "test")[0].mean()
        shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
        audit.details.update(
            {
                **self.counted(),
                "bins": self.bins,
                "shares": shares.tolist(),
                "quantiles": own.quantile(shares).tolist(),
                "null_quantiles": floor.quantile(shares).tolist(),
            }
        )
        self.save_samples(model, audit, klom=own, null=floor)
        found = {**{name: float(value) for name, value in scores.items()}, **beside}
        return {f"{self.name}/{name}": value for name, value in found.items()}

    def _divergences(self, populations: Sequence[Population], stream: str) -> tuple[Tensor, Tensor]:
        """Return each sample's KLOM of the audited models and of the null's."""
        audited, null, retrained = (some.confidence[stream] for some in populations)
        return klom(audited, retrained, bins=self.bins), klom(null, retrained, bins=self.bins)
