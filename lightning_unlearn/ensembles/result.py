"""A trained ensemble: its weights, its loss curves and how it was trained."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.ensembles.answers import AskWay, predict_ensemble

__all__ = ["Ensemble"]


@dataclass(frozen=True)
class Ensemble:
    """K trained models, on every rank the same.

    Attributes:
        states: Every entry of ``state_dict()``, stacked over the models in the order of the members,
            ``(K, ...)`` on the CPU.
        losses: Loss curves, ``(K, epochs)`` float32 on the CPU: means over the steps of an epoch.
        way: How the models were trained: ``"stacked"``, ``"grouped"``, ``"sequential"``, ``"workers"``, or
            ``"cache"`` if all of them were read from disk.
        reason: Why this way was taken, in words.
        seconds: Wall-clock seconds it took, what was measured to choose a way included.
    """

    states: dict[str, Tensor]
    losses: Tensor
    way: str
    reason: str
    seconds: float
    _build: Callable[[], nn.Module] = field(repr=False)
    _adapter: Adapter = field(repr=False)
    _runtime: Runtime = field(repr=False)

    def __len__(self) -> int:
        return len(self.losses)

    def state_dict(self, k: int) -> dict[str, Tensor]:
        """Return the state dict of model ``k``, its tensors views of :attr:`states`."""
        if not 0 <= k < len(self):
            raise IndexError(f"k must lie in [0, {len(self)}), the models of the ensemble, got {k}")
        return {name: value[k] for name, value in self.states.items()}

    def models(self, build: Callable[[], nn.Module] | None = None) -> Iterator[nn.Module]:
        """Yield the models one by one, on the CPU and in evaluation mode.

        Args:
            build: Makes a network of the ensemble's architecture; ``None`` for the recipe's.
        """
        for k in range(len(self)):
            module = (build or self._build)()
            module.load_state_dict(self.state_dict(k))
            yield module.eval()

    def logits(self, inputs: Tensor, batch_size: int = 1024, *, way: AskWay = "auto") -> Tensor:
        """Return every model's logits, ``(K, N, C)``; see :func:`predict_ensemble`."""
        return predict_ensemble(
            self._build,
            self.states,
            inputs,
            batch_size=batch_size,
            adapter=self._adapter,
            runtime=self._runtime,
            way=way,
        )
