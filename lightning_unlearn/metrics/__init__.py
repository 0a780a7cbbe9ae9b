"""``torchmetrics.Metric`` classes over :mod:`lightning_unlearn.functional`, and how a metric is declared."""

from lightning_unlearn.metrics.cost import Acceleration, RelearnTime
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.metrics.divergence import ActivationDistance, KLDistance, Similarity
from lightning_unlearn.metrics.forgetting import ForgettingRate, MemoryRetentionRate
from lightning_unlearn.metrics.uncertainty import Confidence, PredictiveEntropy
from lightning_unlearn.metrics.weights import WeightDistance

__all__ = [
    "Acceleration",
    "ActivationDistance",
    "Confidence",
    "DeclaredMetric",
    "ForgettingRate",
    "KLDistance",
    "MemoryRetentionRate",
    "PredictiveEntropy",
    "RelearnTime",
    "Similarity",
    "WeightDistance",
]
