"""Where the source model comes from: a module at hand or a checkpoint file; knows no method."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.models.freezing import mark_recorded
from lightning_unlearn.models.hparams import restore_hyperparameters, unkept_arguments
from lightning_unlearn.models.surgery import uncompiled

__all__ = ["Source", "SourceCheckpoint", "load_source"]


@dataclass(frozen=True)
class SourceCheckpoint:
    """A checkpoint of the source model and the class that loads it.

    The fields are not called class_path and init_args because jsonargparse takes those names for its own.

    Args:
        path: File written by ``Trainer.save_checkpoint``, ``ModelCheckpoint`` or a method's ``export``.
        module: Import path of the LightningModule, such as ``my_project.MyModule``; ``None`` if the
            checkpoint was written under LightningCLI, which records it. A recorded class is used only if it is
            imported already, since a file must not decide what is executed.
        arguments: Arguments of the class that the checkpoint does not hold.
    """

    path: str
    module: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

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
        if self.module is None and "_instantiator" not in recorded:
            raise ValueError(
                f"source: {path} does not say which class it belongs to (only checkpoints written under "
                "LightningCLI do); give module='my_project.MyModule', or pass the loaded module itself"
            )
        try:
            loaded = self._built(module_class, content)
        except (RuntimeError, TypeError, KeyError, ValueError) as error:
            lost = unkept_arguments(module_class, {**recorded, **dict.fromkeys(self.arguments)})
            given = ", ".join(f"{name!r}: ..." for name in lost)
            hint = (
                f"; it holds no {', '.join(lost)}: give arguments={{{given}}}" if lost and self.module else ""
            )
            raise ValueError(
                f"source: {path} does not load into {self.module or 'the class it records'}: {error}{hint}"
            ) from error
        restore_hyperparameters(loaded, content)
        mark_recorded(loaded, content)
        data = content.get(UnlearningDataModule.__qualname__, {})
        # where its training set was split here, the data compares it with that to be unlearned
        loaded.training_fingerprint = data.get("training_fingerprint", "")
        return loaded

    def _built(self, kind: type[L.LightningModule], content: dict[str, Any]) -> L.LightningModule:
        """Build the model from what was read of the file, so that objects in it are not read again."""

        def build(state: Mapping[str, Any]) -> L.LightningModule:
            file = io.BytesIO()
            torch.save({"pytorch-lightning_version": L.__version__, **content, "state_dict": state}, file)
            file.seek(0)
            return kind.load_from_checkpoint(
                file, map_location="cpu", weights_only=True, **dict(self.arguments)
            )

        state = content["state_dict"]
        try:
            return build(state)
        except RuntimeError:
            if not any("_orig_mod." in name for name in state):
                raise
            # compiled in setup(), which loading does not call
            return build({name.replace("_orig_mod.", ""): value for name, value in state.items()})


Source = nn.Module | SourceCheckpoint | str | Path


def load_source(source: Source) -> nn.Module:
    """Return the source model, loaded if it is a file.

    Args:
        source: A module (returned as it is), a :class:`SourceCheckpoint`, or the path of a checkpoint written
            under LightningCLI.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(source, nn.Module):
        return uncompiled(source)
    if isinstance(source, str | Path):
        source = SourceCheckpoint(str(source))
    if not isinstance(source, SourceCheckpoint):
        raise TypeError(
            f"source must be a module, a checkpoint path or a SourceCheckpoint, got {type(source).__name__}"
        )
    return source.load()


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
        ValueError: If the file is truncated, is no checkpoint, or holds more than tensors and plain values.
    """
    unknown: list[str] = []
    try:
        if not mapped:
            _require_sound(path)
        if zipfile.is_zipfile(path):
            unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        stand_ins: list[Any] = [(_Inert, name) for name in unknown] if objects else []
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path)
            )
    except (
        Exception
    ) as error:  # torch raises UnpicklingError, RuntimeError, EOFError, ... as the damage falls
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = "write it again with Trainer.save_checkpoint"
        # torch goes on to advise to execute it all the same
        if first_line.startswith("Weights only load failed"):
            first_line = "it holds objects that would have to be executed"
            advice = "give SourceCheckpoint(path, module='my_project.MyModule', arguments={'net': ...}), or the loaded module"
        found = f": {', '.join(sorted(unknown)[:5])}" if unknown else ""
        raise ValueError(
            f"{path} cannot be read as a checkpoint of tensors and plain values: {first_line}{found} "
            f"(nothing in it was executed; {advice})"
        ) from error
    if isinstance(content, dict) and content and all(isinstance(v, torch.Tensor) for v in content.values()):
        content = {"state_dict": content}
    content = _without_objects(content) if unknown else content
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        raise ValueError(f"{path} holds no 'state_dict', so it is not a Lightning checkpoint")
    return content


def _without_objects(value: Any) -> Any:
    """Return nested values without the entries of dictionaries that hold objects; an object itself gives ``_Inert``."""
    if isinstance(value, Mapping):
        items = {key: _without_objects(item) for key, item in value.items()}
        return {k: v for k, v in items.items() if v is not _Inert and not _is_object(k)}
    if isinstance(value, list | tuple | set):
        return _Inert if any(_without_objects(item) is _Inert for item in value) else value
    return _Inert if _is_object(value) else value


def _is_object(value: Any) -> bool:
    return value is _Inert or isinstance(value, _Inert)


def _require_sound(path: str | Path) -> None:
    """Compare the checksums in the file, which torch writes and does not look at, with what is there."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {damaged} does not match its content")


def _import_class(class_path: str) -> type[L.LightningModule]:
    module_name, _, name = class_path.rpartition(".")
    try:
        found = getattr(__import__(module_name, fromlist=[name]), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"source: module={class_path!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, L.LightningModule)):
        raise ValueError(f"source: module={class_path!r} is not a LightningModule class")
    return found
