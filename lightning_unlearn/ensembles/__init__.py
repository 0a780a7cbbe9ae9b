"""Training and asking models outside a Trainer's loop; knows neither methods nor callbacks."""

from lightning_unlearn.ensembles.inference import Outputs, predict
from lightning_unlearn.ensembles.runtime import Runtime
from lightning_unlearn.ensembles.training import train_classifier
from lightning_unlearn.rng import isolated_rng, restore_rng_state, rng_state

__all__ = [
    "Outputs",
    "Runtime",
    "isolated_rng",
    "predict",
    "restore_rng_state",
    "rng_state",
    "train_classifier",
]
