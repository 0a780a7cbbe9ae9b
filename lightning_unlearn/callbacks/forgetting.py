"""Accuracies on the streams, and what follows from them."""

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.evaluator import Evaluator
from lightning_unlearn.callbacks.base.watching import Curve, Watcher
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.ensembles import Outputs, Runtime, predict
from lightning_unlearn.functional import (
    Embedding,
    MultiLabel,
    Regression,
    forgetting_rate,
    memory_retention_rate,
)
from lightning_unlearn.metrics.declared import DeclaredMetric, near_score, near_share

_SETS = {"forget": "forget set", "retain": "retain set", "nonmember": "non-member set"}
_NAMES = {"forget": "forget set", "retain": "retain set", "test": "test set"}
_STREAMS = tuple(_NAMES)
_SHOWN = 2000  # posteriors kept for a histogram; more would not change what it shows
_QUANTILES = 201  # of the weights, likewise
_WEIGHTS = 1_000_000  # of as many they are taken


class ForgettingMetrics(Evaluator):
    """Accuracy on forget, retain and test set, forgetting rate, memory retention rate and similarity.

    Reports ``accuracy/forget``, ``accuracy/retain`` and ``accuracy/test`` in [0, 1]; where classes are forgotten
    whole ``accuracy/test_retained_classes`` and ``accuracy/test_forgotten_classes``; after earlier requests
    ``accuracy/previous``, on what these forgot; with a known source model ``forgetting_rate`` and
    ``memory_retention_rate`` (Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", eq.
    17-18); with a known retrained model ``similarity``, the mean of 1 − JS (base 2) of the two models' posteriors on
    the forget set (ibid., section IV-B). Arguments are those of
    :class:`~lightning_unlearn.callbacks.base.evaluator.Evaluator`.

    In a comparison the three accuracies are also logged before the first step and after every epoch of a method, for a
    curve, on at most 2,000 samples of each set, always the same ones; that time is none of the method's.
    """

    default_name: ClassVar[str] = "forgetting"
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "accuracy/test": DeclaredMetric(
            "Accuracy on the test set",
            "test accuracy",
            "Share of the test set that the model classifies correctly: what forgetting may cost.",
            unit="%",
            direction="higher",
            decides="utility",
            margin=0.01,
        ),
        "explained/test": DeclaredMetric(
            "Share of the test targets that is explained",
            "test explained",
            "1 minus a regression's loss on the test set over that of the best constant answer: R² of a squared "
            "error. 1 is without error, 0 no better than a constant. What forgetting may cost.",
            unit="%",
            direction="higher",
            decides="utility",
            margin=0.01,
        ),
        "accuracy/test_retained_classes": DeclaredMetric(
            "Accuracy on the test samples of retained classes",
            "test accuracy, retained classes",
            "Share of the test samples of classes that are still trained on that the model classifies correctly.",
            unit="%",
            direction="higher",
        ),
        "accuracy/test_forgotten_classes": near_share(
            "Accuracy on the test samples of forgotten classes",
            "test accuracy, forgotten classes",
            "Share of the test samples of classes forgotten whole that the model classifies correctly; the goal is the "
            "retrained model's value.",
        ),
        "accuracy/retain": DeclaredMetric(
            "Accuracy on the retain set D_r",
            "retain accuracy",
            "Share of the retained training samples that the model classifies correctly.",
            unit="%",
            direction="higher",
            headline=True,
        ),
        "accuracy/forget": near_share(
            "Accuracy on the forget set D_f",
            "forget accuracy",
            "Share of the samples to be forgotten that the model classifies correctly. A model that never saw "
            "them still gets many right, so the goal is the retrained model's value and not 0.",
            decides="forgetting",
        ),
        "accuracy/previous": near_share(
            "Accuracy on what earlier requests forgot",
            "accuracy on earlier requests",
            "Share of the samples that earlier requests forgot that the model classifies correctly; the goal is the "
            "retrained model's value, which saw none of them either.",
            decides="forgetting",
        ),
        "forgetting_rate": near_share(
            "Forgetting rate",
            "forgetting rate",
            "How much of the source model's accuracy on D_f is gone, as a share of that accuracy. A model that "
            "never saw D_f loses little, so the goal is the retrained model's value.",
        ),
        "memory_retention_rate": DeclaredMetric(
            "Memory retention rate",
            "memory retention",
            "Accuracy on the retain set after unlearning over the source model's accuracy on D_f before; it may "
            "exceed 100 %.",
            unit="%",
            direction="higher",
        ),
        "similarity": DeclaredMetric(
            "Similarity to the retrained model",
            "similarity",
            "1 minus the Jensen-Shannon divergence (base 2) between the model's posteriors and the retrained "
            "model's: 1 means equal outputs. Two retrained models are not equal, so the goal is the value of a model "
            "that was retrained once more.",
            direction="higher",
            digits=4,
            headline=True,
            decides="forgetting",
            goal="retrain_2",
        ),
        **{
            f"accuracy_by_label/{stream}": DeclaredMetric(
                f"Accuracy by label on the {name}",
                f"{stream} accuracy by label",
                f"Share of all labels of the {name} that a multi-label model gives correctly; its accuracy is the "
                "share of samples all of whose labels are.",
                unit="%",
            )
            for stream, name in _NAMES.items()
        },
        **{
            f"loss/{stream}": DeclaredMetric(
                f"Loss on the {name}",
                f"{stream} loss",
                f"Mean loss on the {name}, of a regression, which has no accuracy; of a squared error in the unit of "
                "the targets, squared.",
                direction="lower",
                headline=True,
            )
            for stream, name in _NAMES.items()
        },
        "loss/forget": near_score(
            "Loss on the forget set D_f",
            "forget loss",
            "Mean loss on the samples to be forgotten, of a regression, which has no accuracy; of a squared error in "
            "the unit of the targets, squared. A model that never saw them has a higher one than the source, and its "
            "value is the goal.",
            digits=None,
            decides="forgetting",
        ),
        "loss/previous": near_score(
            "Loss on what earlier requests forgot",
            "loss on earlier requests",
            "Mean loss of a regression on the samples that earlier requests forgot; the goal is the retrained model's "
            "value, which saw none of them either.",
            digits=None,
            decides="forgetting",
        ),
        "distance": DeclaredMetric(
            "Distance from the retrained model",
            "distance",
            "Mean loss of a regression's answers on the forget set, with the retrained model's for targets: 0 means "
            "equal answers. Two retrained models are not equal, so the goal is the value of a model that was retrained "
            "once more.",
            direction="lower",
            headline=True,
            decides="forgetting",
            goal="retrain_2",
        ),
    }

    of_streams = True

    def watching(self) -> Watcher:
        """Return what logs the accuracies over the epochs."""
        return Curve(self, 1, _accuracies, prefix="", record=False)

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Measure accuracies and the rates that the known controls allow."""
        streams = [s for s in _STREAMS if audit.data.stream_size(s)]
        task = audit.adapter.kind.judged_as
        metrics = {f"{task.measured}/{stream}": audit.outputs(model, stream).measured for stream in streams}
        if _judges_previous(audit):
            metrics[f"{task.measured}/previous"] = audit.outputs(model, "previous").measured
        if isinstance(task, MultiLabel):
            for stream in streams:
                answers = audit.outputs(model, stream)
                share = task.by_label(answers.logits, answers.targets).double().mean()
                metrics[f"accuracy_by_label/{stream}"] = float(share)
        if isinstance(task, Regression) and "test" in streams:
            answers = audit.outputs(model, "test")
            if not math.isnan(explained := task.explained(answers.logits, answers.targets)):
                metrics["explained/test"] = explained
        if "test" in streams:
            metrics.update(_test_accuracy_by_class(*(audit.outputs(model, stream) for stream in _STREAMS)))
        if audit.source is not None and "correct" in task.offers:
            before = audit.outputs(audit.source, "forget").accuracy
            if before > 0:  # relative to nothing the rates are undefined, and then not reported
                metrics["forgetting_rate"] = forgetting_rate(before, metrics["accuracy/forget"])
                metrics["memory_retention_rate"] = memory_retention_rate(metrics["accuracy/retain"], before)
        audit.details["weights"] = _weight_quantiles(model)
        if "posteriors" in task.offers:
            audit.details["posteriors"] = {
                _SETS[stream]: _true_class_posteriors(audit.outputs(model, stream))
                for stream in _SETS
                if audit.data.stream_size(stream)
            }
            if "classes" in task.offers:
                asked = {"before": audit.source, "after": model, "retrained": audit.retrained}
                audit.details["answers"] = {
                    "label": audit.outputs(model, "forget").targets[:_SHOWN].tolist(),
                    **{
                        when: task.answers(audit.outputs(one, "forget").logits[:_SHOWN]).tolist()
                        for when, one in asked.items()
                        if one is not None
                    },
                }
        if audit.retrained is not None:
            ours, theirs = audit.outputs(model, "forget"), audit.outputs(audit.retrained, "forget")
            both = ours.logits, theirs.logits, ours.targets
            if "posteriors" in task.offers:
                metrics["similarity"] = float(ours.task.similarity(*both).mean())
            elif isinstance(task, Regression):
                metrics["distance"] = float(task.js(*both).mean())
        return metrics


def _judges_previous(audit: Audit) -> bool:
    """Say whether earlier requests forgot samples that can be judged: of embeddings none of a class that is gone."""
    data, known = audit.data, audit.data.known_targets()
    if isinstance(audit.adapter.kind, Embedding) and known is not None:
        gone = ~np.isin(known[data.split.previous], known[data.split.retain])
        if gone.any():
            rank_zero_warn(
                "accuracy/previous is not measured: embeddings are judged by the means of retained classes, and of "
                "some that earlier requests forgot nothing is retained"
            )
            return False
    return data.stream_size("previous") > 0


def _test_accuracy_by_class(forget: Outputs, retain: Outputs, test: Outputs) -> dict[str, float]:
    """Return the accuracy on test samples of retained classes, and of classes that are forgotten whole, if any are."""
    if "classes" not in test.task.offers:
        return {}
    right = test.correct.double()
    retained = torch.isin(test.targets, retain.targets)
    forgotten = torch.isin(test.targets, forget.targets) & ~retained
    if not (forgotten.any() and retained.any()):
        return {}
    parts = {"retained": retained, "forgotten": forgotten}
    return {f"accuracy/test_{name}_classes": float(right[part].mean()) for name, part in parts.items()}


def _accuracies(
    model: nn.Module, data: UnlearningDataModule, runtime: Runtime, adapter: Adapter
) -> dict[str, float]:
    """Return the accuracies of a model in training, or the losses of a regression, on some samples of each stream."""
    accuracies = {}
    for stream in _STREAMS if "losses" in adapter.kind.offers else ():
        if data.stream_size(stream):
            loader = data.loader(stream, positions=data.looked_at(stream), indexed=True)
            accuracies[f"{adapter.kind.measured}/{stream}"] = predict(
                model, loader, runtime, adapter
            ).measured
    return accuracies


def _weight_quantiles(model: nn.Module) -> list[float]:
    """Return quantiles, the least to the greatest, of all weights but biases and normalisations'; none without any."""
    parts = [p.detach().flatten() for p in model.parameters() if p.ndim > 1 and p.is_floating_point()]
    if not parts:
        return []
    every = math.ceil(sum(map(len, parts)) / _WEIGHTS)
    values = torch.cat([part[::every].double().cpu() for part in parts]).sort().values
    places = torch.linspace(0, len(values) - 1, _QUANTILES).round().long()
    return [float(f"{value:.6g}") for value in values[places].tolist()]


def _true_class_posteriors(outputs: Outputs) -> list[float]:
    return [round(value, 6) for value in outputs.loss[:_SHOWN].neg().exp().tolist()]
