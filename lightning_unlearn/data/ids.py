"""Read ids from .csv, .json and .txt files and from sequences."""

from __future__ import annotations

import csv
import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_unlearn.data.tensors import as_array

ID_FILES = (".csv", ".json", ".txt")
_SHOWN = 5  # offending values that a message quotes
_COLUMNS_SHOWN = 8
_CELL_SHOWN = 40  # characters of it
# as many digits as int64 has; int() alone would read 1_0 and ٣ too
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_WHOLE = re.compile(r"([+-]?[0-9]{1,19})(\.0*)?")  # as a table with a gap in this column is written
_SEPARATOR_LINE = re.compile(r"sep=(.)", re.IGNORECASE)
_ADVICE = "Write one id per line; where ids are values of an attribute of the data, name it in `column`"
_NAME_IT = "where they are values of an attribute of the data, name it in `column` (forget --column NAME)"
_POSITION_HEADERS = ("id", "ids", "index", "position", "positions")


def _what_else(column: str | None) -> str:
    """Say what is to be done about ids that are no integers."""
    return _ADVICE if column is None else f"The values of {column!r} in the training data are integers"


def _number(column: str | None) -> re.Pattern[str]:
    """Return what an integer looks like: a position, or a value of a column."""
    return _INTEGER if column is None else _WHOLE


def shown(values: npt.NDArray[Any], limit: int = _SHOWN) -> str:
    """Quote values in a message: the first of them, and how many there are.

    Example:
        >>> shown(np.arange(7))
        '0, 1, 2, 3, 4, … (7 in all)'
    """
    text = ", ".join(repr(value) for value in values[:limit].tolist())
    return f"{text}, … ({len(values)} in all)" if len(values) > limit else text


def blank(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which values of a column are none: empty texts, ``None``, NaN and what tables have for it.

    Example:
        >>> blank(np.array(["ann", " ", None, float("nan"), 0], dtype=object)).tolist()
        [False, True, True, True, False]
    """
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    if values.dtype.kind in "biu":
        return np.zeros(len(values), dtype=np.bool_)
    return np.fromiter(map(_is_blank, values.tolist()), dtype=np.bool_, count=len(values))


def _is_blank(value: Any) -> bool:
    if isinstance(value, str | bytes):
        return not value.strip()
    return value is None or str(value) in ("nan", "NaT", "<NA>")  # pandas' own compares with nothing


def whole(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return floats as integers where all but gaps are whole, as a table holds integers; a gap is 0, see :func:`blank`.

    Example:
        >>> whole(np.array([1003.0, np.nan])).tolist(), whole(np.array([4.5, 7.0])).tolist()
        ([1003, 0], [4.5, 7.0])
    """
    if values.dtype.kind != "f":
        return values
    filled = np.where(np.isnan(values), 0, values)
    return filled.astype(np.int64) if bool((filled % 1 == 0).all()) else values


def require_id_file(path: str | Path) -> None:
    """Raise unless a path is that of an existing file of a kind that :func:`read_ids` reads.

    Raises:
        ValueError: If its suffix is another.
        FileNotFoundError: If there is no such file.
    """
    if Path(path).suffix.lower() not in ID_FILES:
        raise ValueError(f"ids must be a list or the path of a {', '.join(ID_FILES)} file, got {path!r}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"ids: no such file {Path(path).resolve()}; give that of an existing file")


def read_ids(path: str | Path, column: str | None, *, integers: bool) -> npt.NDArray[Any]:
    r"""Read the ids of a file, in its order and with its repetitions.

    Args:
        path: A .csv file of one id a row (see :class:`~lightning_unlearn.data.selection.Ids`), a .json file of one
            list of ids or of records, or a .txt file of one id a line, in UTF-8.
        column: Header of the column of a .csv file, or key of a record; ``None`` for one headed id, index or position.
            A whole number of a column may be written 7.0, and its header in other case.
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
            return _read_json(path, column, integers=integers)
        if path.suffix.lower() == ".csv":
            return _typed_cells(path, _csv_cells(path, column, integers=integers), column, integers=integers)
        with path.open(encoding="utf-8-sig") as file:
            cells = [cell for line in file if (cell := line.strip())]
        if integers and (crowded := next((cell for cell in cells if len(cell.split()) > 1), None)):
            raise ValueError(f"ids file {path} has {len(crowded.split())} values in a line; write one a line")
        return _typed_cells(path, cells, column, integers=integers)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"ids file {path} is not text in UTF-8 ({error.reason} at byte {error.start}); save it anew in that "
            'encoding, which spreadsheets call "CSV UTF-8"'
        ) from error
    except csv.Error as error:
        raise ValueError(f"ids file {path} could not be read as CSV: {error}. {_ADVICE}") from error


def typed_ids(values: Any, column: str | None, *, integers: bool, origin: str) -> npt.NDArray[Any]:
    """Turn a sequence, an array or a tensor into ids.

    Args:
        values: The ids.
        column: Attribute of the data whose values they are; ``None`` for positions.
        integers: Whether they are integers, which anything else is then refused for, or strings.
        origin: What to call them in a message.

    Returns:
        ``int64`` or strings, shape ``(M,)``.

    Raises:
        ValueError: If they are not one flat list, are a mask, one is empty, or they are not integers where these are
            asked for.
    """
    if values is None:
        raise ValueError(f"{origin} must be a list or the path of a file, got None; give Ids its ids")
    ids = as_array(values)
    if ids.ndim == 0:
        raise ValueError(
            f"{origin} must be a list, got {values!r:.{_CELL_SHOWN}}; put one id into brackets, [ID]"
        )
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
        raise ValueError(f"{origin} is a boolean mask; give positions, for instance np.flatnonzero(mask)")
    _require_filled(values, ids, origin)
    if not integers:
        return ids.astype(np.str_)
    if column is not None and ids.dtype.kind == "f" and bool((ids % 1 == 0).all()):
        return ids.astype(np.int64)
    if not np.issubdtype(ids.dtype, np.integer):
        found = f"got {ids.dtype} such as {shown(ids)}"
        raise ValueError(f"{origin} must be integers, {found}. {_what_else(column)}")
    return ids.astype(np.int64)


def _require_filled(values: Any, ids: npt.NDArray[Any], origin: str) -> None:
    """Refuse an id that is empty: it would name all samples that have none."""
    if ids.dtype.kind in "iu":
        return
    # NumPy makes a text of a NaN among texts
    given = ids if isinstance(values, Tensor | np.ndarray) else np.asarray(values, dtype=object)
    if len(empty := np.flatnonzero(blank(given))):
        raise ValueError(
            f"{origin}: {len(empty)} of {len(ids)} ids are empty, the first is number {empty[0] + 1}; fill in or "
            "remove them, since an empty id names nobody"
        )


def _read_json(path: Path, column: str | None, *, integers: bool) -> npt.NDArray[Any]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"ids file {path} is not valid JSON: {error}; it must be one list of ids") from error
    if not isinstance(values, list):
        raise ValueError(f"ids file {path} must hold one list of ids, got a JSON {type(values).__name__}")
    if values and all(isinstance(value, dict) for value in values):
        keys = sorted({key for value in values for key in value})
        if len(places := _places(keys, column)) != 1 or not all(keys[places[0]] in value for value in values):
            named = " or ".join(map(repr, _wanted(column)))
            raise ValueError(
                f"ids file {path} holds records with the keys {keys[:_COLUMNS_SHOWN]}, and each must have one {named}; "
                "name the key that holds the ids in `column` (forget --column NAME)"
            )
        values = [value[keys[places[0]]] for value in values]
    return typed_ids(values, column, integers=integers, origin=f"ids file {path}")


def _wanted(column: str | None) -> tuple[str, ...]:
    """Return how a column of ids may be headed."""
    return _POSITION_HEADERS if column is None else (column,)


def _places(heads: list[str], column: str | None) -> list[int]:
    """Return the places of the headers that name the ids; one in other case only where none is exactly so."""
    exact = [place for place, head in enumerate(heads) if head == column]
    return exact or [
        place for place, head in enumerate(heads) if head.lower() in map(str.lower, _wanted(column))
    ]


def _csv_cells(path: Path, column: str | None, *, integers: bool) -> list[str]:
    """Read the column of ids, blank lines left out.

    Not by :func:`numpy.loadtxt`: with odd files it has crashed the process (a fuzz test under NumPy 2.4.6).
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        # what spreadsheets write to say which mark separates the cells
        if said := _SEPARATOR_LINE.fullmatch(first.strip()):
            first = file.readline()
        marks = [said[1]] if said else [mark for mark in ",;\t" if mark in first] or [","]
        mark, place, width, headed = _csv_layout(path, first, marks, column, integers=integers)
        above = int(said is not None) + headed
        rows = csv.reader(file if headed else chain([first], file), delimiter=mark, strict=True)
        cells: list[str] = []
        for row in rows:
            if len(row) == width:
                if cell := row[place].strip():
                    cells.append(cell)
                elif any(other.strip() for other in row):
                    raise ValueError(
                        f"ids file {path}: line {rows.line_num + above} has no id; fill in the id or remove the line, "
                        "since an empty id names nobody"
                    )
            elif any(other.strip() for other in row):
                line = rows.line_num + above
                raise csv.Error(f"line {line} has {len(row)} cells, the first line {width}")
        return cells


def _csv_layout(
    path: Path, first: str, marks: list[str], column: str | None, *, integers: bool
) -> tuple[str, int, int, bool]:
    """Return the mark between cells, place of the ids, number of columns, and whether the first line heads them."""
    heads = {mark: [cell.strip() for cell in next(csv.reader([first], delimiter=mark), [])] for mark in marks}
    found = [(mark, place) for mark, cells in heads.items() for place in _places(cells, column)]
    if len(found) == 1:
        mark, place = found[0]
        return mark, place, len(heads[mark]), True
    cells, named = heads[marks[0]], " or ".join(map(repr, _wanted(column)))
    if len(cells) > 1:
        layout = f"{len(cells)} columns, {cells[:_COLUMNS_SHOWN]}, and it is not clear which holds the ids"
        advice = f"; {_NAME_IT}" if column is None else ""
        raise ValueError(f"ids file {path} has {layout}; head one of them {named}, or keep only it{advice}")
    head = "".join(cells)
    if not integers or not head or _number(column).fullmatch(head):
        return marks[0], 0, 1, False
    head = repr(head[:_CELL_SHOWN])
    advice = f"W{_NAME_IT[1:]}" if column is None else _what_else(column)
    raise ValueError(
        f"ids file {path} begins with {head}, which is neither an integer nor a header {named}. {advice}"
    )


def _typed_cells(path: Path, cells: list[str], column: str | None, *, integers: bool) -> npt.NDArray[Any]:
    if not integers:
        return np.asarray(cells, dtype=np.str_)
    try:
        wrong = next((cell for cell in cells if not _number(column).fullmatch(cell)), None)
        if wrong is not None:
            raise OverflowError(f"{wrong[:_CELL_SHOWN]!r} is none")
        return np.asarray([int(cell.partition(".")[0]) for cell in cells], dtype=np.int64)
    except OverflowError as error:
        raise ValueError(
            f"ids file {path} could not be read as integer ids: {error}. {_what_else(column)}"
        ) from error
