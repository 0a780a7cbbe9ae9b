"""The base of the attacks that set the forget set against samples never trained on."""

from dataclasses import replace

from lightning_unlearn.callbacks.base.evaluator import Evaluator
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.functional.membership import LOW_FPRS, guessed_tpr
from lightning_unlearn.metrics.declared import DeclaredMetric


class AgainstNonmembers(Evaluator):
    """Base of the evaluators that need non-members, and whose scores guessing reaches with as many as there are."""

    _nonmembers = 0

    def require(self, data: UnlearningDataModule) -> None:
        """Refuse data without non-members."""
        self._nonmembers = data.stream_size("nonmember")
        if not self._nonmembers:
            raise ValueError(
                f"{type(self).__name__} needs samples that were never trained on, and the split has no non-member set; "
                "give the project a test set, or set nonmember and nonmember_from='train'"
            )

    def declared(self) -> dict[str, DeclaredMetric]:
        """Return :attr:`metrics`; once the data is known, what guessing gives at low false positive rates too."""
        declared = super().declared()
        for name, metric in declared.items() if self._nonmembers else ():
            allowed = LOW_FPRS.get(name.rpartition("/")[2])
            if allowed is not None:
                rate = 100 * guessed_tpr(self._nonmembers, allowed)
                told = f"{metric.explanation} With the {self._nonmembers} at hand that is {rate:.2g} %."
                declared[name] = replace(metric, explanation=told)
        return declared
