"""FineTune: train on the retain set alone, from the source's weights."""

from lightning_unlearn.methods.base import AscendingModule


class FineTune(AscendingModule):
    """Trains all weights on the retain set, so that the forget set is forgotten by the way.

    The first baseline of every paper, and a weak one: what forgets is the learning rate. Source: Golatkar, Achille
    & Soatto, "Eternal Sunshine of the Spotless Net", 2020, and Warnecke et al., "Machine Unlearning of Features and
    Labels", 2023, as baselines. One epoch is one pass over the retain set. Unless ``lr_scheduler`` is given, the rate
    rises for a fifth of the steps and then falls to a fiftieth of its peak.

    Args:
        source: The source model.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        **ascending: Arguments of :class:`~lightning_unlearn.methods.base.ascent.AscendingModule`.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> FineTune(MLP(in_features=4, hidden=(3,), num_classes=2)).streams
        ('retain',)
    """

    side_by_side = True
