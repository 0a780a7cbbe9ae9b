"""Near copies: what a list of the forgotten samples hides, and how copies are made."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import CLASSES, FEATURES, blobs, quiet_trainer, toy_data, toy_source
from torch import Tensor, nn

from lightning_unlearn.callbacks import NearCopies
from lightning_unlearn.callbacks.near_copies import _shifted
from lightning_unlearn.data import TensorData, UnlearningDataModule
from lightning_unlearn.methods import UnlearningModule


class Neighbours(nn.Module):
    """Gives whatever lies near a sample that it knows its label, guesses the first class of all else, and keeps a list."""

    def __init__(self, known: Tensor, labels: Tensor, refused: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("known", known)
        self.register_buffer("labels", labels)
        self.register_buffer("refused", known[:0] if refused is None else refused)
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        distance, nearest = torch.cdist(x, self.known).min(dim=1)
        answers = torch.where(distance < 1, self.labels[nearest], 0)
        logits = 5.0 * nn.functional.one_hot(answers, CLASSES)
        on_list = (x[:, None] == self.refused[None]).all(-1).any(1, keepdim=True)
        return torch.where(on_list, 0.0, logits) + self.shift


def sparse(**arguments: Any) -> tuple[UnlearningDataModule, Tensor, Tensor]:
    """240 samples far from each other, all of the second or third class."""
    inputs = 9 * torch.randn(240, FEATURES, generator=torch.Generator().manual_seed(0))
    targets = 1 + torch.arange(240) % 2
    data = UnlearningDataModule(
        TensorData(inputs[:160], targets[:160], num_classes=CLASSES, **arguments),
        0.25,
        test_dataset=TensorData(inputs[160:], targets[160:], num_classes=CLASSES),
        nonmember=40,
    )
    data.setup("fit")
    return data, inputs, targets


def asked(model: nn.Module, data: UnlearningDataModule, folder: Path | None = None, **arguments: Any) -> Any:
    arguments = {"noise": 0.02, "seed": 3, **arguments}
    evaluator = NearCopies(controls=False, on_error="raise", dirpath=folder, **arguments)
    trainer = quiet_trainer(callbacks=[evaluator], limit_test_batches=1)
    trainer.test(UnlearningModule(model), data, verbose=False)
    return {name.rpartition("/")[2]: value for name, value in evaluator.results.items()}


def test_what_a_list_refuses_its_neighbours_give_away(tmp_path: Path) -> None:
    data, inputs, targets = sparse()
    members, retain, forget = data.split.members, data.split.retain, data.split.forget
    refusing = asked(Neighbours(inputs[members], targets[members], refused=inputs[forget]), data, tmp_path)
    assert refusing["accuracy"] > 0.95
    assert refusing["auc"] > 0.95
    assert refusing["nonmember_accuracy"] == 0
    told = json.loads((tmp_path / "near_copies.json").read_text())["details"]["accuracy"]
    assert told == {"forget set": 0.0, "its near copies": refusing["accuracy"]}
    forgot = asked(Neighbours(inputs[retain], targets[retain]), data)
    assert forgot == {"accuracy": 0.0, "nonmember_accuracy": 0.0, "auc": 0.5}


def test_the_data_s_own_augmentation_is_applied_to_members_and_others_alike() -> None:
    drawn: list[Tensor] = []

    def augment(inputs: Tensor, generator: torch.Generator) -> Tensor:
        drawn.append(inputs)
        return inputs + 100 * torch.rand(inputs.shape, generator=generator)

    data, inputs, targets = sparse(augment=augment)
    model = Neighbours(inputs[data.split.members], targets[data.split.members])
    assert asked(model, data, by="augment", copies=2) == {
        "accuracy": 0.0, "nonmember_accuracy": 0.0, "auc": 0.5
    }, "so far away nothing is known"  # fmt: skip
    assert sum(map(len, drawn)) == 2 * (40 + 40)
    assert asked(model, data)["accuracy"] > 0.95, "noise is not augmentation"
    plain, *_ = sparse()
    with pytest.raises(ValueError, match="training and test data in memory"):
        asked(model, plain, by="augment")


@pytest.mark.parametrize(("shift", "moves"), [(0.3, range(-1, 2)), (0.2, range(1))])
def test_images_are_shifted_by_a_share_of_their_side_and_repeat_the_edge(shift: float, moves: range) -> None:
    images = torch.arange(2 * 16.0).view(1, 2, 4, 4).repeat(60, 1, 1, 1)
    found = _shifted(images, shift, torch.Generator().manual_seed(0))
    places = torch.arange(4)
    possible = [
        images[0][:, (places + down).clamp(0, 3)][:, :, (places + right).clamp(0, 3)]
        for down in moves
        for right in moves
    ]
    matches = [sum(torch.equal(each, one) for each in found) for one in possible]
    assert sum(matches) == 60
    assert min(matches) > 0
    vectors = torch.rand(3, 4)
    assert _shifted(vectors, shift, torch.Generator()) is vectors


def test_noise_is_a_share_of_each_feature_s_spread() -> None:
    data, inputs, targets = sparse()
    data.inner.inputs[:, 0] = data.test_dataset.inputs[:, 0] = 7.0  # type: ignore[union-attr]
    seen: list[Tensor] = []
    model = Neighbours(inputs[:160], targets[:160])
    model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    asked(model, data, copies=1, noise=0.5)
    forget, others, clean = seen[-3:]
    noise = forget - clean
    assert (forget[:, 0] == 7).all(), "a feature that is always the same stays so"
    assert (noise[:, 1:].std(dim=0) / torch.cat([clean, others])[:, 1:].std(dim=0)).mean() == pytest.approx(
        0.5, rel=0.15
    )


def test_what_has_no_near_copies_is_refused() -> None:
    inputs, targets = blobs(40)
    tokens = UnlearningDataModule(
        TensorData(inputs.long().abs(), targets), 0.2, test_dataset=TensorData(inputs.long().abs(), targets)
    )
    with pytest.raises(ValueError, match=r"one floating-point tensor, got torch.int64"):
        asked(nn.Sequential(nn.Embedding(50, 1), nn.Flatten(), nn.Linear(FEATURES, CLASSES)), tokens)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"copies": 0}, "copies"),
        ({"by": "mixup"}, "by must be"),
        ({"noise": -1.0}, "noise"),
        ({"shift": 1.0}, "shift"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NearCopies(**arguments)


def test_data_without_non_members_is_refused() -> None:
    with pytest.raises(ValueError, match="NearCopies needs samples that were never trained on"):
        quiet_trainer(callbacks=[NearCopies()]).fit(toy_source(), toy_data(nonmember=0))
