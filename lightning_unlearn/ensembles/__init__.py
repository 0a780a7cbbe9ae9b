"""Train and ask models outside a Trainer's loop."""

from lightning_unlearn.core.seeds import isolated_rng, restore_rng_state, rng_state
from lightning_unlearn.engine.predict import Outputs, ask, predict
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.engine.train import train_classifier
from lightning_unlearn.ensembles.ensemble import Ensemble, train_ensemble
from lightning_unlearn.ensembles.recipe import Member, Recipe

__all__ = [
    "Ensemble",
    "Member",
    "Outputs",
    "Recipe",
    "Runtime",
    "ask",
    "isolated_rng",
    "predict",
    "restore_rng_state",
    "rng_state",
    "train_classifier",
    "train_ensemble",
]
