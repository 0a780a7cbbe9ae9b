"""L1Sparse: train on the retain set while small weights are driven to zero."""

from typing import Any, ClassVar, Literal

from torch import Tensor

from lightning_unlearn.methods.base import AscendingModule, Choice, Declared, Range, Source
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.models.freezing import trainable
from lightning_unlearn.models.sharding import whole


class L1Sparse(AscendingModule):
    r"""Fine-tunes on the retain set under an L1 penalty, which forgets more than fine-tuning alone.

    .. math:: L = CE(D_r) + \gamma_t \, \lVert \theta \rVert_1

    with :math:`\gamma_t` falling from :math:`2\gamma` to 0 over the steps, constant, or rising to :math:`2\gamma`.
    Source: Jia et al., "Model Sparsity Can Simplify Machine Unlearning", 2023, eq. 4 and section 4. Published code puts
    biases and the weights of normalisation layers under the penalty too; here it holds for tensors of two and more
    dimensions, which is what sparsity means there. One epoch is one pass over the retain set. Unless ``lr_scheduler``
    is given, the rate rises for a fifth of the steps and then falls to a fiftieth of its peak.

    Args:
        source: The source model.
        gamma: Mean weight γ of the penalty, >= 0; published values reach from 1e-5 to 5e-4, and depend on the size of
            the network.
        schedule: How the weight goes over the steps: ``"decrease"`` as the paper recommends, ``"constant"`` or
            ``"increase"``.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        **ascending: Arguments of :class:`~lightning_unlearn.methods.base.ascent.AscendingModule`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> L1Sparse(MLP(in_features=4, hidden=(3,), num_classes=2), gamma=-1.0)
        Traceback (most recent call last):
        ValueError: gamma must be at least 0, got -1.0; 5e-4 is the paper's
    """

    side_by_side = True
    searched: ClassVar[SearchSpace] = {"gamma": Search(1e-6, 1e-3, log=True)}
    declared: ClassVar[Declared] = {
        "gamma": Range("[0, inf)", "; 5e-4 is the paper's"),
        "schedule": Choice(("decrease", "constant", "increase")),
    }

    def __init__(
        self,
        source: Source,
        gamma: float = 5e-4,
        *,
        schedule: Literal["decrease", "constant", "increase"] = "decrease",
        **ascending: Any,
    ) -> None:
        super().__init__(source, **ascending)
        self.gamma = gamma
        self.schedule = schedule
        self._penalised = [name for name, weight in trainable(self.model).items() if weight.ndim > 1]

    def penalty(self) -> dict[str, Tensor]:
        """Return the weighted norm."""
        weights = dict(self.model.named_parameters())
        norm = whole(sum(weights[name].abs().sum() for name in self._penalised))
        gone = self.trainer.global_step / self.total_steps
        share = {"decrease": 2 * (1 - gone), "constant": 1.0, "increase": 2 * gone}[self.schedule]
        return {"l1": self.gamma * share * norm}
