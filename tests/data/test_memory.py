"""Large arrays in files are read in loader processes and never held in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.toys import quiet_trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import to_tensor

from lightning_unlearn.callbacks import MembershipInference
from lightning_unlearn.data import Classes, UnlearningDataModule
from lightning_unlearn.data.loading import DatasetLoader
from lightning_unlearn.methods import FineTune

MIB, ROWS, WIDTH = 2**20, 1024, 131_072  # 128 MiB of bytes


def own_mib() -> float:
    """Return the memory that is this process's own, without pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


class Rows(Dataset[Any]):
    def __init__(self, data: Any, first: int) -> None:
        self.data, self.targets = data, (np.arange(len(data)) + first) % 3
        self.grown, self.before = torch.zeros(1).share_memory_(), 0.0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: int) -> Any:
        self.before = self.before or own_mib()
        self.grown[0] = max(float(self.grown[0]), own_mib() - self.before)
        row = self.data[place].reshape(16, -1).mean(axis=1)
        return torch.from_numpy(row).float(), int(self.targets[place])


class Project(L.LightningDataModule):
    def __init__(self, data: Any) -> None:
        super().__init__()
        self.rows, self.tests = Rows(data, 0), Rows(data[:100], 1)

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=64, num_workers=2)

    def test_dataloader(self) -> Any:
        return DataLoader(self.tests, batch_size=64)


def growth(file: Path, hold: Callable[..., Any]) -> float:
    """Return by how much this process and its loader processes grow when the data are unlearned and audited."""
    before = own_mib()
    project = Project(hold(np.memmap(file, np.uint8, "r", shape=(ROWS, WIDTH))))
    trainer = quiet_trainer(max_epochs=1, callbacks=[MembershipInference()])
    trainer.fit(FineTune(nn.Linear(16, 3)), UnlearningDataModule(project, 0.3))
    return own_mib() - before + float(project.rows.grown)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux's /proc")
def test_a_memory_mapped_array_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.bin"
    with file.open("wb") as opened:
        opened.truncate(ROWS * WIDTH)
    size = ROWS * WIDTH / MIB
    assert growth(file, np.asarray) < 0.75 * size, "held in memory"
    assert growth(file, np.array) > 0.9 * size, "what is held is seen to be"


class Folder(L.LightningDataModule):
    """Images in folders, one a class; it counts how many are opened, here and in loader processes."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root, self.opened = root, torch.zeros(1).share_memory_()

    def images(self, part: str) -> ImageFolder:
        return ImageFolder(str(self.root / part), to_tensor, loader=self.read)

    def read(self, path: str) -> Any:
        self.opened += 1
        return np.full((4, 4, 3), int(Path(path).stem) % 256, np.uint8)

    def train_dataloader(self) -> Any:
        return DataLoader(
            self.images("train"),
            64,
            shuffle=True,
            num_workers=2,
            prefetch_factor=5,
            multiprocessing_context="fork",
        )

    def test_dataloader(self) -> Any:
        return DataLoader(self.images("test"), 64)


@pytest.mark.parametrize("rule", [0.2, Classes(1)], ids=["share", "class"])
def test_of_a_folder_of_images_setup_opens_a_few(rule: Any, tmp_path: Path) -> None:
    for part, size in (("train", 800), ("test", 100)):
        for place in range(size):
            file = tmp_path / part / str(place % 2) / f"{place}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    project = Folder(tmp_path)
    data = UnlearningDataModule(project, rule)
    data.setup("fit")
    assert 0 < float(project.opened) <= 200  # and as many of any number
    loader = data.loader("retain", train=True)
    assert isinstance(loader, DatasetLoader)
    kept = loader.workers
    assert (kept["num_workers"], kept["prefetch_factor"]) == (2, 5)
    assert kept["multiprocessing_context"].get_start_method() == "fork"
