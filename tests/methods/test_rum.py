"""RUM: how the forget set is divided, what each part is unlearned on, and what that forgets."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers.support import earlier_checkpoint
from helpers.toys import quiet_trainer, toy_data, toy_source, train_set
from helpers.wrong_labels import Project, answered, known_by_heart
from torch import nn

from lightning_unlearn.data import Digits, UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods import RUM, SSD, FineTune, NegGradPlus, Rewind, UnlearningModule

SETTINGS = {"RUM": {"quick": {"epochs": 1}}}


class Noting(FineTune):
    """Notes which data it is given, and which model."""

    noted: ClassVar[list[tuple[Any, nn.Module, int]]] = []

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        self.noted.append((data.split, self.source, self.trainer.max_epochs or 0))


@pytest.mark.filterwarnings("ignore:SSD")
def test_parts_go_from_low_to_high_loss_and_the_others_are_in_no_stream() -> None:
    data, source = toy_data(0.2), toy_source()
    Noting.noted.clear()
    ours = RUM(source, [Noting, SSD, Noting], epochs=[1, 1, 2])
    quiet_trainer(max_epochs=0).fit(ours, data)
    forget = data.split.forget
    inputs, targets = train_set().batch(torch.as_tensor(forget))
    with torch.no_grad():
        losses = nn.functional.cross_entropy(source.eval()(inputs), targets, reduction="none")
    parts = np.array_split(forget[np.argsort(losses.numpy(), kind="stable")], 3)
    for (split, _, epochs), part, expected in zip(Noting.noted, parts[::2], (1, 2), strict=True):
        np.testing.assert_array_equal(split.forget, np.sort(part))
        np.testing.assert_array_equal(split.previous, np.setdiff1d(forget, part))
        np.testing.assert_array_equal(split.retain, data.split.retain)
        assert epochs == expected
    first, last = (model for _, model, _ in Noting.noted)
    assert first is ours.source
    assert not torch.equal(last.net[0].weight, first.net[0].weight)  # it goes on where the one before ended
    assert not len(data.split.previous)


def test_what_cannot_be_is_refused() -> None:
    for methods in ([], [FineTune]):
        with pytest.raises(ValueError, match=rf"one for each of the {len(methods)} methods, got \[1, 2\]"):
            RUM(toy_source(), methods, epochs=[1, 2])
    with pytest.raises(ValueError, match=r"epochs must be at least 1, got 0; one-shot methods have none"):
        RUM(toy_source(), epochs=[1, 0])
    with pytest.raises(ValueError, match=r"RUM has 2 methods for 1 forgotten samples; give it fewer"):
        quiet_trainer(max_epochs=0).fit(RUM(toy_source()), toy_data([3]))

    def rewind(source: nn.Module) -> UnlearningModule:
        return Rewind(source, checkpoint=str(earlier_checkpoint(source)))

    Noting.noted.clear()
    with pytest.raises(ValueError, match=r"RUM: Rewind goes back to before .*; let it have the first part"):
        quiet_trainer(max_epochs=0).fit(RUM(toy_source(), [Noting, rewind]), toy_data())
    assert not Noting.noted  # before anything is trained
    quiet_trainer(max_epochs=0).fit(RUM(toy_source(), [rewind, FineTune], epochs=1), toy_data())


class Reversed(RUM):
    def parts(self, data: UnlearningDataModule, runtime: Runtime) -> list[np.ndarray[Any, Any]]:
        return super().parts(data, runtime)[::-1]


@pytest.mark.slow
def test_wrong_labels_among_others_are_forgotten_by_the_method_for_what_is_memorised(tmp_path: Path) -> None:
    source, known, inputs, labels = known_by_heart()
    wrong, others = known.split.forget, known.split.retain[::18]
    data = UnlearningDataModule(
        known.inner, [*wrong.tolist(), *others.tolist()], test_dataset=Digits().load()[1], batch_size=64
    )

    def exported(method: UnlearningModule, epochs: int = 0) -> tuple[float, float]:
        quiet_trainer(max_epochs=epochs, limit_val_batches=0).fit(method, data)
        model = Project.load_from_checkpoint(method.export(tmp_path / "m.ckpt"), strict=True)
        test = [torch.cat(part) for part in zip(*data.loader("test"), strict=True)]
        return answered(model, inputs, labels), answered(source, *test) - answered(model, *test)

    ours = RUM(source, [FineTune, NegGradPlus], epochs=1)
    gives, loses = exported(ours)
    assert gives <= 0.05
    assert loses <= 0.03
    assert np.isin(ours.parts(data, Runtime(ours.trainer))[1], wrong).mean() > 0.8
    # the terms off: one method for all, of as many passes, and the parts in the other order
    assert exported(FineTune(source), 2)[0] > 0.3
    assert exported(Reversed(source, [FineTune, NegGradPlus], epochs=1))[0] > 0.12
