"""Pure functions: divergences, losses, selections, rates, intervals. No classes, no Lightning, no state."""

from lightning_unlearn.functional.divergence import (
    activation_distance,
    confidence,
    entropy,
    js_divergence,
    js_from_logits,
    kl_divergence,
    kl_from_logits,
    posteriors,
    similarity,
)
from lightning_unlearn.functional.gan import (
    generator_loss,
    gradient_penalty,
    sort_posteriors,
    wasserstein_critic_loss,
)
from lightning_unlearn.functional.membership import (
    auc,
    bootstrap_intervals,
    confusion_matrix,
    membership_rates,
    roc_curve,
    tpr_at_fpr,
)
from lightning_unlearn.functional.sensitivity import (
    gradient_sensitivities,
    perturb_mixed,
    perturb_scaled,
    sample_sensitivities,
    select_random,
    select_random_top_k,
    select_top_k,
    select_top_k_tensors,
)
from lightning_unlearn.functional.spd_gan import spd_gan_loss, unlearning_degree
from lightning_unlearn.functional.statistics import (
    acceleration,
    confidence_interval,
    forgetting_rate,
    memory_retention_rate,
)
from lightning_unlearn.functional.unlearning import perturbation_loss, reference_kl_loss
from lightning_unlearn.functional.weights import weight_distance

__all__ = [
    "acceleration",
    "activation_distance",
    "auc",
    "bootstrap_intervals",
    "confidence",
    "confidence_interval",
    "confusion_matrix",
    "entropy",
    "forgetting_rate",
    "generator_loss",
    "gradient_penalty",
    "gradient_sensitivities",
    "js_divergence",
    "js_from_logits",
    "kl_divergence",
    "kl_from_logits",
    "membership_rates",
    "memory_retention_rate",
    "perturb_mixed",
    "perturb_scaled",
    "perturbation_loss",
    "posteriors",
    "reference_kl_loss",
    "roc_curve",
    "sample_sensitivities",
    "select_random",
    "select_random_top_k",
    "select_top_k",
    "select_top_k_tensors",
    "similarity",
    "sort_posteriors",
    "spd_gan_loss",
    "tpr_at_fpr",
    "unlearning_degree",
    "wasserstein_critic_loss",
    "weight_distance",
]
