"""Training and asking models outside a Trainer's loop; knows neither methods nor callbacks."""

from lightning_unlearn.ensembles.inference import Outputs, predict
from lightning_unlearn.ensembles.runtime import Runtime, isolated_rng
from lightning_unlearn.ensembles.training import train_classifier

__all__ = ["Outputs", "Runtime", "isolated_rng", "predict", "train_classifier"]
