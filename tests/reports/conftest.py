"""Synthetic reports with the numbers one would expect of digits, for every test of the reports."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from lightning_unlearn.reports import RunDetails
from lightning_unlearn.reports.schema import Failure, Report, build_report

SEEDS = (0, 1, 2)
WITH_CURVES = 3
"""Models of a report whose training curves were logged; more of the same figure would only take time."""
LONG_NAMES = (
    "reference_kl",
    "top_k",
    "random_k",
    "random_top_k",
    "eu_k",
    "cf_k",
    "wgan",
    "negative_gradient_ascent_with_projection",
    "my_company.privacy.unlearning.OwnUnlearningMethod",
    "fine_tune",
    "bad_teacher",
    "scrub_lambda_0.01_alpha_0.5_steps_200",
)

SWEPT = (
    *(f"wgan_alpha_{value}" for value in ("1.0", "0.2", "0.6")),
    *(f"reference_kl_lambda_{value}" for value in ("1", "0.001", "1e-4")),
)


def make_runs(
    models: tuple[str, ...], seeds: tuple[int, ...], attacked: bool = False
) -> dict[str, dict[int, dict[str, float]]]:
    """Flat metrics: the source knows D_f, the retrained model does not, the methods lie between."""
    runs: dict[str, dict[int, dict[str, float]]] = {}
    for index, model in enumerate(models):
        runs[model] = {}
        kept = {"source": 1.0, "retrain": 0.0}.get(model, 0.12 * index)
        for seed in seeds:
            noise = np.random.default_rng([seed, index])
            prepare = 0.0 if model in ("source", "retrain") else 0.3 + 0.1 * index
            unlearn = 14.0 if model in ("source", "retrain") else 0.9 + 0.3 * index
            total = prepare + unlearn + 0.05 * noise.random()
            member = 0.52 + 0.33 * kept + 0.01 * noise.standard_normal()
            metrics = {
                "accuracy/forget": min(0.955 + 0.045 * kept + 0.004 * noise.standard_normal(), 1.0),
                "accuracy/retain": min(0.995 - 0.004 * index + 0.002 * noise.standard_normal(), 1.0),
                "accuracy/test": 0.962 - 0.003 * index + 0.003 * noise.standard_normal(),
                "membership_inference/hit_rate": min(member, 1.0),
                "membership_inference/auc": min(0.505 + 0.2 * kept + 0.01 * noise.standard_normal(), 1.0),
                "membership_inference/fnr": max(1.0 - member, 0.0),
                "membership_inference/fpr": 0.48 + 0.01 * noise.standard_normal(),
                "membership_inference/tpr_at_1pct_fpr": 0.012 + 0.02 * abs(noise.standard_normal()),
                "time/total_s": total,
                "time/unlearn_s": unlearn,
            }
            if model != "source":
                metrics["acceleration"] = 14.02 / total
                metrics["similarity"] = 1.0 if model == "retrain" else 0.985 - 0.01 * index * noise.random()
            if prepare:
                metrics["time/prepare_s"] = prepare
            if attacked:
                degree, null = 0.30 - 0.1 * kept, 0.18
                metrics |= {
                    "backdoor/success_rate_forget": float(
                        np.clip(0.02 + 0.95 * kept + 0.01 * noise.normal(), 0, 1)
                    ),
                    "backdoor/success_rate_test": float(
                        np.clip(0.02 + 0.93 * kept + 0.01 * noise.normal(), 0, 1)
                    ),
                    "backdoor/recovered_accuracy": float(
                        np.clip(0.95 - 0.9 * kept + 0.01 * noise.normal(), 0, 1)
                    ),
                    "unlearning_degree/degree": degree + 0.01 * noise.normal(),
                    "unlearning_degree/null": null + 0.01 * noise.normal(),
                    "unlearning_degree/calibrated": degree - null + 0.01 * noise.normal(),
                    "unlearning_degree/constraint_met": float((index, seed) != (2, 1)),
                    "relearn_time/steps": 0.0 if model == "source" else 20.0 - index + seed,
                    "relearn_time/fresh": 49.0,
                }
            runs[model][seed] = metrics
    return runs


def make_report(
    models: tuple[str, ...],
    seeds: tuple[int, ...] = SEEDS,
    failures: tuple[Failure, ...] = (),
    attacked: bool = False,
) -> Report:
    """Build a whole report on the synthetic runs; ``attacked`` adds backdoor and unlearning degree."""
    return build_report(
        make_runs(models, seeds, attacked),
        seeds=seeds,
        config={
            "data": {"class_path": "Digits", "init_args": {"batch_size": 64, "root": None}},
            "methods": {"reference_kl": {"class_path": "ReferenceKL", "init_args": {"lambda_": 0.01}}},
        },
        data={
            "name": "digits",
            "n_forget": 72,
            "n_retain": 1078,
            "n_test": 360,
            "n_nonmember": 287,
            "forget_hmac": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        },
        failures=failures,
        environment={"lightning_unlearn": "0.1.0", "python": "3.10.12", "torch": "2.11.0", "gpu": []},
    )


@pytest.fixture
def made_report() -> Callable[..., Report]:
    """The function that makes a report of any models over any seeds."""
    return make_report


@pytest.fixture
def small_report() -> Report:
    """Source, retrain and one method over three seeds."""
    return make_report(("source", "retrain", "reference_kl"))


@pytest.fixture
def large_report() -> Report:
    """Twelve methods, long names among them, a metric missing in one seed, and a failure."""
    models = ("source", "retrain", *LONG_NAMES)
    runs = make_runs(models, SEEDS)
    del runs["wgan"][1]
    base = make_report(models)
    failure: Failure = {
        "model": "wgan",
        "seed": 1,
        "error": "ValueError: the loss is NaN at step 12\n  see the log",
    }
    return build_report(
        runs,
        seeds=SEEDS,
        config=base["config"],
        data=base["data"],
        failures=[failure],
        environment=base["versions"],
    )


@pytest.fixture
def one_seed_report() -> Report:
    """Source, retrain and one method with a single seed."""
    return make_report(("source", "retrain", "reference_kl"), (0,))


@pytest.fixture
def attacked_report() -> Report:
    """Two sweeps and a method of its own, with the backdoor and the unlearning degree."""
    return make_report(("source", "retrain", "top_k", *SWEPT), attacked=True)


@pytest.fixture
def make_details() -> Callable[[Report], dict[str, dict[int, RunDetails]]]:
    """Return a function that invents what every run of a report leaves for the figures."""

    def make(report: Report) -> dict[str, dict[int, RunDetails]]:
        details: dict[str, dict[int, RunDetails]] = {}
        for index, model in enumerate(report["models"]):
            details[model] = {}
            for seed in report["seeds"]:
                noise = np.random.default_rng([seed, index, 1])
                power = 0.5 if model == "source" else 0.97
                fpr = np.linspace(0.0, 1.0, 51)
                found = int(noise.integers(30, 45)) + (25 if model == "source" else 0)
                steps = list(range(9, 109, 10))
                details[model][seed] = {
                    "config": {
                        "model": model,
                        "seed": seed,
                        "method": {"class_path": "OwnMethod", "k": index},
                    },
                    "membership_inference": {
                        "confusion": [[found, 72 - found], [35, 37]],
                        "fpr": fpr.tolist(),
                        "tpr": (fpr**power).tolist(),
                    },
                    "posteriors": {
                        "forget set": noise.beta(20 if model == "source" else 5, 1, 72).tolist(),
                        "retain set": noise.beta(20, 1, 300).tolist(),
                        "non-member set": noise.beta(5, 1, 200).tolist(),
                    },
                }
                if "relearn_time/steps" in report["models"][model]:
                    steps_needed = int(report["models"][model]["relearn_time/steps"]["mean"])
                    details[model][seed]["relearn_time"] = {
                        "target": 0.01,
                        "losses": [2.0 * math.exp(-0.4 * step) for step in range(steps_needed + 1)],
                        "losses_fresh": [2.5 * math.exp(-0.1 * step) for step in range(50)],
                    }
                if index < WITH_CURVES:
                    details[model][seed]["training_curves"] = {
                        name: {
                            "step": steps,
                            "value": [(1.0 + noise.random()) * scale / step for step in steps],
                        }
                        for name, scale in (
                            ("train/loss", 20.0),
                            ("train/ce", 12.0),
                            ("accuracy/forget", 4.5),
                        )
                    }
                if model not in ("source", "retrain"):
                    epochs = range(0, 11, 2)
                    kept = [0.97 * math.exp(-(0.2 + 0.1 * index) * epoch) for epoch in epochs]
                    details[model][seed]["backdoor"] = {
                        "curve": {
                            "epoch": list(epochs),
                            "clean_accuracy": [0.97 + 0.01 * noise.random() for _ in epochs],
                            "success_rate_forget": [value + 0.01 * noise.random() for value in kept],
                            "recovered_accuracy": [0.97 - 0.9 * value for value in kept],
                        }
                    }
        return details

    return make
