"""Pure functions: divergences, losses, selections, rates, intervals."""

from lightning_unlearn.functional import (
    certified,
    divergence,
    gan,
    gradients,
    head,
    lira,
    membership,
    populations,
    rmia,
    sensitivity,
    solving,
    statistics,
    tasks,
    unlearning,
)
from lightning_unlearn.functional.certified import *
from lightning_unlearn.functional.divergence import *
from lightning_unlearn.functional.gan import *
from lightning_unlearn.functional.gradients import *
from lightning_unlearn.functional.head import *
from lightning_unlearn.functional.lira import *
from lightning_unlearn.functional.membership import *
from lightning_unlearn.functional.populations import *
from lightning_unlearn.functional.rmia import *
from lightning_unlearn.functional.sensitivity import *
from lightning_unlearn.functional.solving import *
from lightning_unlearn.functional.statistics import *
from lightning_unlearn.functional.tasks import *
from lightning_unlearn.functional.unlearning import *

__all__ = [
    *certified.__all__,
    *divergence.__all__,
    *gan.__all__,
    *gradients.__all__,
    *head.__all__,
    *lira.__all__,
    *membership.__all__,
    *populations.__all__,
    *rmia.__all__,
    *sensitivity.__all__,
    *solving.__all__,
    *statistics.__all__,
    *tasks.__all__,
    *unlearning.__all__,
]
