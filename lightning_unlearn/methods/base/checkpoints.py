"""Find the checkpoints of a source's own training, and tell them from those of another."""

import math
import weakref
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_unlearn.core.files import file_hash
from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.data.fingerprint import require_same
from lightning_unlearn.ensembles import Runtime, predict
from lightning_unlearn.methods.base.source import Source, SourceCheckpoint, read_checkpoint
from lightning_unlearn.models import clone
from lightning_unlearn.models.freezing import frozen_tensors, trainable
from lightning_unlearn.models.hparams import plain_values
from lightning_unlearn.models.statistics import other_buffers
from lightning_unlearn.models.surgery import listed, load_state, named_as_in

KEPT: weakref.WeakKeyDictionary[nn.Module, tuple[Path, float]] = weakref.WeakKeyDictionary()
"""Where the checkpoints are of a source that a comparison holds as a module, and after how many steps it was saved."""

# On Location-30 and CIFAR-10 (80,000 to 150,000 weights) the weights of a first epoch correlate by 0.6 with the last
# ones of the same training, and by less than 0.02 with those of another.
_LEAST_LIKENESS = 0.1


def kept_of(source: Source, checkpoint: str | Path) -> str:
    """Return the file or folder that an argument names, of what the source's own training kept where it says so.

    Args:
        source: The source.
        checkpoint: ``"auto"`` for the folder of the source's own checkpoints, the name of a file in it, or a path.

    Raises:
        ValueError: If that folder is asked for and not known.
    """
    path, folder = Path(checkpoint), _folder_of(source)
    if str(checkpoint) == "auto":
        if folder is None:
            raise ValueError(
                "checkpoint: 'auto' is the folder of the source's own checkpoint, and this source was given as a "
                "module; give source='run/last.ckpt' or a SourceCheckpoint, or name the folder. In a comparison give "
                "the source keep_every=1; of the sources that an evaluator trains anew (sources='many') nothing is kept"
            )
        return str(folder)
    if folder is not None and path.name == str(path) and not path.exists():
        path = folder / path
    return str(path)


def _folder_of(source: Source) -> Path | None:
    if isinstance(source, SourceCheckpoint):
        source = source.path
    if isinstance(source, str | Path):
        return Path(source).parent
    return KEPT[source][0] if source in KEPT else None


def steps_of(source: Source) -> float:
    """Return after how many steps a source's checkpoint was saved; infinity where that is not known."""
    path = source.path if isinstance(source, SourceCheckpoint) else source
    if not isinstance(path, str | Path):
        return KEPT.get(path, (None, math.inf))[1]
    return read_checkpoint(path, mapped=True, objects=True).get("global_step") or math.inf


def checkpoints_in(place: str, before: float, source: nn.Module) -> list[Path]:
    """Return a checkpoint file, or those of a folder by the steps that they were saved after, one for each.

    Args:
        place: The file or folder. Of a folder, exported models and what is not before are passed over.
        before: Steps after which the source was saved.
        source: The source model; of several files of a step the one of its training is taken.

    Raises:
        FileNotFoundError: If there is no such place.
        ValueError: If a file cannot be read without executing something, none is from before, or several of a step
            may be of the source's training.
    """
    path = Path(place)
    if not path.exists():
        raise FileNotFoundError(f"checkpoint: there is no file or folder {place}")
    steps: dict[int, list[Path]] = {}
    for file in [path] if path.is_file() else sorted(path.glob("*.ckpt")):
        if file.is_file():
            step = int(read_checkpoint(file, mapped=True, objects=True).get("global_step") or 0)
            steps.setdefault(step, []).append(file)
    if path.is_file():
        found = [path] if max(steps) <= before else []
        wanted = f"is of step {next(iter(steps))}, later than the source's {before:.0f}; give one from before"
    else:
        found = _own_of([steps[step] for step in sorted(steps) if 0 < step < before], source)
        wanted = (
            "holds no checkpoint of the source's training from before its end; keep some, with "
            "ModelCheckpoint(save_top_k=-1), or in a comparison with the source's keep_every"
        )
    if not found:
        raise ValueError(f"checkpoint: {place} {wanted}")
    return found


def _own_of(steps: list[list[Path]], source: nn.Module) -> list[Path]:
    """Return a file a step, that of the source's training where a folder holds another's too.

    Another training's weights do not resemble the source's, unless it began with the same; then its arguments tell.

    Raises:
        ValueError: If neither tells, and the weights differ.
    """
    like = [_resembling(files, source) for files in steps]
    arguments = plain_values(getattr(source, "hparams", {}))
    told = [[file for file in files if _agree(arguments, file)] for files in like]
    told = told if any(told) else like  # of a source whose arguments were changed since
    for files, own in zip(like, told, strict=True):
        if len(files) > 1 and len(own) != 1:
            first, second, *_ = files
            raise ValueError(
                f"checkpoint: {first.parent} holds {first.name} and {second.name}, both of one step and like the "
                f"source, and nothing tells which is of its training; name one of them, checkpoint={str(first)!r}, or "
                "move the other training's away"
            )
    if other := sum(not own for own in told):
        rank_zero_warn(
            f"checkpoint: of {steps[0][0].parent} {other} files are passed over, since they record other arguments "
            "than the source's; if they are of its own training, name one of them"
        )
    return [own[0] for own in told if own]


def _resembling(files: list[Path], source: nn.Module) -> list[Path]:
    """Return those of several files whose weights differ and may be of the source's training; one, where none may."""
    if len(files) == 1:
        return files
    states: dict[Path, dict[str, Any]] = {}
    for file in files:
        with suppress(ValueError):  # of another training
            state = earlier_state(file, source, "")
            if not any(_same(state, other) for other in states.values()):
                states[file] = state
    return list(states) or files[:1]


def _same(state: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(not isinstance(v, Tensor) or torch.equal(v.cpu(), other[n].cpu()) for n, v in state.items())


def _agree(arguments: dict[str, Any], file: Path) -> bool:
    """Whether a training had the source's constructor arguments, as far as both are known."""
    theirs = plain_values(read_checkpoint(file, mapped=True, objects=True).get("hyper_parameters", {}))
    return all(arguments[name] == theirs[name] for name in arguments.keys() & theirs)


def content_of(file: Path) -> str:
    """Return what tells a checkpoint's content from another's: the checksums in it, so that no weight is read."""
    if not zipfile.is_zipfile(file):
        return str(file_hash(file))
    with zipfile.ZipFile(file) as archive:
        return " ".join(f"{entry.CRC:x}" for entry in archive.infolist())


def earlier_state(path: Path, source: nn.Module, fingerprint: str) -> dict[str, Any]:
    """Read what training moves in a source, its trained parameters and running statistics, as a checkpoint has it.

    Args:
        path: The file.
        source: The source model.
        fingerprint: That of the training set.

    Returns:
        A whole ``state_dict`` under the source's names; what is frozen, and copies of the weights such as a moving
        average, are the source's.

    Raises:
        ValueError: If it is of another architecture, training set or training.
    """
    content = read_checkpoint(path, objects=True)
    recorded = content.get(UnlearningDataModule.__qualname__, {}).get("training_fingerprint", "")
    require_same(recorded, fingerprint, f"checkpoint: {path}")
    state = named_as_in(source, content["state_dict"])
    shapes, theirs = (
        {name: tuple(value.shape) for name, value in values.items() if isinstance(value, Tensor)}
        for values in (source.state_dict(), state)
    )
    if other := sorted(name for name in shapes.keys() | theirs if shapes.get(name) != theirs.get(name)):
        raise ValueError(
            f"checkpoint: {path} is of another model than the source, {type(source).__name__}: {listed(other)} are not "
            "in both, or have other shapes; give a checkpoint of the source's own training"
        )
    frozen = frozen_tensors(source).keys()
    still = [(name, p) for name, p in source.named_parameters(remove_duplicate=False) if not p.requires_grad]
    why = "" if likeness(source, state) >= _LEAST_LIKENESS else "its weights do not resemble the source's"
    if moved := [name for name, p in still if name in frozen and not torch.equal(p.cpu(), state[name])]:
        why = f"{listed(moved)}, frozen in the source, differ"
    if why:
        raise ValueError(
            f"checkpoint: {path} is of another training than the source ({why}); give a checkpoint of the source's own"
        )
    kept = frozen | dict(still).keys() | other_buffers(source).keys()
    return state | {name: value for name, value in source.state_dict().items() if name in kept}


def state_gone_back_to(
    place: str,
    files: Sequence[Path],
    source: nn.Module,
    data: UnlearningDataModule,
    runtime: Runtime,
    adapter: Adapter,
) -> dict[str, Any]:
    """Read the file that was named, or of a folder the one that :func:`_latest_that_knows_little` finds.

    Args:
        place: What was named.
        files: The checkpoints there, earliest first.
        source: The source model.
        data: The split data.
        runtime: Device, precision and ranks of the trainer.
        adapter: How batches and outputs are taken apart.

    Returns:
        What :func:`earlier_state` reads; a warning says where it is the source's own.
    """
    chosen = files[0]
    if not Path(place).is_file():
        chosen = _latest_that_knows_little(files, source, data, runtime, adapter)
    state = earlier_state(chosen, source, data.split.fingerprint)
    if all(torch.equal(p.detach().cpu(), state[name]) for name, p in trainable(source).items()):
        rank_zero_warn(f"checkpoint: {chosen} holds the source's own weights, so nothing is rewound")
    return state


def _latest_that_knows_little(
    files: Sequence[Path], source: nn.Module, data: UnlearningDataModule, runtime: Runtime, adapter: Adapter
) -> Path:
    """Return the latest checkpoint that remembers at most half as much as the source, or else the earliest.

    What it remembers is the gap between its accuracies on D_f and on non-members, or that on D_f alone where the two
    are not alike. The gap grows with training, so that halving finds it.

    Args:
        files: The checkpoints, earliest first; those of another training are passed over.
        source: The source model.
        data: The split data.
        runtime: Device, precision and ranks of the trainer.
        adapter: How batches and outputs are taken apart.

    Raises:
        ValueError: If the last one that is left is of another training.
    """
    model = runtime.place(clone(source))
    compared = (
        data.unlike_nonmembers == data.unlike_groups
    )  # whose answers are not the same, but near each other
    sizes = [data.stream_size(stream) for stream in ("forget", "nonmember")]

    def accuracies() -> list[float]:
        streams = ("forget", "nonmember") if compared else ("forget",)
        loaders = [data.loader(stream, indexed=True) for stream in streams]
        return [predict(model, loader, runtime, adapter).accuracy for loader in loaders]

    last, files, folder = accuracies(), list(files), files[0].parent
    enough, too_late = -1, len(files)
    while too_late - enough > 1:
        middle = (enough + too_late) // 2
        try:
            state = earlier_state(files[middle], source, data.split.fingerprint)
        except ValueError as error:
            if len(files) == 1:
                raise
            rank_zero_warn(f"checkpoint: passes over a file of {folder}: {error}")
            del files[middle]
            too_late -= 1
            continue
        load_state(model, state)
        found = accuracies()
        compared = compared and not _is_below(found, sizes)
        gaps = [abs(a[0] - a[1]) if compared else a[0] for a in (found, last)]
        if gaps[0] <= gaps[1] / 2:
            enough = middle
        else:
            too_late = middle
    if enough < 0:
        rank_zero_warn(
            f"no checkpoint of {folder} remembers at most half as much of the forget set as the source does; the "
            "earliest is taken. Name an earlier one, or keep more in the source's training"
        )
    rank_zero_info(f"checkpoint: goes by {files[max(enough, 0)]}")
    return files[max(enough, 0)]


def _is_below(accuracies: list[float], sizes: list[int]) -> bool:
    """Whether the forget set is answered worse than non-members by more than chance, as wrong labels are."""
    forget, nonmember = accuracies
    spread = sum(max(a * (1 - a), 0.01) / n for a, n in zip(accuracies, sizes, strict=True)) ** 0.5
    return bool(forget < nonmember - 3 * spread)


def likeness(source: nn.Module, state: dict[str, Any]) -> float:
    """Return the mean correlation of trained matrices (and larger) in a source and a ``state_dict``, by their sizes.

    Two trainings from other initial weights have about 0, up to one over the root of the number of weights.

    Example:
        >>> layer = nn.Linear(8, 8)
        >>> round(likeness(layer, layer.state_dict()), 3)
        1.0
    """
    correlated, size = 0.0, 0
    for name, weight in trainable(source).items():
        if weight.ndim > 1:
            ours, theirs = (
                values.flatten().float() - values.mean() for values in (weight.detach().cpu(), state[name])
            )
            norms = ours.norm() * theirs.norm()
            if norms > 0:
                correlated += weight.numel() * float(ours.dot(theirs) / norms)
                size += weight.numel()
    return correlated / size if size else 1.0
