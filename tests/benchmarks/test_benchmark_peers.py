"""Point 8: plain fine-tuning on the retain set, against the loops that peers have for it.

PyPI's torchunlearn 0.1.0 has no fine-tuning of its own; taken is its Trainer, with the cross-entropy as its cost and
the loader of its README: torchvision's transforms on single PIL images.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from benchmarks.material import mnist_like, seeded_lenet
from benchmarks.measuring import Table, Turns
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.methods import CFk

SAMPLES, FORGOTTEN, BATCH = 6_600, 600, 128

sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=5e-4)


class PILDigits(Dataset[Any]):
    """The retained digits as torchvision's MNIST serves them."""

    def __init__(self, data: UnlearningDataModule) -> None:
        chosen = torch.as_tensor(data.split.retain)
        self.images = data.inner.inputs[chosen, 0].numpy()  # type: ignore[union-attr]
        self.targets = data.inner.targets[chosen].tolist()  # type: ignore[union-attr]
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), self.targets[index]


def bare(loader: DataLoader[Any]) -> Callable[[], None]:
    model = seeded_lenet()
    optimizer = sgd(model.parameters())

    def epoch() -> None:
        for inputs, targets in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()

    return epoch


def peer(loader: DataLoader[Any]) -> Callable[[], None]:
    torchunlearn = pytest.importorskip("torchunlearn", exc_type=ImportError)
    from torchunlearn.unlearn.trainer import Trainer

    class FineTune(Trainer):  # type: ignore[misc]
        def calculate_cost(self, batch: Any) -> torch.Tensor:
            inputs, targets = batch
            cost = F.cross_entropy(self.rmodel(inputs), targets)
            self.add_record_item("CALoss", cost.item())
            return cost

        def record_during_eval(self) -> None:
            """Measure nothing between epochs, as the others do."""

    trainer = FineTune(torchunlearn.RobModel(seeded_lenet(), n_classes=10))
    trainer.setup(optimizer="SGD(lr=0.01, momentum=0.9, weight_decay=5e-4)")
    return lambda: trainer.fit(loader, n_epochs=1, save_type=None)


def ours(data: UnlearningDataModule) -> Callable[[], None]:
    source = seeded_lenet()
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")

    def epoch() -> None:
        every = len(list(source.parameters()))  # the last k tensors of k are all: plain fine-tuning
        trainer = L.Trainer(accelerator="cpu", max_epochs=1, limit_val_batches=0, **dict.fromkeys(off, False))
        trainer.fit(CFk(source, k=every, optimizer=sgd), data)

    return epoch


@pytest.mark.parametrize(("name", "loop"), [("a bare loop", bare), ("torchunlearn's Trainer", peer)])
def test_fine_tuning(name: str, loop: Any, interleave: Callable[..., Turns], table: Table) -> None:
    data = UnlearningDataModule(mnist_like(SAMPLES), list(range(FORGOTTEN)), batch_size=BATCH)
    data.setup("fit")
    other = loop(DataLoader(PILDigits(data), BATCH, shuffle=True))
    turns = interleave({"ours": ours(data), "theirs": other})
    assert table.at_least(
        8,
        f"fine-tuning LeNet-5 on {SAMPLES - FORGOTTEN:,} samples, {name} over PIL images ÷ fit, CPU time",
        turns.ratio("theirs", "ours"),
        1,
        f"{turns.median('theirs'):.3g} / {turns.median('ours'):.3g} s an epoch; {turns.spread('theirs', 'ours')}",
    )
