"""Membership inference with shadow models, or with the source's own members: was the forget set trained on?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_unlearn.callbacks.base.attack_details import attack_details
from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.nonmembers import AgainstNonmembers
from lightning_unlearn.callbacks.base.shadow_models import shadow_models
from lightning_unlearn.core.checks import in_range, one_of
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.data.project_loaders import known_labels
from lightning_unlearn.engine.train import default_optimizer
from lightning_unlearn.ensembles import Outputs, predict
from lightning_unlearn.functional import (
    auc,
    bootstrap_intervals,
    confusion_matrix,
    membership_rates,
)
from lightning_unlearn.metrics.declared import DeclaredMetric, low_fpr_rates, near_score, near_share

Attack = Literal["boosting", "logistic"]
Variant = Literal["auto", "shadow", "source", "own"]
Features = Literal["sorted", "top_3", "per_class"]


class MembershipInference(AgainstNonmembers):
    """Attacks the model: an attack classifier on posteriors says who was trained on.

    Three variants train the attack classifier; unless told, the data decides between the first two:

    - ``shadow``: shadow models of the same architecture are trained on D_in, one half of the shadow set, and
      the classifier learns their posteriors of D_in against those of the other half, D_out. Chen, Huang &
      Wang, "Machine unlearning via GAN", 2021, section 2.5. Needs an
      :class:`~lightning_unlearn.data.UnlearningDataModule` with ``shadow`` > 0.
    - ``source``: the classifier learns the source model's posteriors of its own members (from the retain set)
      against those of samples it never saw (from the test set). Chen et al., "Private Data Protection with
      Machine Unlearning for Next-Generation Networks", 2024, section IV-A. Needs no spare data. Without a known
      source model, the audited model's own posteriors are learnt.
    - ``own``: as ``source``, but the classifier learns the audited model's own posteriors. An attack trained on
      another model takes a change of confidence for a change of membership: its hits on the forget set and its
      false alarms on non-members then rise or fall together. This variant does not, so its ``hit_rate`` of two
      models can be compared directly.

    The classifier is applied to the forget set and to the non-members. ``<name>/hit_rate`` is the share of
    the forget set taken for members and ``<name>/fnr`` (2021, eq. 7) the rest; beside them are ``fpr``,
    ``balanced_accuracy``, ``auc`` and ``tpr_at_1pct_fpr``. A model that forgot scores like the retrained one,
    not 0. ``<name>/retain_auc`` sets the *retained* samples that the attack did not learn from against the same
    non-members: forgetting some can expose others, and then it lies above the source's. With a backdoor the
    non-members carry the trigger as the forget set does, but for this score. The results' file also holds
    bootstrap intervals, the confusion matrix, the receiver operating characteristic, the score of every sample, and
    which variant was used.

    Shadow models are trained as one computation where the data lies in memory
    (:func:`~lightning_unlearn.ensembles.train_ensemble`), and one after another otherwise. With several processes
    they are shared out, and are the same for any number of processes.

    Args:
        variant: ``"shadow"``, ``"source"``, ``"own"``, or ``"auto"`` for ``"shadow"`` if there is a shadow set and
            ``"source"`` otherwise.
        attack: Attack classifier: ``"logistic"`` (logistic regression on the logarithms of the sorted posteriors)
            or ``"boosting"`` (gradient-boosted trees, which find any pattern, but give many samples one score, so
            that rates at low false positive rates are coarse).
        features: What the classifier sees of a sample: all posteriors, the largest first (``"sorted"``); only the three
            largest (``"top_3"``; Salem et al., "ML-Leaks", 2019, section III); or the posteriors in the order of the
            classes, by a classifier of its own for each label (``"per_class"``; Shokri et al., "Membership Inference
            Attacks Against Machine Learning Models", 2017, section V). The last divides what there is to learn from by
            the classes, and needs members and others of each.
        shadow_models: Number of shadow models, each on its own halves of the shadow set.
        shadow_epochs: Passes over D_in; train them as far as the source was trained.
        shadow_optimizer: Makes the shadow models' optimizer; ``None`` for Adam with learning rate 1e-3.
        cache: Folder in which finished shadow models are kept, so that another evaluator and a later or resumed run
            take them from there; a comparison has one of its own. Kept are models of data that lies in memory and is
            changed by no transfer hook; what determines others cannot be told.
        bootstrap: Resamples for the intervals.
        **evaluator: Arguments of :class:`~lightning_unlearn.callbacks.base.evaluator.Evaluator`.

    Raises:
        ValueError: If an argument is outside its range, ``"shadow"`` is asked for without a shadow set, or
            ``"per_class"`` has nothing to learn of a class from.
    """

    needs: tuple[str, ...] = ("posteriors",)
    of_streams = True
    default_name: ClassVar[str] = "membership_inference"
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "membership_inference/hit_rate": near_share(
            "Membership inference: hit rate on D_f",
            "MIA hit rate",
            "Share of the forget set that a membership inference attack (MIA) takes for training data; read it beside "
            "the false positive rate, since it moves with a model's confidence alone.",
            headline=True,
        ),
        "membership_inference/auc": near_score(
            "Membership inference: area under the ROC curve",
            "MIA AUC",
            "How well the attack ranks D_f above samples never trained on: 0.5 is guessing, 1 is certainty.",
            decides="forgetting",
            ideal=0.5,
        ),
        "membership_inference/fnr": near_share(
            "Membership inference: false negative rate",
            "MIA FNR",
            "Share of the forget set that the attack takes for samples never trained on.",
        ),
        "membership_inference/fpr": DeclaredMetric(
            "Membership inference: false positive rate",
            "MIA FPR",
            "Share of the samples never trained on that the attack takes for training data: the attack's own "
            "error, beside which its hit rate is read.",
            unit="%",
            headline=True,
        ),
        "membership_inference/balanced_accuracy": near_share(
            "Membership inference: balanced accuracy",
            "MIA balanced",
            "Mean of the attack's accuracies on D_f and on samples never trained on: 50 % is guessing.",
            ideal=0.5,
        ),
        **low_fpr_rates(
            "membership_inference",
            "Membership inference",
            "MIA",
            "Share of D_f that the attack finds when it may err on {rate} % of the samples never trained on. Guessing "
            "gives (k + 1) / (M + 1) where it may err on k of M.",
            rates=("1",),
        ),
        "membership_inference/retain_auc": near_score(
            "Membership inference on the retain set: area under the ROC curve",
            "MIA AUC, retain",
            "How well the attack ranks retained samples above samples never trained on: above the source model's, "
            "forgetting has exposed others.",
            ideal=0.5,
        ),
    }
    keeps: ClassVar[str | None] = "shadow_models"

    def __init__(
        self,
        variant: Variant = "auto",
        *,
        attack: Attack = "logistic",
        features: Features = "sorted",
        shadow_models: int = 1,
        shadow_epochs: int = 20,
        shadow_optimizer: OptimizerCallable | None = None,
        cache: str | Path | None = None,
        bootstrap: int = 1000,
        **evaluator: Any,
    ) -> None:
        one_of("variant", variant, "auto", "shadow", "source", "own")
        one_of("attack", attack, "boosting", "logistic")
        one_of("features", features, "sorted", "top_3", "per_class")
        in_range("shadow_models", shadow_models, "[1, inf)", whole=True)
        in_range("shadow_epochs", shadow_epochs, "[1, inf)", whole=True)
        in_range("bootstrap", bootstrap, "[2, inf)", whole=True)
        super().__init__(**evaluator)
        self.variant = variant
        self.attack = attack
        self.features = features
        if features != "sorted":
            self.needs = ("posteriors", "distribution" if features == "top_3" else "classes")
        self.shadow_models = shadow_models
        self.shadow_epochs = shadow_epochs
        self.shadow_optimizer = shadow_optimizer
        self.cache = None if cache is None else Path(cache)
        self.bootstrap = bootstrap

    def require(self, data: UnlearningDataModule) -> None:
        """Refuse data without non-members or, where the attack trains on it, without a shadow set."""
        super().require(data)
        self.of_streams = self._variant(data) != "shadow"  # embeddings have no loss to train shadow models by
        if self.variant == "shadow" and not data.stream_size("shadow"):
            raise ValueError(
                "variant='shadow' needs a shadow set: give UnlearningDataModule(shadow=0.5), and train the source "
                "through it so that it never sees that set; or use variant='source'"
            )
        if self._variant(data) != "shadow" and not data.stream_size("test"):
            raise ValueError(
                f"variant={self.variant!r} needs samples that the source never saw beside the non-member set: give the "
                "project a test set larger than nonmember, or use variant='shadow'"
            )
        if self.features == "per_class" and self._variant(data) != "shadow":
            if data.forgotten_classes:
                raise ValueError(
                    f"features='per_class' learns from retained samples of every class, and none are left of "
                    f"{data.forgotten_classes}; take features='sorted', or a shadow set and variant='shadow'"
                )
            if lacking := _not_learned(data):
                raise ValueError(
                    f"features='per_class' has no retained or no test samples of classes {lacking} to learn from; take "
                    "features='sorted', or larger sets"
                )

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Train the attack, or take the one trained for the last model of this source, and apply it."""
        variant = self._variant(audit.data)
        classifier = self._classifier(variant, model, audit)
        forget = _scores(classifier, self._seen(audit.outputs(model, "forget")))
        nonmember = _scores(classifier, self._seen(audit.outputs(model, "nonmember")))
        intervals = bootstrap_intervals(
            forget, nonmember, torch.Generator().manual_seed(audit.seed), resamples=self.bootstrap
        )
        audit.details.update(
            {
                "variant": variant,
                "confusion": confusion_matrix(forget, nonmember).tolist(),
                **attack_details(forget, nonmember, intervals),
            }
        )
        rates = membership_rates(forget, nonmember) | self._retain_auc(variant, classifier, model, audit)
        return {f"{self.name}/{rate}": value for rate, value in rates.items()}

    def _retain_auc(self, variant: str, classifier: Any, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Return how well the attack ranks retained samples that it did not learn from, where there are any."""
        data = audit.data
        learned = () if variant == "shadow" else self._learned(data, audit.seed)
        fresh = torch.from_numpy(~np.isin(data.split.retain, learned))
        if not fresh.any():
            return {}
        if data.backdoor is None:
            others = audit.outputs(model, "nonmember")
        else:  # clean ones, as the retained samples are
            others = predict(model, data.loader("nonmember", indexed=True), audit.runtime, audit.adapter)
        retained = self._seen(audit.outputs(model, "retain"))[fresh]
        return {"retain_auc": auc(_scores(classifier, retained), _scores(classifier, self._seen(others)))}

    def _seen(self, outputs: Outputs) -> Tensor:
        """Return what the attack sees of each sample, ``(N, F)``; where it has one for each class, that class first."""
        if self.features == "per_class":
            return torch.cat([outputs.targets[:, None], outputs.posteriors], dim=1)
        return outputs.features if self.features == "sorted" else outputs.features[:, :3]

    def _variant(self, data: UnlearningDataModule) -> str:
        if self.variant == "auto":
            return "shadow" if data.stream_size("shadow") else "source"
        return self.variant

    def _classifier(self, variant: str, model: nn.Module, audit: Audit) -> Any:
        """Return the trained attack; it depends on the source and the data only, so later models share it."""
        attacked = model if variant == "own" or audit.source is None else audit.source
        subjects = [audit.data] if variant == "shadow" else [audit.data, audit.original(attacked)]
        features = self._shadow_features if variant == "shadow" else self._source_features
        fit = _train_by_class if self.features == "per_class" else _train_attack

        def train() -> Any:
            return fit(self.attack, *features(attacked, audit), audit.seed)

        # shadow models are of the architecture that is attacked
        architecture = repr(attacked) if variant == "shadow" else None
        return self.once((variant, audit.seed, audit.adapter, architecture), subjects, train)

    def _shadow_features(self, architecture: nn.Module, audit: Audit) -> tuple[Tensor, Tensor]:
        data, runtime = audit.data, audit.runtime
        trained = shadow_models(
            architecture,
            data,
            self.shadow_models,
            epochs=self.shadow_epochs,
            optimizer=self.shadow_optimizer or default_optimizer,
            seed=audit.seed,
            runtime=runtime,
            adapter=audit.adapter,
            cache=self.cache,
        )
        members: list[Tensor] = []
        others: list[Tensor] = []
        for number, shadow in enumerate(trained):
            runtime.place(shadow)
            for positions, kept in zip(data.split.shadow_in_out(number), (members, others), strict=True):
                loader = data.loader("shadow", positions=positions, indexed=True)
                kept.append(self._seen(predict(shadow, loader, runtime, audit.adapter)))
        return torch.cat(members), torch.cat(others)

    def _source_features(self, attacked: nn.Module, audit: Audit) -> tuple[Tensor, Tensor]:
        data = audit.data
        learned = torch.from_numpy(np.isin(data.split.retain, self._learned(data, audit.seed)))
        return self._seen(audit.outputs(attacked, "retain"))[learned], self._seen(
            audit.outputs(attacked, "test")
        )

    def _learned(self, data: UnlearningDataModule, seed: int) -> np.ndarray[Any, Any]:
        """Return the retained samples that the attack learns from, as positions in the training set."""
        return data.split.draw_reference(min(data.stream_size("test"), data.stream_size("retain")), seed=seed)


def _not_learned(data: UnlearningDataModule) -> list[int]:
    """Return the classes of which the attack has nothing to learn from, as far as that is known before the fit."""
    labels, (_, test, _), split = data.known_targets(), data.given, data.split
    held = None if test is None else known_labels(test, data.adapter)
    if labels is None or held is None or data.backdoor is not None:
        return []
    unseen = (held if split.nonmember_from == "test" else labels)[split.nonmember]
    learned = np.intersect1d(labels[split.retain], held[split.test])
    classes: list[int] = np.setdiff1d(np.union1d(labels[split.forget], unseen), learned).tolist()
    return classes


def _train_attack(attack: Attack, members: Tensor, others: Tensor, seed: int) -> Any:
    """Fit the attack classifier on as many members as others, so that 0.5 is the undecided score."""
    size = min(len(members), len(others))
    generator = torch.Generator().manual_seed(seed)
    chosen = [rows[torch.randperm(len(rows), generator=generator)[:size]] for rows in (members, others)]
    features = _logarithms(torch.cat(chosen))
    labels = np.repeat([1, 0], size)
    if attack == "logistic":
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        # lbfgs at scikit-learn's default tolerance stops long before the optimum on these features
        return make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky", tol=1e-8)).fit(
            features, labels
        )
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=seed % 2**32).fit(features, labels)


def _train_by_class(attack: Attack, members: Tensor, others: Tensor, seed: int) -> dict[int, Any]:
    """Fit an attack for each class, the first column, of which there are members and others."""
    attacks: dict[int, Any] = {}
    for label in np.intersect1d(members[:, 0].int(), others[:, 0].int()).tolist():
        ours, theirs = (rows[rows[:, 0] == label, 1:] for rows in (members, others))
        attacks[label] = _train_attack(attack, ours, theirs, seed)
    return attacks


def _scores(classifier: Any, features: Tensor) -> Tensor:
    """Return the probability of membership for each row, ``(N,)`` float64."""
    if isinstance(classifier, dict):
        scores = torch.empty(len(features), dtype=torch.float64)
        for label in np.unique(features[:, 0].int()).tolist():
            if label not in classifier:
                raise ValueError(
                    f"features='per_class' has no members or no others of class {label} to learn from; take "
                    "features='sorted', or larger sets"
                )
            rows = features[:, 0] == label
            scores[rows] = _scores(classifier[label], features[rows, 1:])
        return scores
    return torch.from_numpy(classifier.predict_proba(_logarithms(features))[:, 1])


def _logarithms(features: Tensor) -> np.ndarray[Any, Any]:
    """Take logarithms: posteriors of members differ in how many nines follow the point."""
    logarithms: np.ndarray[Any, Any] = features.double().clamp_min(1e-12).log().numpy()
    return logarithms
