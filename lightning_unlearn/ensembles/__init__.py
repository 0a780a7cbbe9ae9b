"""Training and asking models outside a Trainer's loop; knows neither methods nor callbacks."""

from lightning_unlearn.core.seeds import isolated_rng, restore_rng_state, rng_state
from lightning_unlearn.engine.predict import Outputs, predict
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.engine.train import train_classifier
from lightning_unlearn.ensembles.answers import predict_ensemble
from lightning_unlearn.ensembles.ensemble import train_ensemble
from lightning_unlearn.ensembles.fitting import fit_each
from lightning_unlearn.ensembles.recipe import Member, Recipe
from lightning_unlearn.ensembles.result import Ensemble

__all__ = [
    "Ensemble",
    "Member",
    "Outputs",
    "Recipe",
    "Runtime",
    "fit_each",
    "isolated_rng",
    "predict",
    "predict_ensemble",
    "restore_rng_state",
    "rng_state",
    "train_classifier",
    "train_ensemble",
]
