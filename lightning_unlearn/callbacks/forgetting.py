"""Accuracies on the streams and what follows from them; trains nothing."""

from typing import ClassVar

from torch import nn

from lightning_unlearn.callbacks.audit import Audit
from lightning_unlearn.callbacks.base import Evaluator
from lightning_unlearn.ensembles import Outputs
from lightning_unlearn.functional import forgetting_rate, memory_retention_rate, similarity

__all__ = ["ForgettingMetrics"]

_SETS = {"forget": "forget set", "retain": "retain set", "nonmember": "non-member set"}
_SHOWN = 2000  # posteriors kept for a histogram; more would not change what it shows


class ForgettingMetrics(Evaluator):
    """Accuracy on forget, retain and test set, forgetting rate, memory retention rate and similarity.

    Reports ``accuracy/forget``, ``accuracy/retain`` and ``accuracy/test`` in [0, 1]; with a known source model
    ``forgetting_rate`` and ``memory_retention_rate`` (Zuo et al., "Machine Unlearning Through Fine-Grained Model
    Parameters Perturbation", eq. 17-18); with a known retrained model ``similarity``, the mean of 1 − JS (base
    2) of the two models' posteriors on the forget set (ibid., section IV-B). Arguments are those of
    :class:`~lightning_unlearn.callbacks.base.Evaluator`.
    """

    default_name: ClassVar[str] = "forgetting"

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Measure accuracies and the rates that the known controls allow."""
        streams = [s for s in ("forget", "retain", "test") if audit.data.stream_size(s)]
        metrics = {f"accuracy/{stream}": audit.outputs(model, stream).accuracy for stream in streams}
        if audit.source is not None:
            before = audit.outputs(audit.source, "forget").accuracy
            if before > 0:  # relative to nothing the rates are undefined, and then not reported
                metrics["forgetting_rate"] = forgetting_rate(before, metrics["accuracy/forget"])
                metrics["memory_retention_rate"] = memory_retention_rate(metrics["accuracy/retain"], before)
        audit.details["posteriors"] = {
            _SETS[stream]: _true_class_posteriors(audit.outputs(model, stream))
            for stream in _SETS
            if audit.data.stream_size(stream)
        }
        if audit.retrained is not None:
            ours, theirs = audit.outputs(model, "forget"), audit.outputs(audit.retrained, "forget")
            metrics["similarity"] = float(similarity(ours.posteriors, theirs.posteriors))
        return metrics


def _true_class_posteriors(outputs: Outputs) -> list[float]:
    chosen = outputs.posteriors.gather(1, outputs.targets[:, None]).squeeze(1)
    return [round(value, 6) for value in chosen[:_SHOWN].tolist()]
