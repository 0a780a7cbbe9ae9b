"""Fixtures that every test file shares."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real MNIST, CIFAR-10 and Location-30 files; the test is skipped where there is none."""
    folder = Path(os.environ.get("LIGHTNING_UNLEARN_DATA", REPO.parent / "shared" / "data"))
    if not (folder / "MNIST" / "raw").is_dir():
        pytest.skip(f"real data sets not found in {folder}; set LIGHTNING_UNLEARN_DATA to their folder")
    return folder
