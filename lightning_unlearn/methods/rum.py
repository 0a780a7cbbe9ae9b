"""RUM: unlearn the forget set part by part, from little to much memorised, each part by a method of its own."""

from collections.abc import Sequence
from typing import Any, ClassVar

import lightning as L
import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import nn

from lightning_unlearn.core.checks import in_range
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime, predict
from lightning_unlearn.methods.base import OneShotModule, Source
from lightning_unlearn.methods.base.again import Procedure, fit_alone, without
from lightning_unlearn.methods.base.maker import Method, maker_of
from lightning_unlearn.methods.base.module import UnlearningModule
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.methods.fine_tune import FineTune
from lightning_unlearn.methods.neg_grad_plus import NegGradPlus
from lightning_unlearn.methods.rewind import Rewind
from lightning_unlearn.models import frozen


class RUM(OneShotModule):
    """Refined unlearning: divides D_f by how well it is memorised, and gives each part to a method of its own, in turn.

    Source: Zhao et al., "What makes unlearning hard and what to do about it", 2024. Memorised are samples that a model
    gets right only because it was trained on them; the paper's proxy is a low confidence in the given label over the
    course of training. Of that no source keeps a record, so the source's own loss on the sample takes its place: the
    higher, the more memorised. The parts are as many as methods, of equal size, least memorised first. While one part
    is unlearned the others are in no stream, and the retain set is the request's; Rewind alone ascends on all of them,
    as on what earlier requests forgot, since its checkpoint saw them. Each method has a Trainer of its own, in one
    process; the time of RUM is the sum of theirs.

    Args:
        source: The source model.
        methods: What unlearns each part, least memorised first: a method's class, or whatever builds one of a model.
            ``None`` fine-tunes the lower half and ascends on the upper: :class:`FineTune`, :class:`NegGradPlus`.
        epochs: Epochs of each method, one number or one each, >= 1; a one-shot method has none.
        **one_shot: Arguments of :class:`~lightning_unlearn.methods.base.one_shot.OneShotModule`; the adapter is the
            methods' too, while each has a loss of its own.

    Raises:
        ValueError: If there are no methods, or as many epochs as methods are not given; in ``fit``, if there are more
            methods than forgotten samples, or Rewind has another part than the first.

    Example:
        >>> RUM(nn.Linear(4, 2), [FineTune], epochs=[1, 2])
        Traceback (most recent call last):
        ValueError: epochs must be one number, or one for each of the 1 methods, got [1, 2]
    """

    needs = ("losses",)
    searched: ClassVar[SearchSpace] = {"epochs": Search(1, 6, whole=True)}

    def __init__(
        self,
        source: Source,
        methods: Sequence[Method] | None = None,
        epochs: int | Sequence[int] = 2,
        **one_shot: Any,
    ) -> None:
        methods = (FineTune, NegGradPlus) if methods is None else methods
        each = [epochs] * len(methods) if isinstance(epochs, int) else list(epochs)
        if not methods or len(each) != len(methods):
            raise ValueError(
                f"epochs must be one number, or one for each of the {len(methods)} methods, got {epochs}"
            )
        for number in each:
            in_range("epochs", number, "[1, inf)", "; one-shot methods have none", whole=True)
        super().__init__(source, **one_shot)
        self.methods = [maker_of(each) for each in methods]
        self.epochs = each

    def parts(self, data: UnlearningDataModule, runtime: Runtime) -> list[np.ndarray[Any, Any]]:
        """Return the training positions of each part of the forget set, least memorised first."""
        loader = data.loader("forget", indexed=True)
        source = runtime.place(frozen(self.source))
        losses = predict(source, loader, runtime, self.adapter).loss
        order = losses.argsort(stable=True).cpu().numpy()
        return [np.sort(part) for part in np.array_split(data.split.forget[order], len(self.methods))]

    def edit(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Unlearn part by part, on the first process, and take its weights."""
        forget = data.split.forget
        if len(forget) < len(self.methods):
            raise ValueError(
                f"RUM has {len(self.methods)} methods for {len(forget)} forgotten samples; give it fewer methods"
            )
        if any(isinstance(make(self.source), Rewind) for make in self.methods[1:]):
            raise ValueError(
                "RUM: Rewind goes back to before the parts that were unlearned; let it have the first part"
            )
        parts = self.parts(data, runtime)
        size = data.loader("retain", train=True).batch_size * runtime.world_size
        model = self.source
        with runtime.all_or_none("unlearn its parts"):
            for number, part in enumerate(parts if runtime.rank == 0 else ()):
                view = without(data, np.setdiff1d(forget, part))
                seed = derive_seed(data.order_seed, "rum", number)
                model, _ = fit_alone(self._procedure(number, size), model, view, seed=seed, runtime=runtime)
        made = model.state_dict() if runtime.rank == 0 else {}
        self.model.load_state_dict(runtime.gather_objects(made)[0])

    def _procedure(self, number: int, batch_size: int) -> Procedure:
        made: list[UnlearningModule] = []

        def build(source: nn.Module) -> L.LightningModule:
            method = self.methods[number](source)
            method.adapter = self.adapter
            made.append(method)
            rank_zero_info(f"RUM: {type(method).__name__} unlearns part {number + 1} of {len(self.methods)}")
            return method

        epochs = self.epochs[number]
        return Procedure(
            build, lambda: {"max_epochs": 0 if made[-1].one_shot else epochs}, None, batch_size=batch_size
        )
