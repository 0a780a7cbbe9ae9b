"""What an evaluator may ask for while it looks at one run: data, controls and shared answers."""

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.data.selection_data import Positions
from lightning_unlearn.ensembles import Outputs, Runtime, ask, isolated_rng
from lightning_unlearn.methods.base.module import UnlearningModule
from lightning_unlearn.methods.base.trial import require_logits, try_model, warn_of_guessing
from lightning_unlearn.models.surgery import clone

STREAMS = ("forget", "retain", "test", "nonmember")


class AuditCache:
    """Answers of models on streams, kept while the evaluators of one run follow each other."""

    def __init__(self) -> None:
        self.outputs: dict[tuple[int, int, str, Adapter], Outputs] = {}
        self.placed: dict[int, tuple[nn.Module, nn.Module]] = {}
        self.tried: dict[tuple[int, int, Adapter], Adapter] = {}


_CACHES: weakref.WeakKeyDictionary[L.Trainer, AuditCache] = weakref.WeakKeyDictionary()


Controls = dict[
    tuple[int, int, Adapter], tuple[tuple[nn.Module | UnlearningDataModule, ...], dict[str, Outputs]]
]
"""Of each control, data and adapter: the first two themselves, and the answers on the forget set."""


class Audit:
    """One evaluator's view of one run.

    Args:
        trainer: The trainer that has just finished.
        data: The split data.
        adapter: How batches and outputs are taken apart.
        source: The source model, or None if it is not known.
        retrained: The retrained model, or None if it is not known.
        seed: Seed of whatever the evaluator draws.
        controls: What controls answered on the forget set when other models were audited, and now.

    Attributes:
        runtime: Device, precision and ranks.
        details: Where an evaluator notes what does not fit into scalars (intervals, confusion matrices, curves);
            plain values that JSON can hold.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        data: UnlearningDataModule,
        adapter: Adapter,
        source: nn.Module | None,
        retrained: nn.Module | None,
        seed: int,
        controls: Controls | None = None,
    ) -> None:
        self.runtime = Runtime(trainer)
        self.data = data
        self.adapter = adapter
        self.seed = seed
        self.details: dict[str, Any] = {}
        self._controls = {} if controls is None else controls
        self._cache = _CACHES.setdefault(trainer, AuditCache())
        self.source = None if source is None else self._placed(source)
        self.retrained = None if retrained is None else self._placed(retrained)

    def outputs(self, model: nn.Module, stream: str) -> Outputs:
        """Return a model's logits on a whole stream, computed once for all evaluators of the run.

        The stream is as :meth:`~lightning_unlearn.data.UnlearningDataModule.evaluated` serves it.

        Args:
            model: The model under audit, :attr:`source` or :attr:`retrained`.
            stream: Name of a stream, such as ``forget``.

        Raises:
            FloatingPointError: If logits are not finite, of which no score could be computed.
        """
        key = (id(model), id(self.data), stream, self.adapter)
        if key not in self._cache.outputs:
            # embeddings are all judged by those of the retain set
            embeddings = self.adapter.kind.judged_as is not self.adapter.kind.of_kept
            together = STREAMS if embeddings and stream in STREAMS else (stream,)
            asked = [each for each in together if self.data.stream_size(each) or each == stream]
            of = self.data, self.runtime, self.adapter
            validated = isinstance(model, UnlearningModule) and model.validated.outputs(stream, model, *of)
            control = stream == "forget" and (model is self.source or model is self.retrained)
            asked_of = id(self.original(model)), id(self.data), self.adapter
            known = self._controls.get(asked_of, ((), {}))[1] if control else {}
            found = known or ({stream: validated} if validated else {})
            if not found:
                with isolated_rng():  # so that nobody can tell whether it was kept
                    found = ask(model, self.data, asked, self.runtime, self.adapter)
            if control:  # with model and data, so that their ids stay their own
                self._controls[asked_of] = (self.original(model), self.data), {stream: found[stream]}
            for name, outputs in found.items():
                if spoilt := int((~outputs.logits.isfinite()).any(dim=-1).sum()):
                    raise FloatingPointError(
                        f"the model's logits are NaN or infinite on {spoilt} of {len(outputs.logits)} samples of the "
                        f"stream {name!r}; check these samples, or the model's weights, for such values"
                    )
                self._cache.outputs[id(model), id(self.data), name, self.adapter] = outputs
        return self._cache.outputs[key]

    def known(self, model: nn.Module) -> dict[str, Outputs]:
        """Return, by stream, what the evaluators of the run have asked a model so far."""
        of = (id(model), id(self.data), self.adapter)
        return {
            stream: found
            for (model_id, data_id, stream, adapter), found in self._cache.outputs.items()
            if (model_id, data_id, adapter) == of
        }

    def batches(
        self, stream: str, batch_size: int, *, positions: Positions | None = None, epoch: int | None = None
    ) -> Iterator[tuple[Any, Tensor]]:
        """Yield inputs and targets of a whole stream on every rank, on the device and never augmented.

        Args:
            stream: Name of a stream.
            batch_size: Samples of a batch.
            positions: Which samples; ``None`` for all.
            epoch: Epoch of training, which shuffles; ``None`` keeps the stream's order.
        """
        loader = self.data.evaluated(
            stream, indexed=False, positions=positions, batch_size=batch_size, rank=0, world_size=1
        )
        if epoch is not None:
            loader.sampler.shuffle, loader.sampler.seed = True, derive_seed(self.seed, "order")
            loader.sampler.set_epoch(epoch)
        for batch in loader:
            yield self.adapter.split(self.runtime.to_device(batch))

    def answers(self, model: nn.Module, batches: Iterable[tuple[Any, Tensor]]) -> Outputs:
        """Return a model's logits on batches that every rank has alike, such as those of :meth:`batches`."""
        logits, targets = [], []
        with self.runtime.asking(model):
            for inputs, target in batches:
                with self.runtime.forward_context():
                    logits.append(self.adapter.call(model, inputs).float())
                targets.append(target)
        return Outputs(torch.cat(logits).cpu(), torch.cat(targets).cpu(), self.adapter.kind)

    def original(self, model: nn.Module) -> nn.Module:
        """Return the user's module that a control is a copy of, or the model itself."""
        return next((original for original, copy in self._cache.placed.values() if copy is model), model)

    def _placed(self, control: nn.Module) -> nn.Module:
        """Return a copy of a control on the device: moving the user's own could change its parameter type."""
        kept = self._cache.placed.get(id(control))
        if kept is None:
            # the original is kept so that its id stays its own
            kept = (control, self.runtime.place(clone(control).eval()))
            self._cache.placed[id(control)] = kept
        return kept[1]


def try_answers(
    trainer: L.Trainer, model: nn.Module, data: UnlearningDataModule, adapter: Adapter
) -> Adapter:
    """Refuse a model whose answers to one batch cannot be measured; asked once for all evaluators of the run.

    Args:
        trainer: The trainer that is about to fit or test it.
        model: The model, on the device.
        data: The split data, attached to the trainer.
        adapter: How batches and outputs are taken apart.

    Returns:
        The adapter, knowing the task.

    Raises:
        ValueError: If it gives posteriors, cannot be called so, or may be understood in two ways.
    """
    tried, key = _CACHES.setdefault(trainer, AuditCache()).tried, (id(model), id(data), adapter)
    if key not in tried:
        trial = try_model(model, data, Runtime(trainer), adapter, step=False)
        require_logits(trial.logits, trial.targets, type(model).__name__, trial.task)
        tried[key] = trial.adapter
        if trainer.testing:  # a model that is about to be fitted may know nothing yet
            warn_of_guessing(trial, type(model).__name__)
    return tried[key]


def forget_answers(trainer: L.Trainer) -> None:
    """Drop the shared answers, because the model is about to change or is done with."""
    _CACHES.pop(trainer, None)
