"""LinearFiltration: multiply the last layer by the matrix that filters a class out of the logits."""

import numpy as np
import torch

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime, predict
from lightning_unlearn.functional import filtration
from lightning_unlearn.methods.base import OneShotModule

_WORST = 1e6  # condition of the mean logits beyond which their inverse is noise


class LinearFiltration(OneShotModule):
    r"""Multiplies the last layer, once, by the matrix that filters forgotten classes out of the mean logits.

    .. math:: W \leftarrow B A^{-1} W, \quad b \leftarrow B A^{-1} b

    The columns of A are the classes' mean logits; those of B are the same without the forgotten classes, and for a
    forgotten class shifted to the mean of the others'. Source: Baumhauer, Schöttle & Zeppelzauer, "Machine Unlearning:
    Linear Filtration for Logit-based Classifiers", 2022, with normalization. There the model loses the forgotten
    class's output; here, to stay of its class, it keeps one that is always the mean of the others, and so never the
    answer. The features are as before: it is meant against who sees what the model answers, not against who holds it.

    Any request but for whole classes is refused.

    Args:
        source: The source model, whose last layer is an :class:`torch.nn.Linear`.
        **one_shot: Arguments of :class:`~lightning_unlearn.methods.base.one_shot.OneShotModule`.

    Raises:
        ValueError: In ``fit``, if no class is forgotten whole, fewer than two stay, a class has no training sample, or
            the last layer has no row for each class.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> LinearFiltration(MLP(in_features=4, hidden=(3,), num_classes=2)).classes_only
        True
    """

    classes_only = True
    keeps_source_tensors = True
    needs = ("classes",)

    def edit(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Estimate the mean logits, as they are under the retain set's statistics, and filter."""
        self.estimate(data, runtime)
        head, classes = self.head_rows(data, runtime)
        asked = predict(self.model, data.loader("train", indexed=True), runtime, self.adapter)
        gone, seen = data.forgotten_classes, np.unique(asked.targets.numpy())
        if len(seen) < classes or classes - len(gone) < 2:
            raise ValueError(
                f"LinearFiltration needs samples of all {classes} classes, two of which stay, and there are "
                f"{len(seen)}, of which {len(gone)} are forgotten; take DELETE"
            )
        means = torch.stack([asked.logits[asked.targets == each].double().mean(dim=0) for each in seen])
        if (condition := float(torch.linalg.cond(means))) > _WORST:
            raise ValueError(
                f"LinearFiltration inverts the classes' mean logits, which are nearly dependent (condition "
                f"{condition:.2g}); take DELETE"
            )
        matrix = filtration(means, gone)
        with torch.no_grad():
            for parameter in head.values():
                parameter.copy_(torch.tensordot(matrix, parameter.cpu().double(), dims=1))
