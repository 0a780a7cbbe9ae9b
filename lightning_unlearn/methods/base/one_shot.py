"""Edit a model's weights once, and train nothing."""

from collections.abc import Sequence

from lightning_unlearn.data import Adapter
from lightning_unlearn.engine.train import Loss
from lightning_unlearn.methods.base.export import require_finite
from lightning_unlearn.methods.base.module import UnlearningModule
from lightning_unlearn.methods.base.source import Source

__all__ = ["OneShotModule"]


class OneShotModule(UnlearningModule):
    """Base of methods whose ``prepare`` edits the weights and which take no step: ``Trainer(max_epochs=0)``.

    Evaluators, export, ledger and comparisons are as for every method; its time is that of preparing. Any other number
    of epochs is refused before anything happens. Where a strategy would spread the model over processes, it stays whole
    on each of them.

    Args:
        source: The source model.
        loss: Classification loss of logits ``(B, C)`` and targets ``(B,)``, a mean; ``None`` for the cross-entropy.
        adapter: How batches and outputs are taken apart; ``None`` for the usual layouts.
        frozen: Names of the parameters that the source was not trained on, which stay as they are; ``None`` for those
            that do not require a gradient.
    """

    one_shot = True

    def __init__(
        self,
        source: Source,
        *,
        loss: Loss | None = None,
        adapter: Adapter | None = None,
        frozen: Sequence[str] | None = None,
    ) -> None:
        super().__init__(source, loss=loss, adapter=adapter, frozen=frozen)

    def configure_model(self) -> None:
        """Keep the model whole: there is no step whose gradients would have to be spread."""

    def on_fit_start(self) -> None:
        """Edit the weights, and refuse what has become of them where that is not finite."""
        super().on_fit_start()
        require_finite(self.model, f"the model that {type(self).__name__} unlearned")
