"""Ask a model for its logits on a whole stream, shared out over ranks and put back in order."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import StreamConsumer, UnlearningDataModule
from lightning_unlearn.data.loading import BatchLoader, Indexed
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.functional.tasks import SINGLE_LABEL, Embedding, Task
from lightning_unlearn.models.surgery import answering_fast


@dataclass(frozen=True)
class Outputs:
    """A model's answers on a stream, in stream order, on every rank the same.

    Attributes:
        logits: ``(N, C)`` float32 on the CPU, or the outputs of another task, ``(N, ...)``.
        targets: ``(N,)`` int64 on the CPU, or the targets of another task, ``(N, ...)``.
        task: What they mean.
        exact: Loss and correctness of each sample, ``(N, 2)``, where of its positions only some are kept here.
    """

    logits: Tensor
    targets: Tensor
    task: Task = SINGLE_LABEL
    exact: Tensor | None = None

    @property
    def posteriors(self) -> Tensor:
        """Probabilities, the last dimension over classes, float32; ``(N, C)`` of single labels."""
        return self.task.posteriors(self.logits)

    def subset(self, chosen: Tensor) -> "Outputs":
        """Return those of some samples, ``(N,)`` bool or positions."""
        exact = None if self.exact is None else self.exact[chosen]
        return Outputs(self.logits[chosen], self.targets[chosen], self.task, exact)

    @property
    def features(self) -> Tensor:
        """What a membership attack learns from, sorted posteriors of a classifier, ``(N, F)``."""
        return self.task.features(self.logits, self.targets)

    @property
    def measured(self) -> float:
        """The accuracy, or the mean loss where no answer is right or wrong."""
        return self.accuracy if "correct" in self.task.offers else float(self.loss.mean())

    @property
    def accuracy(self) -> float:
        """How right the answers are, a mean over samples in [0, 1]."""
        return float(self.correct.double().mean())

    @property
    def correct(self) -> Tensor:
        """How right each answer is, ``(N,)`` in [0, 1]."""
        return self.task.correct(self.logits, self.targets) if self.exact is None else self.exact[:, 1]

    @property
    def loss(self) -> Tensor:
        """Each sample's loss, ``(N,)`` float64."""
        return self.task.loss(self.logits.double(), self.targets) if self.exact is None else self.exact[:, 0]

    @property
    def confidence(self) -> Tensor:
        """How well each sample is known, φ, ``(N,)`` float64."""
        return self.task.confidence(self.logits, self.targets)


def ask(
    module: nn.Module,
    data: UnlearningDataModule,
    streams: Iterable[str],
    runtime: Runtime,
    adapter: Adapter,
) -> dict[str, Outputs]:
    """Compute a model's answers on whole streams as they are judged: of embeddings, how near class means are.

    Args:
        module: The model, on the runtime's device.
        data: The split data.
        streams: Names of streams.
        runtime: Device, precision and ranks.
        adapter: How batches and outputs are taken apart.

    Raises:
        ValueError: If embeddings cannot be judged.
    """
    found = {stream: predict(module, data.evaluated(stream), runtime, adapter) for stream in streams}
    task = adapter.kind
    if not isinstance(task, Embedding):
        return found
    known = found.get("retain") or predict(module, data.evaluated("retain"), runtime, adapter)
    return {
        stream: Outputs(
            *task.nearness(each.logits, each.targets, known.logits, known.targets, among=stream == "retain"),
            task.judged_as,
        )
        for stream, each in found.items()
    }


def ask_few(adapter: Adapter, inputs: Any, module: nn.Module) -> Tensor:
    """Return a model's logits on the first two samples of a batch, whose inputs the adapter has taken out."""
    return adapter.call(module, apply_to_collection(inputs, Tensor, lambda value: value[:2]))


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
    kind = adapter.kind
    # of a method the model itself, as when it is validated
    network = getattr(module, "model", module) if isinstance(module, StreamConsumer) else module
    logits: list[Tensor] = []
    targets: list[Tensor] = []
    places: list[Tensor] = []
    exact: list[Tensor] = []
    with runtime.asking(module), answering_fast(network) as answer:
        for batch in loader:
            assert isinstance(batch, Indexed)
            inputs, target = adapter.split(runtime.to_device(batch.batch))
            with runtime.forward_context():
                logits_of = partial(adapter.call, module, inputs)
                whole = answer(logits_of, partial(ask_few, adapter, inputs)).float()
                answers, kept = kind.kept(whole, target)
                if kind.of_kept is kind and answers.shape != whole.shape:
                    exact.append(
                        torch.stack([kind.loss(whole, target), kind.measure(whole, target)], dim=1).double()
                    )
            logits.append(answers)
            targets.append(kept)
            places.append(batch.index)
    if kind.pads:
        longest = torch.tensor([max(x.shape[1] for x in targets)], device=runtime.device)
        length = int(runtime.gather(longest).max())
        logits = [F.pad(x, (0, 0, 0, length - x.shape[1]), value=1.0) for x in logits]
        ignored = kind.of_kept.ignore_index  # type: ignore[attr-defined]  # what pads has one
        targets = [F.pad(x, (0, length - x.shape[1]), value=ignored) for x in targets]
    place = runtime.gather(torch.cat(places).to(runtime.device)).cpu()
    ordered: list[Tensor] = []
    for parts in (logits, targets, exact) if exact else (logits, targets):
        values = _precise(runtime.gather(torch.cat(parts)).cpu())
        ordered.append(torch.empty((loader.sampler.size, *values.shape[1:]), dtype=values.dtype))
        ordered[-1][place] = values  # a sample repeated to fill ranks lands once
    return Outputs(ordered[0], ordered[1], kind.of_kept, ordered[2].double() if exact else None)


def _precise(values: Tensor) -> Tensor:
    return values.float() if values.is_floating_point() else values.long()
