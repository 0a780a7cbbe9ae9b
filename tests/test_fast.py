"""The switch that trains faster: what it chooses where, and that no result changes beyond rounding."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn

from lightning_unlearn import FineTune, MethodRun, SourceRun, UnlearningDataModule, compare
from lightning_unlearn.comparison.fast import ChannelsLast, faster, why
from lightning_unlearn.comparison.trainers import built
from lightning_unlearn.data import TensorData
from lightning_unlearn.models import Classifier, ResNet18


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16-mixed"), (False, None)])
def test_cuda_gets_bf16_where_it_has_it_and_channels_last(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, precision: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    stopping = EarlyStopping("loss")
    chosen = built(faster({"max_epochs": 1}, {"callbacks": stopping}))
    assert [type(each) for each in chosen["callbacks"]] == [EarlyStopping, ChannelsLast]
    assert chosen.get("precision") == precision
    assert ("bf16-mixed" in why({})) == bf16
    for given in ({"precision": "32-true"}, {"plugins": []}):
        assert faster({}, given).get("precision") is None, "what was given stays"
    assert "precision as it is" in why({"precision": "32-true"})
    assert "precision" not in faster({"accelerator": "cpu"})


def test_an_accelerator_that_nobody_measured_gets_nothing() -> None:
    assert faster({"accelerator": "tpu"}) == {"accelerator": "tpu"}
    assert "nothing" in why({"accelerator": "tpu"})


class Layouts(FineTune):
    """Notes how its convolution lies while it trains."""

    seen: ClassVar[list[bool]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        weight = self.model.get_parameter("net.0.weight")
        self.seen.append(weight.is_contiguous(memory_format=torch.channels_last))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("width", "laid_out"), [(8, False), (16, True)])
def test_on_a_cpu_no_network_is_laid_out_whose_gradients_would_be_wrong(width: int, laid_out: bool) -> None:
    """In torch 2.14 training such a network corrupts the process's memory, and may end it."""
    network = Classifier(ResNet18(width=width))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with (
        pytest.warns(UserWarning, match="gradients of net.layer2.0.downsample.0, a conv")
        if not laid_out
        else nullcontext()
    ):
        ChannelsLast().setup(trainer, network, "fit")
    weight = network.net.get_parameter("layer2.0.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) == laid_out


def test_a_comparison_is_the_same_but_for_rounding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, targets = (
        torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.arange(60) % 3,
    )
    train, test = TensorData(images[:40], targets[:40]), TensorData(images[40:], targets[40:])

    def network() -> Classifier:
        return Classifier(
            nn.Sequential(
                nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)
            )
        )

    found = {}
    for fast in (False, True):
        Layouts.seen.clear()
        found[fast] = compare(
            SourceRun(network, {"max_epochs": 2}),
            lambda: UnlearningDataModule(train, 0.2, test_dataset=test, batch_size=8),
            [MethodRun(Layouts, "tuned", {"max_epochs": 2})],
            seeds=1,
            retrain_2=False,
            short_retrainings=[],
            trainer={"accelerator": "cpu"},
            output_dir=tmp_path / str(fast),
            page=False,
            fast=fast,
        )
        assert set(Layouts.seen) == {fast}
        assert ("fast: channels_last for convolutions" in capsys.readouterr().err) == fast
    for ours in (tmp_path / "True").rglob("*.ckpt"):
        theirs = tmp_path / "False" / ours.relative_to(tmp_path / "True")
        states = [torch.load(file, weights_only=True)["state_dict"] for file in (ours, theirs)]
        assert all(value.is_contiguous() for value in states[0].values())
        torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)
    scores = [
        {name: values["accuracy/test"]["values"] for name, values in each.report["models"].items()}
        for each in found.values()
    ]
    assert scores[0] == scores[1]
