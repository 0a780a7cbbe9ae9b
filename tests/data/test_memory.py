"""Large arrays in files are read in loader processes and never held in memory."""

import subprocess
import sys
from pathlib import Path

import pytest

MIB, ROWS, WIDTH = 2**20, 4096, 32_768  # 128 MiB of bytes

PROGRAM = """
import sys, time
import numpy as np, torch
from torch import nn
from torch.utils.data import Dataset
from helpers.toys import quiet_trainer
from lightning_unlearn.callbacks import MembershipInference
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.methods import FineTune

def own():
    return sum(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024

class Rows(Dataset):
    def __init__(self, data, first):
        self.data, self.grown, self.first = data, torch.zeros(1).share_memory_(), None
        self.targets = (np.arange(len(data)) + first) % 3
    def __len__(self):
        return len(self.data)
    def __getitem__(self, place):
        self.first = self.first or own()
        if place % 32 == 0:
            self.grown[0] = max(float(self.grown[0]), own() - self.first)
        return torch.from_numpy(self.data[place] + np.uint8(0)).float(), int(self.targets[place])

class Project(__import__("lightning").LightningDataModule):
    def __init__(self, data):
        super().__init__()
        self.rows, self.tests = Rows(data, 0), Rows(data[:600], 1)
    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.rows, batch_size=64, num_workers=2)
    def test_dataloader(self):
        return torch.utils.data.DataLoader(self.tests, batch_size=64)

path, shape = sys.argv[1], (int(sys.argv[2]), int(sys.argv[3]))
for hold in (np.asarray, np.array):
    before = own()
    project = Project(hold(np.memmap(path, np.uint8, "r", shape=shape)))
    model = nn.Sequential(nn.AdaptiveAvgPool1d(16), nn.Linear(16, 3))
    trainer = quiet_trainer(max_epochs=1, callbacks=[MembershipInference()])
    data = UnlearningDataModule(project, 0.3)
    trainer.fit(FineTune(model), data)
    print(own() - before, float(project.rows.grown))
"""


@pytest.mark.slow
def test_a_memory_mapped_array_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.bin"
    with file.open("wb") as opened:
        opened.truncate(ROWS * WIDTH)
    program = [sys.executable, "-c", PROGRAM, str(file), str(ROWS), str(WIDTH)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mapped, held = [tuple(map(float, line.split())) for line in done.stdout.splitlines()[-2:]]
    size = ROWS * WIDTH / MIB
    assert mapped[0] + mapped[1] < 0.75 * size, "held in memory"
    assert held[0] > 0.9 * size, "what is held is seen to be"
