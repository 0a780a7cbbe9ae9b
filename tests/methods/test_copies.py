"""How many times a model's own size a method holds, beside its source."""

from pathlib import Path

import lightning as L
import pytest
import torch
from benchmarks import size
from helpers.copies import HeldBytes
from helpers.toys import quiet_trainer

# While the method is made, and in its fit: the model with its gradients, or with the copy of the source that is tried,
# are 2, and activations and the like 0.3.
BOUNDS = {
    "FineTune": (1, 2.4),
    "DELETE": (1, 2.3),  # the teacher is copied when it is asked
    "ShrinkPerturb": (2, 2.4),  # a fresh model is drawn before the source is copied
    "TaskNegation": (1, 3.3),
    "ReferenceKL": (1, 3.3),  # the reference model has gradients only while it is trained
    "Rewind": (2, 4.0),  # the first time its checkpoint is left in the file
    "Influence": (1, 13.5),  # vectors of 64 bits
}


@pytest.mark.parametrize("name", BOUNDS)
def test_no_more_copies_than_needed(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = size.network(200)
    once = sum(parameter.nbytes for parameter in source.parameters())
    make, data = size.methods(tmp_path, source)[name], size.small(160)
    with HeldBytes() as counted:
        method = make(source)
        made, counted.most = counted.most / once, 0
        trainer: L.Trainer = quiet_trainer(max_epochs=0 if method.one_shot else 1, limit_val_batches=0)
        trainer.fit(method, data)
    assert made <= BOUNDS[name][0] + 0.2
    assert counted.most / once <= BOUNDS[name][1]
