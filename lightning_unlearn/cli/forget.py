"""``lightning-unlearn forget``: from a deletion request to an unlearned model, its record and an answer."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import lightning as L
from jsonargparse import ArgumentParser
from torch import nn

from lightning_unlearn.cli.parsing import OneLine
from lightning_unlearn.comparison.request import forget
from lightning_unlearn.core.compat import INSTANTIATOR
from lightning_unlearn.core.terminal import say
from lightning_unlearn.data.ids import ID_FILES
from lightning_unlearn.methods import SourceCheckpoint, UnlearningModule
from lightning_unlearn.methods.base.source import read_checkpoint

STATUS = {"shown": 0, "not shown": 3, "cannot tell": 4}
"""Exit status by outcome."""


class _Parser(OneLine, ArgumentParser):  # type: ignore[misc]  # each returns text
    """jsonargparse's parser, with our help and errors."""

    example = "lightning-unlearn forget best.ckpt deletion_request.csv --data my_project.MyDataModule"


def run(args: list[str]) -> int:
    """Parse the arguments, forget, say where everything is and what the answer is; the status is in :data:`STATUS`."""
    parser = _Parser(
        prog="lightning-unlearn forget",
        description="Make a model forget what a request names, and answer by measurement whether it did. Status: 0 "
        "shown, 3 not shown, 4 cannot tell, 2 if the input does not fit.",
    )
    add = parser.add_argument
    add("source", type=str, help="checkpoint of the trained model")
    add(
        "ids",
        type=str,
        help="a .csv, .json or .txt file with positions or, with --column, values; one such number; class:3; or 0.1",
    )
    add(
        "--data",
        type=L.LightningDataModule,
        required=True,
        help="your datamodule; --data.NAME gives its arguments",
    ).sub_add_kwargs = {"fail_untyped": False}  # as everywhere else
    add("--model", type=str, help="class of the model; left out, the only one in the datamodule's file")
    add(
        "--method",
        type=Literal["auto"] | Callable[[nn.Module], UnlearningModule],
        default="auto",
        help="a method, such as SSD; --method.NAME gives its arguments; auto chooses by the request",
    )
    add(
        "--retrained",
        type=str,
        help="checkpoint of a model that was trained without these samples, to compare with",
    )
    add(
        "--budget",
        type=str,
        help="share of the training's cost within which to try several recipes, such as 10%",
    )
    derived = parser.add_function_arguments(
        forget, skip={"source", "data", "ids", "method", "retrained", "budget"}
    )
    config = parser.parse_args(args)
    built = parser.instantiate(config)
    module = config.model or _only_model(Path(config.source), built.data)

    def checkpoint(path: str) -> SourceCheckpoint:
        return SourceCheckpoint(path, module)

    result = forget(
        checkpoint(config.source),
        built.data,
        _asked(config.ids, config.column),
        retrained=config.retrained and checkpoint(config.retrained),
        method=built.method,
        budget=config.budget,
        **{name: built[name] for name in derived},
    )
    say(f"Model:       {result.file}\nCertificate: {result.certificate}\nLedger:      {result.ledger}")
    say(result.told(command=True))
    return STATUS[result.outcome]


def _asked(ids: str, column: str | None) -> str | float | list[int]:
    """Return a share as a number, a whole number as the value of a column that it must be, and others as they are.

    Raises:
        ValueError: If a whole number stands without a column.

    Example:
        >>> _asked("0.1", None), _asked("class:3", None), _asked("7", "customer"), _asked("07", "customer")
        (0.1, 'class:3', [7], '07')
    """
    if column is not None:
        return [int(ids)] if re.fullmatch(r"0|-?[1-9][0-9]*", ids) else ids
    if number := re.fullmatch(r"([+-]?[0-9]+)(\.0*)?", ids):
        raise ValueError(
            f"ids: {ids} could mean a class or a sample; write class:{number[1]} to forget a class, and to forget a "
            f"sample give the path of a {', '.join(ID_FILES)} file that holds its position"
        )
    try:
        return float(ids)
    except ValueError:
        return ids


def _only_model(path: Path, data: L.LightningDataModule) -> str | None:
    """Return the only model class in the file of a datamodule; ``None`` where the checkpoint records its own.

    Nothing in the checkpoint decides what is imported: the datamodule's file was named on the command line, and is by
    now. What it names must load all of the weights.
    """
    content = read_checkpoint(path, mapped=True, objects=True)
    if INSTANTIATOR in content.get("hyper_parameters", {}):
        return None
    name = type(data).__module__
    found = [
        f"{name}.{kind.__qualname__}"
        for kind in vars(sys.modules[name]).values()
        if isinstance(kind, type) and issubclass(kind, L.LightningModule) and kind.__module__ == name
    ]
    if len(found) != 1:
        listed = f"{name} has {', '.join(found) or 'none'}"
        raise ValueError(
            f"--model: {path} does not say which class it belongs to; give --model CLASS ({listed})"
        )
    return found[0]
