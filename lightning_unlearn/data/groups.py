"""Whether non-members tell anything of a request for whole groups, such as all that is of one person."""

from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_unlearn.data.ids import blank, whole
from lightning_unlearn.data.selection import ForgetRule, Groups, Ids


def group_column(rule: ForgetRule) -> str | None:
    """Return the column whose values a rule forgets whole; ``None`` of a rule that names samples.

    Example:
        >>> group_column(Ids(["ann"], column="user")), group_column(Groups("user", 0.1)), group_column(Ids([3]))
        ('user', 'user', None)
    """
    if isinstance(rule, Groups):
        return rule.attribute
    return rule.column if isinstance(rule, Ids) else None


def as_keys(*columns: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Return columns whose equal values compare as equal, whatever a file or a table made of them; gaps are left out.

    Example:
        >>> [column.tolist() for column in as_keys(np.array([1003.0, np.nan, 7.0]), np.array(["1003", None]))]
        [['1003', '7'], ['1003']]
    """
    keys = [whole(column[~blank(column)]) for column in columns]
    if all(np.issubdtype(column.dtype, np.integer) for column in keys):
        return keys
    return [column.astype(np.str_) for column in keys]


def share_known(retained: npt.NDArray[Any], unseen: npt.NDArray[Any]) -> float:
    """Return the share of unseen samples whose group training goes on with.

    A value that one sample alone has is the sample's own, and no group; a sample without a value is of none.

    Args:
        retained: Group of each retained sample, ``(N,)``.
        unseen: Group of each sample that was never trained on, ``(M,)``.

    Example:
        >>> share_known(np.array(["ann", "ann", "bob", "bob", "eve"]), np.array(["ann", "dan", "eve", "bob"]))
        0.5
        >>> share_known(np.array([7.0, 7.0, np.nan, np.nan]), np.array([7.0, np.nan]))
        0.5
    """
    known, asked = as_keys(retained, unseen)
    groups, sizes = np.unique(known, return_counts=True)
    return float(np.isin(asked, groups[sizes > 1]).sum() / len(unseen)) if len(unseen) else 0.0
