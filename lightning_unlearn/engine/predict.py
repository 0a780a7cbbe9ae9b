"""Ask a model for its logits on a whole stream, shared out over ranks and put back in order."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.loading import BatchLoader, Indexed
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.models.surgery import evaluating

__all__ = ["Outputs", "predict"]


@dataclass(frozen=True)
class Outputs:
    """A model's answers on a stream, in stream order, on every rank the same.

    Attributes:
        logits: ``(N, C)`` float32 on the CPU.
        targets: ``(N,)`` int64 on the CPU.
    """

    logits: Tensor
    targets: Tensor

    @property
    def posteriors(self) -> Tensor:
        """Softmax of the logits, ``(N, C)`` float32."""
        return self.logits.softmax(dim=-1)

    def subset(self, chosen: Tensor) -> "Outputs":
        """Return those of some samples, ``(N,)`` bool or positions."""
        return Outputs(self.logits[chosen], self.targets[chosen])

    @property
    def accuracy(self) -> float:
        """Share of samples whose largest logit is at their target, in [0, 1]."""
        return float((self.logits.argmax(dim=-1) == self.targets).double().mean())


def predict(
    module: nn.Module, loader: BatchLoader, runtime: Runtime, adapter: Adapter | None = None
) -> Outputs:
    """Compute a model's logits on every sample of a loader, each exactly once.

    Args:
        module: Any model whose output holds logits, already on the runtime's device. It is set to evaluation
            mode for the time of the call.
        loader: A loader made with ``indexed=True``, in order (no shuffling); it is sharded over the ranks.
        runtime: Device, precision and ranks.
        adapter: How batches and outputs are taken apart.

    Returns:
        Logits and targets in the loader's order, on every rank all of them.
    """
    adapter = adapter or Adapter()
    logits: list[Tensor] = []
    targets: list[Tensor] = []
    places: list[Tensor] = []
    with evaluating(module), runtime.not_training(), torch.inference_mode(False), torch.no_grad():
        for batch in loader:
            assert isinstance(batch, Indexed)
            inputs, target = adapter.split(runtime.to_device(batch.batch))
            with runtime.forward_context():
                logits.append(adapter.call(module, inputs).float())
            targets.append(target)
            places.append(batch.index)
    place = runtime.gather(torch.cat(places).to(runtime.device)).cpu()
    values, labels = runtime.gather(torch.cat(logits)).cpu(), runtime.gather(torch.cat(targets)).cpu()
    size = loader.sampler.size
    ordered = torch.empty((size, values.shape[1]))
    ordered_targets = torch.empty(size, dtype=torch.int64)
    ordered[place], ordered_targets[place] = (
        values,
        labels.long(),
    )  # a sample repeated to fill ranks lands once
    return Outputs(ordered, ordered_targets)
