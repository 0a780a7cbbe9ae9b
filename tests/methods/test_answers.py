"""What a model answered in a step: logits or posteriors, and how many of each stream are right."""

import pytest
import torch

from lightning_unlearn.data import Adapter
from lightning_unlearn.data.loading import Indexed
from lightning_unlearn.methods.base.curves import batch_accuracies
from lightning_unlearn.methods.base.trial import require_logits


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_posteriors_are_refused_in_any_precision(dtype: torch.dtype) -> None:
    posteriors = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).softmax(-1).to(dtype)
    with pytest.raises(ValueError, match="forward of Net gives probabilities"):
        require_logits(posteriors, torch.zeros(64, dtype=torch.int64), "Net")
    require_logits(posteriors.log(), torch.zeros(64, dtype=torch.int64), "Net")


@pytest.mark.parametrize("targets", [[0, 3], [-1, 0]])
def test_targets_outside_the_classes_are_refused(targets: list[int]) -> None:
    with pytest.raises(
        ValueError, match=f"3 classes, but the data has targets from {min(targets)} to {max(targets)}"
    ):
        require_logits(torch.randn(2, 3), torch.tensor(targets), "Net")


def test_each_streams_answers_are_told_by_their_targets() -> None:
    inputs = torch.zeros(4, 2)
    forget, retain = torch.tensor([0, 1, 0, 1]), torch.tensor([1, 1, 1, 0])
    batch = {"forget": Indexed((inputs, forget), torch.arange(4)), "retain": (inputs, retain)}
    all_one = torch.tensor([[0.0, 1.0]]).expand(4, 2)
    answered = [(all_one, retain), (all_one, forget), (all_one, forget.clone())]
    found = batch_accuracies(answered, batch, Adapter())
    assert {name: float(value) for name, value in found.items()} == {"retain": 0.75, "forget": 0.5}
