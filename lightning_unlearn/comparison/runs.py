"""What a comparison runs: how the source comes to be, and each method with its Trainer."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L

from lightning_unlearn.core.checks import in_range
from lightning_unlearn.methods.base.maker import Method, maker_of
from lightning_unlearn.methods.base.source import note_training_set, read_checkpoint
from lightning_unlearn.models.freezing import mark_recorded
from lightning_unlearn.models.surgery import load_state

SOURCE, RETRAIN, RETRAIN_2 = "source", "retrain", "retrain_2"
"""Names of the controls, in folders and in reports."""


@dataclass
class SourceRun:
    """How the source model comes to be.

    Args:
        model: Builds the untrained source; called once a seed.
        trainer: Arguments of its Trainer, such as ``max_epochs``.
        checkpoint: Weights of a source that is trained already; ``None`` trains one a seed.
        keep_every: Keep the weights of every so many epochs, in the folder ``earlier`` of the source's run, where
            ``Rewind(checkpoint="auto")`` finds them; ``None`` keeps none. They remember, and ``clean`` removes them.

    Raises:
        ValueError: If ``keep_every`` < 1, or is given for a source that is trained already.
    """

    model: Callable[[], L.LightningModule]
    trainer: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    keep_every: int | None = None

    def __post_init__(self) -> None:
        in_range("keep_every", self.keep_every, "[1, inf)", "; None keeps none", whole=True, none=True)
        if self.keep_every is not None and self.checkpoint is not None:
            raise ValueError(
                f"keep_every={self.keep_every}: the source of {self.checkpoint} is trained already, so nothing can be "
                "kept of its training; remove keep_every, and put earlier checkpoints beside it or name them"
            )

    def built(self) -> L.LightningModule:
        """Build the untrained source, with the layers that it makes in ``configure_model``."""
        model = self.model()
        model.configure_model()
        return model

    def loaded(self) -> L.LightningModule:
        """Build the source and load its checkpoint, with what a method asks of a source.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it does not load into the model.
        """
        file, model = Path(str(self.checkpoint)), self.built()
        if not file.is_file():
            raise FileNotFoundError(
                f"source: there is no checkpoint {self.checkpoint}; give the path of the source model's"
            )
        try:
            content = read_checkpoint(file, objects=True)
            load(model, content)
            mark_recorded(model, content)
            note_training_set(model, content, file)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(
                f"source: {self.checkpoint} does not load into {type(model).__name__}: {error}"
            ) from error
        return model

    one_shot = False  # unlike a method, it is always trained

    @property
    def batch_size(self) -> None:
        """A source is trained in the data's batches."""


@dataclass
class MethodRun:
    """One method of a comparison.

    Args:
        method: Builds the method from the source model; a method's class will do, and so will the name of one of ours.
        name: Name in tables and folders; ``None`` derives one from the class, ``ReferenceKL`` giving
            ``reference_kl``.
        trainer: Arguments of its Trainer, such as ``max_epochs``.
        batch_size: Samples a process takes each step while it unlearns; ``None`` for the data's. A forget set is
            small, and small batches give a method more steps for the same work.

    Raises:
        ValueError: If ``batch_size`` < 1.
    """

    method: Method
    name: str | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None

    def __post_init__(self) -> None:
        in_range("batch_size", self.batch_size, "[1, inf)", "; None takes the data's", whole=True, none=True)
        self.method = maker_of(self.method)

    @property
    def one_shot(self) -> bool:
        """Whether the method, as far as can be told before it is built, trains nothing."""
        return bool(getattr(getattr(self.method, "func", self.method), "one_shot", False))

    @property
    def label(self) -> str:
        """Name in tables and folders."""
        if self.name is not None:
            return self.name
        if not isinstance(self.method, type):
            raise ValueError("name: a method that is built by a function needs a name of its own")
        return snake_case(self.method.__name__)


def load(model: L.LightningModule, content: dict[str, Any]) -> None:
    """Load what an export or a checkpoint holds as Lightning does: what the model itself keeps, then its weights."""
    if content.keys() > {"state_dict"}:  # and not the bare weights
        model.on_load_checkpoint(content)
    load_state(model, content["state_dict"])


def name_of(class_path: str) -> str:
    """Return the name of a method's runs, by its import path."""
    return snake_case(class_path.rpartition(".")[2])


def snake_case(name: str) -> str:
    """Turn a class name into the name of its runs.

    Example:
        >>> [snake_case(name) for name in ("ReferenceKL", "RandomTopK", "CFk")]
        ['reference_kl', 'random_top_k', 'cf_k']
    """
    return re.sub(
        r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z](?!$))|(?<=[A-Z]{2})(?=[a-z]$)", "_", name
    ).lower()
