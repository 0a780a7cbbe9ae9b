"""Linear probe: can the features before the last layer tell the forget set from samples never trained on?"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.nonmembers import AgainstNonmembers
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.data.splits import some_of
from lightning_unlearn.metrics.declared import DeclaredMetric, near_score
from lightning_unlearn.models.surgery import head_of

_BATCH = 256
_FOLDS = 5  # parts that the samples are split into; fewer where there are not as many of each


class LinearProbe(AgainstNonmembers):
    """Trains a linear probe on the penultimate features to tell the forget set from non-members.

    What the outputs hide, the features may keep: a last layer can be made to refuse, or to answer as if it had never
    seen the samples, above features in which they still lie apart. Features are what the part that gives the logits
    is called with (:func:`~lightning_unlearn.models.surgery.head_of`); several positions of a sample are averaged.

    The probe is a logistic regression on a sample's distances from the mean features of the retained classes, nearest
    first: as with the sorted posteriors of :class:`MembershipInference`, its class must not count. On the features
    themselves it is blind even to wrong labels that were learned by heart, since members lie on the side of their own
    class, each in another direction.

    - ``<name>/auc``: area under its receiver operating characteristic, cross-validated, so that 0.5 is guessing.

    The results' file also holds the folds' areas, the number of features and the part's class. With a backdoor the
    non-members carry the trigger too.

    Args:
        **evaluator: Arguments of :class:`~lightning_unlearn.callbacks.base.evaluator.Evaluator`.

    Raises:
        ValueError: If there are fewer than two samples to forget or non-members, or the part that gives the logits is
            not called with one floating-point tensor, a row a sample.
    """

    needs = ("classes",)
    default_name: ClassVar[str] = "linear_probe"
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "linear_probe/auc": near_score(
            "Linear probe: area under the ROC curve",
            "probe AUC",
            "How well a linear probe on the features before the last layer tells D_f from samples never trained on: "
            "0.5 is guessing, 1 is certainty.",
            decides="forgetting",
            ideal=0.5,
        ),
    }

    def require(self, data: UnlearningDataModule) -> None:
        """Refuse data without two samples of each kind, one to learn from and one to be asked about."""
        super().require(data)
        if (least := min(data.stream_size("forget"), data.stream_size("nonmember"))) < 2:
            raise ValueError(
                f"{type(self).__name__} is cross-validated and needs at least 2 samples to forget and 2 non-members, "
                f"got {least}; forget more, or leave it out"
            )

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Take the features, and cross-validate the probe."""
        # hooks do not reach into a compiled network
        with torch.compiler.set_stance("force_eager"):
            head = head_of(model, lambda: audit.answers(model, [next(audit.batches("forget", 2))]))
            retained, classes = _features(model, head, "retain", audit)
            means = torch.stack(
                [retained[classes == each].mean(dim=0) for each in sorted({*classes.tolist()})]
            )
            known, unknown = (
                torch.cdist(_features(model, head, stream, audit)[0], means).sort(dim=1).values.numpy()
                for stream in ("forget", "nonmember")
            )
        areas = self._areas(known, unknown, audit.seed)
        found = {"folds": areas.tolist(), "features": means.shape[1], "head": type(head).__name__}
        audit.details.update(found)
        return {f"{self.name}/auc": float(areas.mean())}

    def _areas(
        self, known: np.ndarray[Any, Any], unknown: np.ndarray[Any, Any], seed: int
    ) -> np.ndarray[Any, Any]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        folds = min(_FOLDS, len(known), len(unknown))
        areas: np.ndarray[Any, Any] = cross_val_score(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            np.concatenate([known, unknown]),
            np.repeat([1, 0], [len(known), len(unknown)]),
            cv=StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32),
            scoring="roc_auc",
        )
        return areas


def _features(model: nn.Module, head: nn.Module, stream: str, audit: Audit) -> tuple[Tensor, Tensor]:
    """Return what the head is called with, ``(n, features)`` float64, and the targets; of the retain set a part."""
    taken: list[Tensor] = []

    def take(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        given = arguments[0] if arguments else None
        if not isinstance(given, Tensor) or not given.is_floating_point():
            raise ValueError(
                f"the last layer, {type(head).__name__}, must be called with one floating-point tensor of features, "
                f"got {type(given).__name__}; leave LinearProbe out for such a model"
            )
        taken.append(_a_row_a_sample(given).cpu().double())

    data, positions = audit.data, None
    if stream == "retain":
        positions = some_of(data.split.retain, derive_seed(audit.seed, "linear probe"))
    with head.register_forward_pre_hook(take):
        answers = audit.answers(model, audit.batches(stream, _BATCH, positions=positions))
    features = torch.cat(taken)
    if len(features) != len(answers.targets):
        raise ValueError(
            f"the last layer, {type(head).__name__}, was called with {len(features)} rows for "
            f"{len(answers.targets)} samples; leave LinearProbe out for such a model"
        )
    return features, answers.targets


def _a_row_a_sample(features: Tensor) -> Tensor:
    """Average over the positions of a sample: the pixels of an image ``(B, C, H, W)``, the places in ``(B, L, C)``."""
    if features.ndim == 4:
        return features.mean(dim=(2, 3))
    return features.flatten(1, -2).mean(dim=1) if features.ndim > 2 else features.flatten(1)
