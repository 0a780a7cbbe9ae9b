"""Take a user's batches apart and call a user's model."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor, nn

from lightning_unlearn.functional.tasks import SINGLE_LABEL, Task, task_named

TARGET_KEYS = ("labels", "label", "targets", "target", "y", "mask")
_INPUT_KEYS = ("input", "inputs", "x", "image", "images", "features")
_TOKENS = "input_ids"  # which are a next-token model's targets too
_IGNORED = -100


@dataclass(frozen=True)
class Adapter:
    """Says where a batch keeps its inputs and targets, and where a model's output keeps its logits.

    The default understands ``(inputs, targets, ...)`` tuples, mappings with the usual key names, and outputs
    that are a tensor, have a ``logits`` field (as in Hugging Face models) or are a tuple that starts with them.
    Of a sequence of three or more, it is found out on one batch whether the model takes several inputs.

    Args:
        inputs: Position or key of the inputs in a batch, or a list of them, for a model that takes several. With
            ``None``, the first element of a sequence, or one of ``input, inputs, x, image, images, features`` of a
            mapping; a mapping with none of these is handed to the model as keyword arguments, without its targets and
            what the model does not take, or as it is where the model takes one argument.
        targets: Position or key of the targets. With ``None``, the second element of a sequence, or one of
            ``labels, label, targets, target, y, mask`` of a mapping; failing these, for a model of the next token,
            its ``input_ids`` where there is no padding.
        logits: Position, key or attribute of the logits in the model's output; ``None`` finds them.
        task: What outputs and targets mean, a :class:`~lightning_unlearn.functional.Task` or its name; ``None`` finds
            out on one batch, by their shapes and values and by the loss of the model's own ``training_step``.

    Example:
        >>> import torch
        >>> inputs, targets = Adapter().split((torch.zeros(2, 3), torch.tensor([0, 1])))
        >>> inputs.shape, targets.tolist()
        (torch.Size([2, 3]), [0, 1])
        >>> inputs, targets = Adapter(targets="species").split({"x": torch.ones(1), "species": torch.tensor([2])})
        >>> targets.item()
        2
    """

    inputs: int | str | Sequence[int | str] | None = None
    targets: int | str | None = None
    logits: int | str | None = None
    task: Task | str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.inputs, list | range):
            object.__setattr__(self, "inputs", tuple(self.inputs))
        if isinstance(self.task, str):
            object.__setattr__(self, "task", task_named(self.task))

    @property
    def kind(self) -> Task:
        """The task; single labels while it is not known."""
        return self.task if isinstance(self.task, Task) else SINGLE_LABEL

    def of_task(self, task: Task) -> "Adapter":
        """Return the same adapter, knowing the task."""
        known = copy.copy(self)
        object.__setattr__(known, "task", task)
        return known

    def split(self, batch: Any) -> tuple[Any, Tensor]:
        """Split a batch into what the model is called with and its targets.

        Returns:
            The inputs (a tensor, or whatever structure the model takes) and the targets, ``(B, ...)``; a column of
            whole numbers ``(B, 1)`` as ``(B,)``.

        Raises:
            ValueError: If the batch has no such place; the message lists what it has.
        """
        target_at = self._place(batch, self.targets, (*TARGET_KEYS, _TOKENS), 1, "targets")
        targets, inputs = batch[target_at], self._inputs(batch, (target_at,))
        if target_at == _TOKENS and isinstance(targets, Tensor) and "attention_mask" in batch:
            targets = targets.masked_fill(batch["attention_mask"] == 0, _IGNORED)
        if not isinstance(targets, Tensor) or not targets.ndim:
            wanted = f"a tensor with a row a sample, got {_described(targets)}"
            raise ValueError(f"targets must be {wanted}; say where they are with {_spelled('targets')}")
        column = targets.ndim == 2 and targets.shape[1] == 1 and not targets.is_floating_point()
        return inputs, targets.squeeze(1) if column else targets

    def relabelled(self, batch: Any, targets: Tensor) -> Any:
        """Return a batch of the same kind with other targets; the given one stays as it is.

        Example:
            >>> import torch
            >>> Adapter().relabelled([torch.zeros(1, 3), torch.tensor([0])], torch.tensor([2]))[1]
            tensor([2])
        """
        place = self._place(batch, self.targets, (*TARGET_KEYS, _TOKENS), 1, "targets")
        if place == _TOKENS:
            return {**batch, TARGET_KEYS[0]: targets}
        if batch[place].numel() == targets.numel():
            targets = targets.view_as(batch[place])
        if isinstance(batch, Mapping):
            other = copy.copy(batch)
            other[place] = targets  # type: ignore[index]  # a batch with keys is a dict or behaves like one
            return other
        parts = [targets if at == int(place) % len(batch) else part for at, part in enumerate(batch)]
        return batch._make(parts) if hasattr(batch, "_make") else type(batch)(parts)

    def inputs_of(self, batch: Any) -> Any:
        """Return what the model is called with, from a batch with or without targets."""
        return batch if isinstance(batch, Tensor) else self._inputs(batch, TARGET_KEYS)

    def _inputs(self, batch: Any, targets: tuple[int | str, ...]) -> Any:
        """Return the inputs; of a mapping that names none, all but the targets."""
        if isinstance(batch, Mapping) and self.inputs is None and not batch.keys() & set(_INPUT_KEYS):
            return {key: value for key, value in batch.items() if key not in targets or key == _TOKENS}
        if isinstance(self.inputs, tuple):
            places = {place: self._place(batch, place, (), 0, "inputs") for place in self.inputs}
            parts = {place: batch[at] for place, at in places.items()}
            return parts if isinstance(batch, Mapping) else tuple(parts.values())
        return batch[self._place(batch, cast(int | str | None, self.inputs), _INPUT_KEYS, 0, "inputs")]

    def layouts(self, batch: Any) -> list["Adapter"]:
        """Return how a batch may be taken apart: as this adapter says, by another input, or by all but the targets."""
        if self.inputs is None and isinstance(batch, Mapping):
            others = [key for key in _INPUT_KEYS if key in batch][1:]
            every = [key for key in batch if key not in TARGET_KEYS]
            return [self, *(replace(self, inputs=each) for each in (*others, every))]
        if self.inputs is self.targets is None and isinstance(batch, Sequence) and len(batch) > 2:
            return [self, replace(self, inputs=range(len(batch) - 1), targets=len(batch) - 1)]
        return [self]

    def call(self, module: nn.Module, inputs: Any) -> Tensor:
        """Call a model on inputs and return its logits, or whatever its task's outputs are.

        Args:
            module: Any model.
            inputs: As :meth:`split` gives them; a mapping is passed as keyword arguments, several inputs one by one.

        Returns:
            A floating-point tensor, samples first; logits ``(B, C)`` of single labels.

        Raises:
            ValueError: If the output holds no such tensor.
        """
        logits = self.logits_of(_called(module, inputs, several=isinstance(self.inputs, tuple)))
        if not isinstance(logits, Tensor) or not logits.ndim or not logits.is_floating_point():
            wanted = f"logits, got {_described(logits)}; say where with {_spelled('logits')}"
            raise ValueError(f"the forward of {type(module).__name__} must give {wanted}")
        return logits

    def logits_of(self, output: Any) -> Any:
        """Return what of a model's output are the logits."""
        if self.logits is None:
            if isinstance(output, Mapping) and "logits" in output:
                return output["logits"]
            if hasattr(output, "logits"):
                return output.logits
            return output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(self.logits, str) and hasattr(output, self.logits):
            return getattr(output, self.logits)
        try:
            if isinstance(output, Tensor):
                raise KeyError(self.logits)
            return output[self.logits]
        except (KeyError, IndexError, TypeError):
            raise ValueError(
                f"logits={self.logits!r} is not in the model's output ({_described(output)}); say where they are "
                f"with {_spelled('logits')}"
            ) from None

    @staticmethod
    def _place(
        batch: Any, asked: int | str | None, keys: tuple[str, ...], index: int, what: str
    ) -> int | str:
        if isinstance(batch, Mapping):
            options: tuple[int | str, ...] = keys if asked is None else (asked,)
            for key in options:
                if key in batch:
                    return key
            there = sorted(map(str, batch))
            raise ValueError(
                f"{what}={asked!r} not found in a batch with the keys {there}; name one with {_spelled(what)}"
            )
        if isinstance(batch, Sequence):
            place = index if asked is None else asked
            if isinstance(place, int) and -len(batch) <= place < len(batch):
                return place
            advice = f"give a position below {len(batch)} with {_spelled(what)}"
            raise ValueError(f"{what}={place!r} not found in a batch of {len(batch)} elements; {advice}")
        raise ValueError(f"a batch must be a sequence or mapping with {what}, got {type(batch).__name__}")


def _called(module: nn.Module, inputs: Any, *, several: bool) -> Any:
    """Call a model with what its forward takes of several inputs, which may be known to be that."""
    if not isinstance(inputs, Mapping) and type(inputs) not in (tuple, list):
        return module(inputs)
    taken = _parameters(module)
    named = {p.name for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    needed = [
        p.name for p in taken if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if not isinstance(inputs, Mapping):
        spread = len(needed) > 1 or (several and len(named) >= len(inputs))
        return module(*inputs) if spread else module(inputs)
    if len(needed) == 1 and needed[0] not in inputs:
        return module(inputs)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in taken)
    return module(**(inputs if takes_all else {key: value for key, value in inputs.items() if key in named}))


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    """Return what a model's forward takes; of one that hands on all it is given to its ``model``, what that takes."""
    taken = list(inspect.signature(getattr(module, "forward", module)).parameters.values())
    inner = getattr(module, "model", None)
    handed_on = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in taken)
    return _parameters(inner) if handed_on and isinstance(inner, nn.Module) else taken


def _spelled(what: str) -> str:
    """Say how an argument of the adapter is given, in Python and to a command."""
    return f"Adapter({what}=...) (on the command line --adapter.{what}=...)"


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)} of {value.dtype}"
    name = type(value).__name__
    return f"{name} with the keys {sorted(map(str, value))}" if isinstance(value, Mapping) else name
