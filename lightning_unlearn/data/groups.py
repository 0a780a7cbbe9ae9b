"""Whether non-members tell anything of a request for whole groups, such as all that is of one person."""

import numpy as np
import numpy.typing as npt

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


def share_known(retained: npt.NDArray[np.generic], unseen: npt.NDArray[np.generic]) -> float:
    """Return the share of unseen samples whose group training goes on with.

    A value that one sample alone has is the sample's own, and no group.

    Args:
        retained: Group of each retained sample, ``(N,)``.
        unseen: Group of each sample that was never trained on, ``(M,)``.

    Example:
        >>> share_known(np.array(["ann", "ann", "bob", "bob", "eve"]), np.array(["ann", "dan", "eve", "bob"]))
        0.5
    """
    groups, sizes = np.unique(retained, return_counts=True)
    return float(np.isin(unseen, groups[sizes > 1]).mean()) if len(unseen) else 0.0
