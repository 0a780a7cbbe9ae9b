"""Whether a datamodule has the arguments that a source's checkpoint says the datamodule of its training had."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_unlearn.core.compat import CLASS_PATH
from lightning_unlearn.models.hparams import plain_values

# How samples are loaded: by names such as these nobody is in the training set who would not be otherwise.
_LOADING = re.compile(
    r"batch_?size|(^|_)bs$|(^|_)batch$|workers?$|n_jobs|num_proc|pin_memory|persistent|prefetch|drop_last|timeout|multiprocessing|"
    r"download|device|verbose|progress|cache"
)
# Where samples lie, which may have moved, and how they are shown to the model.
_PLACE = re.compile(r"(root|dir|directory|folder|path|paths|file|files|filename|url|uri)$")
_SHOWN = re.compile(
    r"augment|transform|normali[sz]|tokenizer|image_?size|img_?size|resize|crop|(^|_)(mean|std)$|^shuffle(_train)?$|"
    r"max_(seq_)?len(gth)?$|sample_rate|padding|truncation|debug|^lr$|learning_rate"
)
_SHORT = 60  # characters of a value in a message


def require_same_arguments(recorded: Mapping[str, Any], module: L.LightningDataModule | None) -> None:
    """Refuse a datamodule with other arguments than the source was trained with, where they may choose other samples.

    Compared are the hyper-parameters that both have. Of a place, which may have moved, of how samples are shown, and of
    another class a warning is given; of how they are loaded nothing is said, nor of what the class lists in
    ``same_samples_whatever``.

    Args:
        recorded: What the source's checkpoint holds under ``datamodule_hyper_parameters``.
        module: The project's datamodule, set up.

    Raises:
        ValueError: If another argument differs.
    """
    if module is None or not recorded:
        return
    kind = type(module).__name__
    given = dict(_flat(module.hparams))
    harmless = getattr(module, "same_samples_whatever", ())
    other: dict[str, Any] = {}
    told: list[str] = []
    for name, then in _flat(recorded):
        last = name.rpartition(".")[2].lower()
        if name not in given or _same(then, given[name]) or name in harmless or _LOADING.search(last):
            continue
        if not _SHOWN.search(last) and not _is_place(last, then, given[name]):
            other[name] = then
        elif not _moved(then, given[name]):
            told.append(f"{name}={_short(given[name])} and not {_short(then)}")
    if other:
        now, then = (
            ", ".join(f"{name}={_short(values[name])}" for name in other) for values in (given, other)
        )
        plain = all("." not in name for name in other)
        options = " ".join(f"--data.{name} {shlex.quote(str(value))}" for name, value in other.items())
        fix = f", {kind}({then}) (to the command forget: {options})" if plain else f": {then}"
        raise ValueError(
            f"datamodule: {kind} has {now}, and the source's checkpoint says that it was trained with {then}, so that "
            "positions may mean other samples than those it was trained on; give the datamodule as in "
            f"training{fix}. If that changes nothing about who is in the training "
            f"set, and in which order, say so in the class: same_samples_whatever = {tuple(other)}"
        )
    trained_with = str(recorded.get(CLASS_PATH, "")).rpartition(".")[2]
    if trained_with and trained_with not in {each.__name__ for each in type(module).__mro__}:
        told.append(f"the class {kind} and not {trained_with}")
    if told:
        rank_zero_warn(
            f"datamodule: the source's checkpoint says that it was trained with other arguments: {kind} has "
            f"{'; '.join(told)}. If these are other samples, or in another order, give the datamodule as in training"
        )


def _flat(arguments: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield plain values under their dotted names, without what Lightning notes beside them."""
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif not str(name).startswith("_"):
            for plain in plain_values({"": value}).values():
                yield f"{prefix}{name}", plain


def _same(a: Any, b: Any) -> bool:
    # which a file of settings does not tell apart
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b) or str(a) == str(b)


def _is_place(name: str, *values: Any) -> bool:
    """Whether all values are texts, of which one reads as a place, or the argument does."""
    texts = [value for value in values if isinstance(value, str)]
    rest = [value for value in values if value is not None and not isinstance(value, str | list | tuple)]
    return not rest and bool(
        _PLACE.search(name) or any(re.match(r"[/~\\]|\.\.?[/\\]|\w:\\|\w+://", text) for text in texts)
    )


def _moved(then: Any, now: Any) -> bool:
    """Whether two places are folders or files of one name."""
    both = isinstance(then, str) and isinstance(now, str)
    return both and Path(then.replace("\\", "/")).name == Path(now.replace("\\", "/")).name


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."
