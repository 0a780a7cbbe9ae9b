"""Take a source model at hand, or load one from a checkpoint file."""

import contextvars
import io
import pkgutil
import sys
import types
import typing
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from lightning_unlearn.core.compat import INSTANTIATOR
from lightning_unlearn.core.files import model_hash
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.models import restore_hyperparameters
from lightning_unlearn.models.freezing import mark_recorded
from lightning_unlearn.models.hparams import taken_by, unkept_arguments
from lightning_unlearn.models.surgery import class_state, uncompiled, without_compiled

MODEL, ORACLE, SPLIT, PAGE = "model.ckpt", "retrained.ckpt", "split.npz", "certificate.html"
"""What :func:`~lightning_unlearn.forget` writes: the unlearned model, a retrained one, who was forgotten, the page."""

_LEFT_OUT = "objects_left_out"  # where read_checkpoint names them


@dataclass(frozen=True)
class SourceCheckpoint:
    """A checkpoint of the source model and the class that loads it.

    The fields are not called class_path and init_args because jsonargparse takes those names for its own.

    Args:
        path: File written by ``Trainer.save_checkpoint``, ``ModelCheckpoint`` or a method's ``export``.
        module: Import path of the LightningModule, such as ``my_project.MyModule``; ``None`` if the
            checkpoint was written under LightningCLI, which records it.
        arguments: Arguments of the class that the checkpoint does not hold.
        trust: Whether to import and call whatever the checkpoint's hyper-parameters name. Otherwise a recorded class,
            those of networks and optimizers within it included, is used only if it is imported already and is one,
            since a file must not decide what is executed.
    """

    path: str
    module: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    trust: bool = False

    def __post_init__(self) -> None:
        given: object = self.module
        if given is None or isinstance(given, str):
            return
        kind = given if isinstance(given, type) else type(given)
        raise TypeError(
            f"module must be the import path of the class, as text, got {kind.__name__}; give "
            f"'{kind.__module__}.{kind.__qualname__}'"
        )

    def load(self) -> L.LightningModule:
        """Load the model on the CPU.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no checkpoint, holds objects that would have to be executed to be read,
                or belongs to another class.
        """
        path = Path(self.path)
        if not path.is_file():
            raise FileNotFoundError(
                f"source: there is no checkpoint {path}; give the path of the source model's"
            )
        module_class = L.LightningModule if self.module is None else _import_class(self.module)
        content = read_checkpoint(path, objects=self.module is not None)
        recorded = content.get("hyper_parameters", {})
        if self.module is None and INSTANTIATOR not in recorded:
            raise ValueError(
                f"source: {path} does not say which class it belongs to (only checkpoints written under LightningCLI "
                f"do); give SourceCheckpoint({self.path!r}, 'my_project.MyModule'), or the loaded module itself"
            )
        if INSTANTIATOR in recorded and not self.trust:
            _require_known(path, {key: value for key, value in recorded.items() if key not in self.arguments})
        objects = taken_by(module_class, content.pop(_LEFT_OUT, []))
        if left_out := [name for name in objects if name not in self.arguments]:
            raise ValueError(
                f"source: {path} holds objects, which are not read, since that would execute them. {_to_give(left_out)}"
            )
        try:
            loaded = self._built(module_class, content)
        except (RuntimeError, TypeError, KeyError, ValueError) as error:
            lost = unkept_arguments(module_class, {**recorded, **dict.fromkeys(self.arguments)})
            hint = f". {_to_give(lost)}" if lost and self.module else ""
            raise ValueError(
                f"source: {path} does not load into {self.module or 'the class it records'}: {error}{hint}"
            ) from error
        restore_hyperparameters(loaded, content)
        mark_recorded(loaded, content)
        note_training_set(loaded, content, path)
        return loaded

    def _built(self, kind: type[L.LightningModule], content: dict[str, Any]) -> L.LightningModule:
        """Build the model from what was read of the file, so that objects in it are not read again."""

        def build(state: Mapping[str, Any]) -> L.LightningModule:
            file = io.BytesIO()
            kept = {key: value for key, value in content.items() if key not in ("optimizer_states", "loops")}
            torch.save({"pytorch-lightning_version": L.__version__, **kept, "state_dict": state}, file)
            file.seek(0)
            return kind.load_from_checkpoint(
                file, map_location="cpu", weights_only=True, **dict(self.arguments)
            )

        state = content["state_dict"]
        try:
            return build(state)
        except RuntimeError:
            plain = {without_compiled(name): value for name, value in state.items()}
            if plain.keys() == state.keys():
                raise
            return build(plain)  # compiled in setup(), which loading does not call


def note_training_set(model: nn.Module, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Note on a model what its checkpoint says of its training set, which the data to be unlearned is compared with.

    Where that was split here, this is its fingerprint; else the arguments of the datamodule, if it saved them. Of a
    model that a request made forget, it is also the split beside it.

    Args:
        model: The model that was loaded from the checkpoint.
        checkpoint: The content of the file.
        path: The file.
    """
    split = checkpoint.get(UnlearningDataModule.__qualname__, {})
    arguments = checkpoint.get(L.LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY, {})
    noted: Any = model  # registers no tensor by it
    noted.training_fingerprint = split.get("training_fingerprint", "")
    noted.training_arguments = {} if noted.training_fingerprint else arguments
    # a comparison keeps splits as well, and the source may lie beside what became of it
    if path.name in (MODEL, ORACLE) and all((path.parent / name).is_file() for name in (SPLIT, PAGE)):
        noted.forgotten_by = path.parent / SPLIT


Source = nn.Module | SourceCheckpoint | str | Path


def load_source(source: Source) -> nn.Module:
    """Return the source model, loaded if it is a file.

    Args:
        source: A module (returned as it is), a :class:`SourceCheckpoint`, or the path of a checkpoint written
            under LightningCLI.

    Raises:
        TypeError: If it is none of these.
        ValueError: If it has no parameters.
    """
    if isinstance(source, str | Path):
        source = SourceCheckpoint(str(source))
    if isinstance(source, SourceCheckpoint):
        # LightningCLI hands hyper-parameters to whatever is built next; in an empty context this one keeps its own
        loaded: nn.Module = contextvars.Context().run(source.load)
    elif isinstance(source, nn.Module):
        loaded = uncompiled(source)
    else:
        raise TypeError(
            f"source must be a module, a checkpoint path or a SourceCheckpoint, got {type(source).__name__}"
        )
    if next(loaded.parameters(), None) is None:
        raise ValueError(f"source: {type(loaded).__name__} has no parameters, so there is nothing to unlearn")
    return loaded


def require_other(source: nn.Module, retrained: nn.Module) -> nn.Module:
    """Return a model that was trained without the forgotten samples, unless it is the source.

    Raises:
        ValueError: If its weights are the source's.
    """
    if retrained is source or model_hash(class_state(retrained)) == model_hash(class_state(source)):
        raise ValueError(
            "retrained: it is the source itself, weight for weight; give a model that was trained without these "
            "samples, or leave it out"
        )
    return retrained


def _to_give(names: Sequence[str]) -> str:
    given = ", ".join(f"{name!r}: ..." for name in names)
    own = "or name a class of your own that makes them itself"
    return f"Give what it does not hold, arguments={{{given}}}, {own}"


class _Inert:
    """Stands in for an object in a file; it takes what pickle gives the object, and does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_checkpoint(path: str | Path, *, mapped: bool = False, objects: bool = False) -> dict[str, Any]:
    """Read a checkpoint file, or a bare ``state_dict``, without executing or importing anything in it.

    Args:
        path: The file.
        mapped: Leave the tensors in the file until they are used, for a short look at a large checkpoint.
        objects: Leave out objects, such as a network among the hyper-parameters, instead of refusing the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, is no checkpoint, or holds more than tensors and plain values.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no checkpoint {path}: no such file")
    unknown: list[str] = []
    try:
        if not mapped:
            _require_sound(path)
        if zipfile.is_zipfile(path):
            unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        # pickle looks a class within a class up with getattr
        stand_ins: list[Any] = [
            ((lambda *_: _Inert) if name == "builtins.getattr" else _Inert, name)
            for name in unknown
            if objects
        ]
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path)
            )
    # torch raises UnpicklingError, RuntimeError, EOFError, ... as the damage falls
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = "write it again with Trainer.save_checkpoint"
        # torch goes on to advise to execute it all the same
        if first_line.startswith("Weights only load failed"):
            first_line = "it holds objects that would have to be executed"
            given = "SourceCheckpoint(path, module='my_project.MyModule', arguments={'net': ...}), or "
            advice = f"give {'' if objects else given}the loaded module"
        found = f": {', '.join(sorted(unknown)[:5])}" if unknown else ""
        raise ValueError(
            f"{path} cannot be read as a checkpoint of tensors and plain values: {first_line}{found} "
            f"(nothing in it was executed; {advice})"
        ) from error
    if isinstance(content, dict) and content and all(isinstance(v, torch.Tensor) for v in content.values()):
        content = {"state_dict": content}
    if unknown and isinstance(content, dict):
        content = _without_objects(content)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        raise ValueError(f"{path} holds no 'state_dict', so it is not a Lightning checkpoint")
    return content


def checkpoint_hash(path: str | Path) -> str:
    """Return the hash of the model that a checkpoint file holds."""
    return model_hash(read_checkpoint(path, objects=True)["state_dict"])


def _without_objects(content: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint without the entries that hold objects, and the names of such hyper-parameters."""
    kept = {
        key: {name: item for name, item in value.items() if _is_plain(item)}
        if isinstance(value, Mapping)
        else value
        for key, value in content.items()
        if isinstance(value, Mapping) or _is_plain(value)
    }
    kept[_LEFT_OUT] = [
        name for name in content.get("hyper_parameters", {}) if name not in kept["hyper_parameters"]
    ]
    return kept


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set):
        return all(_is_plain(item) for item in value)
    return value is not _Inert and not isinstance(value, _Inert)


def _require_sound(path: str | Path) -> None:
    """Compare the checksums in the file, which torch writes and does not look at, with what is there."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {damaged} does not match its content")


def _require_known(path: Path, recorded: Any) -> None:
    """Refuse hyper-parameters that name anything else than an imported class of a kind that models are made of."""
    if isinstance(recorded, Mapping):
        named = recorded.get("class_path")
        if isinstance(named, str) and "." in named and not _is_known(named):
            raise ValueError(
                f"source: {path} wants {named!r} called, which is no imported network, optimizer or schedule, and "
                "a file must not decide what is executed; import its module first, or say SourceCheckpoint(..., "
                "trust=True) if you know where the file comes from"
            )
    if isinstance(recorded, Mapping | list | tuple):
        for item in recorded.values() if isinstance(recorded, Mapping) else recorded:
            _require_known(path, item)


def _is_known(class_path: str) -> bool:
    """Whether a path leads to an imported class of ours, of a network, an optimizer or a schedule; imports nothing."""
    if class_path.startswith("lightning_unlearn."):
        return True
    module, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    if isinstance(found, types.FunctionType):  # such as torchvision.models.resnet18
        found = typing.get_type_hints(found).get("return")
    return isinstance(found, type) and issubclass(
        found, nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler
    )


def _import_class(class_path: str) -> type[L.LightningModule]:
    try:
        found = pkgutil.resolve_name(class_path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"source: module={class_path!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, L.LightningModule)):
        raise ValueError(f"source: module={class_path!r} is not a LightningModule class")
    return found
