"""Reading ids from .csv, .json and .txt files and from sequences; knows no training set and chooses no sample."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["read_ids", "require_id_file", "shown", "typed_ids"]

_SUFFIXES = (".csv", ".json", ".txt")
_SHOWN = 5  # offending values that a message quotes
_COLUMNS_SHOWN = 8
_CELL_SHOWN = 40  # characters of it
# as many digits as int64 has; int() alone would read 1_0 and ٣ too
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_SEPARATOR_LINE = re.compile(r"sep=(.)", re.IGNORECASE)
_POSITION_HEADERS = ("id", "ids", "index", "position", "positions")


def shown(values: npt.NDArray[Any], limit: int = _SHOWN) -> str:
    """Quote values in a message: the first of them, and how many there are.

    Example:
        >>> shown(np.arange(7))
        '0, 1, 2, 3, 4, … (7 in all)'
    """
    text = ", ".join(repr(value) for value in values[:limit].tolist())
    return f"{text}, … ({len(values)} in all)" if len(values) > limit else text


def require_id_file(path: str | Path) -> None:
    """Raise unless a path is that of an existing file of a kind that :func:`read_ids` reads.

    Raises:
        ValueError: If its suffix is another.
        FileNotFoundError: If there is no such file.
    """
    if Path(path).suffix.lower() not in _SUFFIXES:
        raise ValueError(
            f"ids must be a list of ids or the path of a {', '.join(_SUFFIXES)} file, got {path!r}"
        )
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"ids: no such file {Path(path).resolve()}; give the path of an existing file of ids"
        )


def read_ids(path: str | Path, column: str | None, *, integers: bool) -> npt.NDArray[Any]:
    r"""Read the ids of a file, in its order and with its repetitions.

    Args:
        path: A .csv file of one id a row (see :class:`~lightning_unlearn.data.selection.Ids`), a .json file of one
            list, or a .txt file of one id a line, in UTF-8.
        column: Header of the column of a .csv file; ``None`` for one headed id, index or position.
        integers: Whether the ids are integers, which anything else is then refused for, or strings.

    Returns:
        ``int64`` or strings, shape ``(M,)``.

    Raises:
        ValueError: If the file cannot be read as ids.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "moved.csv"
        ...     _ = file.write_text("why,user\nmoved,ann\nleft,eve\n")
        ...     read_ids(file, "user", integers=False).tolist()
        ['ann', 'eve']
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".json":
            return _read_json(path, integers=integers)
        layout = _Layout()
        if path.suffix.lower() == ".csv":
            layout = _csv_layout(path, column, integers=integers)
        return _read_column(path, layout, integers=integers)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"ids file {path} is not text in UTF-8 ({error.reason} at byte {error.start}); save it anew in that "
            'encoding, which spreadsheets call "CSV UTF-8"'
        ) from error


def typed_ids(values: Any, *, integers: bool, origin: str) -> npt.NDArray[Any]:
    """Turn a sequence, an array or a tensor into ids.

    Args:
        values: The ids.
        integers: Whether they are integers, which anything else is then refused for, or strings.
        origin: What to call them in a message.

    Returns:
        ``int64`` or strings, shape ``(M,)``.

    Raises:
        ValueError: If they are not one flat list, are a mask, or are not integers where these are asked for.
    """
    ids = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if ids.dtype != np.bool_ and not isinstance(values, Tensor | np.ndarray):
        wrong = [value for value in values if isinstance(value, bool | np.bool_)]
        if wrong:  # NumPy would read them as 0 and 1
            raise ValueError(
                f"{origin} holds {len(wrong)} values that are true or false, which name no sample"
            )
    if ids.ndim != 1:
        raise ValueError(f"{origin} must be one flat list of ids, got an array of shape {ids.shape}")
    if ids.size == 0:
        return np.empty(0, dtype=np.int64 if integers else np.str_)
    if ids.dtype == np.bool_:
        raise ValueError(
            f"{origin} is a boolean mask; give positions instead, for instance np.flatnonzero(mask)"
        )
    if not integers:
        return ids.astype(np.str_)
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"{origin} must be integers, got {ids.dtype} such as {shown(ids)}; where they are values of an "
            "attribute of the data, name it in `column`"
        )
    return ids.astype(np.int64)


def _read_json(path: Path, *, integers: bool) -> npt.NDArray[Any]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"ids file {path} is not valid JSON: {error}; it must be one list of ids") from error
    if not isinstance(values, list):
        raise ValueError(f"ids file {path} must hold one list of ids, got a JSON {type(values).__name__}")
    return typed_ids(values, integers=integers, origin=f"ids file {path}")


@dataclass(frozen=True)
class _Layout:
    """Where the ids of a text file stand; no delimiter and no column for a plain list, one id a line."""

    index: int = 0
    width: int = 1
    header_rows: int = 0
    delimiter: str | None = None


def _csv_layout(path: Path, column: str | None, *, integers: bool) -> _Layout:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first_line = file.readline()
        # what spreadsheets write to say which mark separates the cells
        said = _SEPARATOR_LINE.fullmatch(first_line.strip())
        above, first_line = (1, file.readline()) if said else (0, first_line)
    wanted = [column] if column is not None else list(_POSITION_HEADERS)
    marks = [said[1]] if said else [mark for mark in ",;\t" if mark in first_line] or [","]
    layouts: list[_Layout] = []
    cells: list[str] = []
    for mark in reversed(marks):
        cells = [cell.strip() for cell in next(csv.reader([first_line], delimiter=mark), [])]
        found = [place for place, cell in enumerate(cells) if (cell if column else cell.lower()) in wanted]
        if len(found) == 1:
            layouts.append(_Layout(found[0], len(cells), above + 1, mark))
    if len(layouts) == 1:
        return layouts[0]
    if len(cells) > 1:
        raise ValueError(
            f"ids file {path} has {len(cells)} columns, {cells[:_COLUMNS_SHOWN]}, and it is not clear which holds the "
            f"ids; head one of them {' or '.join(map(repr, wanted))}, or keep only the column of ids; where they are "
            "values of an attribute of the data, name it: Ids(..., column=...)"
        )
    first = "".join(cells)
    if not integers or not first or _is_integer(first):
        return _Layout(0, 1, above, marks[0])
    raise ValueError(
        f"ids file {path} begins with {first[:_CELL_SHOWN]!r}, which is neither an integer nor a header "
        f"{' or '.join(map(repr, wanted))}. Where the ids are values of an attribute of the data, name it: "
        f"Ids(..., column={first[:_CELL_SHOWN]!r}); where they are positions, head them 'position'"
    )


def _is_integer(text: str) -> bool:
    return _INTEGER.fullmatch(text) is not None


def _read_column(path: Path, layout: _Layout, *, integers: bool) -> npt.NDArray[Any]:
    """Read the ids of a text file.

    Not by :func:`numpy.loadtxt`: with odd files it has crashed the process (a fuzz test under NumPy 2.4.6).
    """
    advice = "Write one id per line; where ids are values of an attribute of the data, name it in `column`"
    try:
        cells = _cells(path, layout)
    except csv.Error as error:
        raise ValueError(f"ids file {path} could not be read as CSV: {error}. {advice}") from error
    if not integers:
        return np.asarray(cells, dtype=np.str_)
    wrong = next((cell for cell in cells if not _is_integer(cell)), None)
    if wrong is not None and layout.delimiter is None and len(wrong.split()) > 1:
        raise ValueError(f"ids file {path} has {len(wrong.split())} values in a line; write one id per line")
    try:
        if wrong is not None:
            raise OverflowError(f"{wrong[:_CELL_SHOWN]!r} is none")
        return np.asarray([int(cell) for cell in cells], dtype=np.int64)
    except OverflowError as error:
        raise ValueError(f"ids file {path} could not be read as integer ids: {error}. {advice}") from error


def _cells(path: Path, layout: _Layout) -> list[str]:
    """Read the column of a text file, blank lines left out."""
    if layout.delimiter is None:
        with path.open(encoding="utf-8-sig") as file:
            return [cell for line in file if (cell := line.strip())]
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=layout.delimiter, strict=True)
        cells: list[str] = []
        for row in islice(rows, layout.header_rows, None):
            if len(row) == layout.width and (cell := row[layout.index].strip()):
                cells.append(cell)
            elif any(other.strip() for other in row):
                if len(row) != layout.width:
                    raise csv.Error(
                        f"line {rows.line_num} has {len(row)} cells, the first line {layout.width}"
                    )
                cells.append("")
        return cells
