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
from lightning_unlearn.functional.forgetting_quality import (
    ForgettingQualityResult,
    forgetting_final_score,
    forgetting_quality,
    forgetting_quality_intervals,
)
from lightning_unlearn.functional.gan import (
    generator_loss,
    gradient_penalty,
    sort_posteriors,
    wasserstein_critic_loss,
)
from lightning_unlearn.functional.klom import klom
from lightning_unlearn.functional.lira import lira_scores, logit_scaled_confidence
from lightning_unlearn.functional.membership import (
    auc,
    bootstrap_intervals,
    confusion_matrix,
    membership_rates,
    ranking_intervals,
    ranking_rates,
    roc_curve,
    tpr_at_fpr,
)
from lightning_unlearn.functional.population_attack import population_attack_scores
from lightning_unlearn.functional.relearning import relearn_target, relearn_time
from lightning_unlearn.functional.rmia import rmia_scores, rmia_unlearned_scores
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
from lightning_unlearn.functional.u_lira import u_lira_intervals, u_lira_rates, u_lira_scores
from lightning_unlearn.functional.unlearning import (
    annealed,
    bounded_ascent,
    perturbation_loss,
    reference_kl_loss,
)
from lightning_unlearn.functional.weights import weight_distance

__all__ = [
    "ForgettingQualityResult",
    "acceleration",
    "activation_distance",
    "annealed",
    "auc",
    "bootstrap_intervals",
    "bounded_ascent",
    "confidence",
    "confidence_interval",
    "confusion_matrix",
    "entropy",
    "forgetting_final_score",
    "forgetting_quality",
    "forgetting_quality_intervals",
    "forgetting_rate",
    "generator_loss",
    "gradient_penalty",
    "gradient_sensitivities",
    "js_divergence",
    "js_from_logits",
    "kl_divergence",
    "kl_from_logits",
    "klom",
    "lira_scores",
    "logit_scaled_confidence",
    "membership_rates",
    "memory_retention_rate",
    "perturb_mixed",
    "perturb_scaled",
    "perturbation_loss",
    "population_attack_scores",
    "posteriors",
    "ranking_intervals",
    "ranking_rates",
    "reference_kl_loss",
    "relearn_target",
    "relearn_time",
    "rmia_scores",
    "rmia_unlearned_scores",
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
    "u_lira_intervals",
    "u_lira_rates",
    "u_lira_scores",
    "unlearning_degree",
    "wasserstein_critic_loss",
    "weight_distance",
]
