# ruff: noqa: RUF001 - Greek letters and minus signs are what the papers print
"""What the README's tables say that no signature or docstring can: papers, equations, and what reproduces them.

Names in the last column of :data:`PAPERS` are attributes of ``lightning_unlearn`` (``methods.ReferenceKL``), figures
of a report (``figures/time.png``) or files of this repository (``configs/mnist/compare.yaml``).
"""

from dataclasses import dataclass

CHEN_2024 = "Chen et al. 2024"
CHEN_2021 = "Chen, Wang & Huang 2021"
GAN_2021 = "Chen, Huang & Wang 2021"
ZUO = "Zuo et al."
AKBARI = "Akbari et al."


@dataclass(frozen=True)
class Method:
    """A method's row: where it is published, what it minimises, and the parameters that matter most."""

    source: str
    loss: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluator:
    """An evaluator's row: its source, a control beside source and retrained, metrics that do not carry its name."""

    source: str
    control: str = ""
    metrics: tuple[str, ...] = ()


_PERTURBED = "CE(D_r) + λ·JS(P‖P_source) on D_f, from perturbed weights"

METHODS = {
    "Retrain": Method("the oracle of all the papers", "CE(D_r), from fresh weights", ("fresh",)),
    "ReferenceKL": Method(
        f"{CHEN_2024}, eq. 1-4; {CHEN_2021}, algorithm 1",
        "λ·KL(P_ref‖P) on D_f + (1−λ)·CE(D_r)",
        ("lambda_", "reference_fraction", "reference_epochs", "kl_tolerance"),
    ),
    "TopK": Method(f"{ZUO}, eq. 5-10, algorithm 1", _PERTURBED, ("k", "epsilon", "lambda_", "granularity")),
    "RandomK": Method(f"{ZUO}, eq. 7-10, algorithm 1", _PERTURBED, ("fraction", "epsilon", "lambda_", "mix")),
    "RandomTopK": Method(f"{ZUO}, §IV-C4, figure 8", _PERTURBED, ("k", "fraction", "epsilon", "lambda_")),
    "EUk": Method(
        f"{ZUO}, §IV-A; Goel et al. 2022",
        "CE(D_r), the last k tensors from fresh weights, others frozen",
        ("k",),
    ),
    "CFk": Method(
        f"{ZUO}, §IV-A; Goel et al. 2022", "CE(D_r), the last k tensors only, others frozen", ("k",)
    ),
    "FineTune": Method(
        "Golatkar et al. 2020; Warnecke et al. 2023, baselines", "CE(D_r), from the source's weights"
    ),
    "NegGradPlus": Method(
        "Kurmanji et al. 2023, baseline; bound and early end ours",
        "α·CE(D_r) − (1−α)·min(CE(D_f), clamp), then CE(D_r) alone",
        ("alpha", "clamp", "ascent_share"),
    ),
    "WGAN": Method(
        f"{GAN_2021}, eq. 1-6",
        "−α·E[D(S(P(D_f)))] + (1−α)·CE on a few of D_r, against a critic D (WGAN-GP)",
        ("alpha", "critic_steps", "penalty_weight", "sort", "retain_fraction"),
    ),
}

EVALUATORS = {
    "ForgettingMetrics": Evaluator(
        f"{ZUO}, eq. 17-18, §IV-B",
        metrics=(
            "accuracy/test",
            "accuracy/test_retained_classes",
            "accuracy/test_forgotten_classes",
            "accuracy/retain",
            "accuracy/forget",
            "forgetting_rate",
            "memory_retention_rate",
            "similarity",
        ),
    ),
    "MembershipInference": Evaluator(f"{CHEN_2024}, §IV-A; {GAN_2021}, §2.5, eq. 7"),
    "Backdoor": Evaluator(f"{CHEN_2024}, §IV-B, §V-E; {CHEN_2021}, algorithm 2, definition 4"),
    "UnlearningDegree": Evaluator(
        f"{ZUO}, eq. 11-14, algorithm 2", control="null: a model that changed and forgot nothing"
    ),
    "ForgettingQuality": Evaluator(
        f"{AKBARI}, eq. 1-2; NeurIPS 2023 challenge", control="null: K other retrained models"
    ),
    "ULiRA": Evaluator("Hayes et al. 2024", control="null: K other retrained models"),
    "LiRA": Evaluator("Carlini et al. 2022"),
    "RMIA": Evaluator("Zarifzadeh et al. 2024"),
    "KLOM": Evaluator("Georgiev et al. 2024", control="null: K other retrained models"),
    "PopulationAttack": Evaluator("Ye et al. 2022, attack P"),
    "RelearnTime": Evaluator("Golatkar et al. 2020, §6", control="an untrained model"),
}

PARTS = {
    "methods": ("UnlearningModule", "Perturbation", "SourceCheckpoint"),
    "callbacks": ("Evaluator", "ManyModels", "Audit", "Watcher", "Export"),
}
"""What is neither method nor evaluator: bases to build on, and helpers."""

METRICS = {
    "ForgettingRate": ("functional.forgetting_rate", f"{ZUO}, eq. 17"),
    "MemoryRetentionRate": ("functional.memory_retention_rate", f"{ZUO}, eq. 18"),
    "Similarity": ("functional.similarity", f"{ZUO}, §IV-B d"),
    "Acceleration": ("functional.acceleration", f"{ZUO}, §IV-B c"),
    "KLDistance": ("functional.kl_divergence", f"{CHEN_2024}, eq. 1"),
    "ActivationDistance": ("functional.activation_distance", "-"),
    "PredictiveEntropy": ("functional.entropy", "-"),
    "Confidence": ("functional.confidence", "-"),
    "WeightDistance": ("functional.weight_distance", "-"),
    "RelearnTime": ("functional.relearn_time", "Golatkar et al. 2020, §6"),
}

DATAMODULES = {
    "UnlearningDataModule": "any of the below, or your own",
    "Digits": "comes inside scikit-learn",
    "MNIST": f"{CHEN_2024}, table 1",
    "FashionMNIST": f"{CHEN_2024}, table 1; {GAN_2021}, table 1",
    "SVHN": f"{CHEN_2024}, table 1; {GAN_2021}, table 1",
    "CIFAR10": f"{CHEN_2024}, table 1; {ZUO}; {GAN_2021}, table 1",
    "CIFAR100": f"{GAN_2021}, table 1",
    "Purchase": f"{GAN_2021}, §3.2",
    "Location": "Shokri et al. 2017",
    "CelebA": f"{AKBARI}, §3",
    "ImageFolder": "your own images",
    "Arrays": "your own arrays",
    "TensorDataModule": "base of the built-in ones",
}

MODELS = {
    "Classifier": "trains any of the below, or your own",
    "Network": "base of those with weights of their own kind",
    "LeNet5": f"{CHEN_2024}, table 1; {GAN_2021}, table 1",
    "MLP": f"{CHEN_2024}, table 1",
    "PurchaseNet": f"{GAN_2021}, table 1",
    "SVHNConv2": f"{GAN_2021}, table 1",
    "SVHNConv8": f"{CHEN_2024}, §IV-A",
    "ResNet8": "for quick runs",
    "ResNet18": f"{CHEN_2024}, table 1; {ZUO}; {GAN_2021}, table 1; {AKBARI}, §3",
    "ResNet34": "-",
    "ResNet50": f"{GAN_2021}, figure 7",
    "ResNet101": f"{GAN_2021}, figure 7",
    "WideResNet": f"{CHEN_2021}, table I",
    "VGG16": f"{CHEN_2024}, table 1; {CHEN_2021}, table I",
    "VGG19": f"{ZUO}, §IV-C",
    "DenseNet121": f"{ZUO}, §IV-C",
    "GoogLeNet": f"{ZUO}, §IV-C",
    "ConvPerturber": f"{ZUO}, figure 3",
    "DensePerturber": f"{ZUO}, figure 3, for tables",
}

MAIN_PARAMETERS = {
    "UnlearningDataModule": ("datamodule", "forget", "nonmember", "shadow", "previous", "backdoor", "ledger"),
}
"""Of what has too many to list."""

NEEDED_ARGUMENTS = {
    "Classifier": None,  # the network's own
    "Network": None,
    "ConvPerturber": {"channels": 3},
    "DensePerturber": {"shape": (600,)},
}
"""Arguments without a default with which parameters are counted; None where there is nothing to count."""

_SWEEP = "figures/sweep_*.png"

PAPERS = {
    f"{CHEN_2024}: “Private Data Protection with Machine Unlearning for Next-Generation Networks”": (
        (
            "eq. 1",
            "distance of the posteriors on D_f",
            ("functional.kl_divergence", "functional.kl_from_logits"),
        ),
        (
            "eq. 2, 3",
            "λ·distance + (1−λ)·cross-entropy",
            ("functional.reference_kl_loss", "methods.ReferenceKL"),
        ),
        ("eq. 4", "stop when the distance is near 0", ("methods.ReferenceKL.on_train_epoch_end",)),
        ("§III-C", "reference model on D_s", ("methods.ReferenceKL.prepare",)),
        (
            "§IV-A, figure 7",
            "membership inference",
            ("callbacks.MembershipInference", "figures/membership_inference.png"),
        ),
        (
            "§IV-B, figures 3, 4",
            "backdoor in D_f",
            ("data.Poison", "data.PatchTrigger", "callbacks.Backdoor"),
        ),
        ("table 1", "data sets", ("data.MNIST", "data.FashionMNIST", "data.SVHN", "data.CIFAR10")),
        ("table 1", "networks", ("models.LeNet5", "models.MLP", "models.ResNet18", "models.VGG16")),
        ("table 2", "default settings", ("methods.ReferenceKL", "configs/mnist/backdoor_lambda.yaml")),
        ("table 3", "time and speed-up", ("metrics.Acceleration", "figures/time.png")),
        (
            "figure 5",
            "accuracies",
            ("callbacks.ForgettingMetrics", "configs/mnist/compare.yaml", "figures/accuracy.png"),
        ),
        ("figure 8", "backdoor, MNIST", ("configs/mnist/backdoor_lambda.yaml", "figures/backdoor_curve.png")),
        (
            "figure 9",
            "backdoor, CIFAR-10 (a slice of it)",
            ("configs/cifar10/small.yaml", "configs/evaluators/backdoor.yaml", "figures/backdoor_curve.png"),
        ),
        ("figure 10", "influence of λ, MNIST", ("configs/mnist/backdoor_lambda.yaml", _SWEEP)),
        ("figure 11", "influence of λ, CIFAR-10", ()),
        ("figure 12", "posteriors before and after", ("figures/posterior_change.png",)),
        ("figure 13", "posteriors, retrained and reference model", ("reports.posterior_histograms",)),
    ),
    f"{CHEN_2021}: “Lightweight machine unlearning in neural network”": (
        (
            "eq. 1-6, algorithm 1",
            "unlearning with a reference model",
            ("functional.reference_kl_loss", "methods.ReferenceKL"),
        ),
        ("definition 2", "reference model", ("methods.ReferenceKL.prepare",)),
        ("definition 3, figure 7", "membership inference", ("callbacks.MembershipInference",)),
        ("algorithm 2, figure 3", "backdoor in D_f", ("data.Poison", "data.UnlearningDataModule")),
        (
            "definition 4, figures 8, 9",
            "does the backdoor work",
            ("callbacks.Backdoor", "figures/backdoor.png"),
        ),
        (
            "table I",
            "networks",
            ("models.MLP", "models.LeNet5", "models.ResNet18", "models.VGG16", "models.WideResNet"),
        ),
        (
            "tables II, III",
            "settings and time of the reference model",
            ("methods.ReferenceKL", "figures/time.png"),
        ),
        ("table IV, figure 14", "size of D_s, MNIST", ("configs/mnist/backdoor_reference_size.yaml", _SWEEP)),
        ("table V, figure 15", "size of D_s, CIFAR-10", ()),
        ("figure 5", "accuracies", ("figures/accuracy.png",)),
        ("figure 10", "time", ("figures/time.png",)),
        ("figure 11", "influence of λ, MNIST", ("configs/mnist/backdoor_lambda.yaml", _SWEEP)),
        ("figure 12", "influence of λ, CIFAR-10", ()),
        ("figures 13, 16", "posteriors", ("reports.posterior_histograms", "figures/posterior_change.png")),
    ),
    f"{ZUO}: “Machine Unlearning Through Fine-Grained Model Parameters Perturbation”": (
        ("eq. 5, 6", "sensitivity", ("functional.gradient_sensitivities", "functional.sample_sensitivities")),
        (
            "eq. 7",
            "perturbation",
            ("functional.perturb_scaled", "functional.select_top_k", "functional.select_random"),
        ),
        ("algorithm 1, line 12", "mixing", ("functional.perturb_mixed",)),
        ("eq. 8, 9", "Jensen-Shannon divergence", ("functional.js_divergence", "functional.js_from_logits")),
        (
            "eq. 10, algorithm 1",
            "fine-tuning",
            ("functional.perturbation_loss", "methods.TopK", "methods.RandomK"),
        ),
        ("eq. 11", "D_p is easy for the source", ("callbacks.UnlearningDegree",)),
        ("eq. 12, 13, figure 3", "SPD-GAN", ("functional.spd_gan_loss", "models.ConvPerturber")),
        (
            "eq. 14, algorithm 2",
            "unlearning degree",
            ("functional.unlearning_degree", "callbacks.UnlearningDegree"),
        ),
        ("eq. 17", "forgetting rate", ("functional.forgetting_rate", "metrics.ForgettingRate")),
        (
            "eq. 18",
            "memory retention rate",
            ("functional.memory_retention_rate", "metrics.MemoryRetentionRate"),
        ),
        ("§IV-A", "baselines", ("methods.EUk", "methods.CFk", "methods.Retrain")),
        ("§IV-B", "similarity, acceleration", ("metrics.Similarity", "metrics.Acceleration")),
        ("table I", "how many parameters", ("models.last_parameter_tensors", "models.count_parameters")),
        ("table II", "all strategies (a slice of CIFAR-10)", ("configs/cifar10/small.yaml",)),
        ("figures 1, 6", "accuracy over the epochs", ("figures/training_*.png",)),
        ("figure 4", "perturbed images", ("callbacks.UnlearningDegree",)),
        ("figure 5", "choice of K (digits)", ("configs/sweeps/top_k.yaml",)),
        ("figure 7", "acceleration", ("figures/time.png",)),
        ("figure 8, §IV-C4", "Random-TopK", ("functional.select_random_top_k", "methods.RandomTopK")),
        (
            "figure 9",
            "degree of all strategies",
            ("configs/evaluators/unlearning_degree.yaml", "figures/unlearning_degree.png"),
        ),
    ),
    f"{AKBARI}: “Machine Unlearning”": (
        (
            "eq. 1, 2, figure 1",
            "ε from the errors of attacks",
            (
                "functional.forgetting_quality",
                "callbacks.ForgettingQuality",
                "configs/digits/forgetting_quality.yaml",
            ),
        ),
        ("§2", "K models of each kind", ("ensembles.train_ensemble", "callbacks.ManyModels")),
        ("§2", "weighting by utility", ("functional.forgetting_final_score",)),
        ("§3", "2% of the identities, skewed to the young", ("data.Groups", "data.CelebA")),
    ),
    f"{GAN_2021}: “Machine unlearning via GAN”": (
        ("eq. 1-4, figure 1", "forgotten as non-members are", ("methods.WGAN",)),
        ("eq. 5", "critic", ("functional.wasserstein_critic_loss", "functional.gradient_penalty")),
        ("eq. 6", "generator", ("functional.generator_loss",)),
        ("§2.4, figure 2", "sorting", ("functional.sort_posteriors",)),
        ("§2.5", "membership inference with shadow models", ("callbacks.MembershipInference",)),
        ("eq. 7, figure 3", "false negative rate", ("functional.membership_rates",)),
        ("§3.2", "Purchase-10/20/50/100", ("data.Purchase",)),
        (
            "table 1",
            "networks",
            ("models.LeNet5", "models.SVHNConv2", "models.ResNet18", "models.PurchaseNet"),
        ),
        (
            "table 2, figure 6",
            "overfit, test accuracy",
            ("callbacks.ForgettingMetrics", "figures/accuracy.png"),
        ),
        ("figures 4, 5", "confusion matrices", ("figures/membership_confusion.png",)),
        ("figure 7", "time", ("models.ResNet50", "models.ResNet101", "figures/time.png")),
        ("figures 8, 9", "influence of α", ("configs/location30/wgan_alpha.yaml", _SWEEP)),
        (
            "figure 10",
            "overfitting",
            ("reports.posterior_histograms", "notebooks/5_reading_the_numbers.ipynb"),
        ),
    ),
}

MEASURED = {
    "mnist": "configs/mnist/compare.yaml",
    "mnist_backdoor": "configs/mnist/compare.yaml --config configs/evaluators/backdoor.yaml",
    "cifar10_small": "configs/cifar10/small.yaml",
}
"""Comparisons whose report.json is kept in ``tests/measured``, with the configuration that gave it."""

MEASURED_METRICS = (
    "accuracy/test",
    "accuracy/retain",
    "accuracy/forget",
    "forgetting_rate",
    "memory_retention_rate",
    "similarity",
    "membership_inference/accuracy",
    "backdoor/success_rate_forget",
    "unlearning_degree/degree",
    "unlearning_degree/null",
    "unlearning_degree/calibrated",
    "time/total_s",
    "acceleration",
)
"""Columns of the measured tables, where they were measured."""

MEASURED_HEADLINE = "mnist_backdoor"
"""The comparison whose rows stand in the table of methods too."""

MEASURED_HEADLINE_METRICS = {
    "accuracy/test": " %",
    "backdoor/success_rate_forget": " %",
    "acceleration": "×",
}
"""What of them, with its unit."""
