"""Fixtures that every test file shares, and a guard that no test leaves anything behind."""

import logging
import os
import sys

# Before PyTorch is imported: the tests' networks are too small for more, and shared cores stall with more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import pytest
import torch
from filelock import FileLock
from lightning.fabric.utilities import registry
from lightning.pytorch.utilities import model_helpers

REPO = Path(__file__).resolve().parent.parent

# Had torch.compile run before the first backward pass, autograd could never be used after a fork: its fake mode
# registers a device, and with a device autograd starts threads.
torch.ones((), requires_grad=True).backward()  # type: ignore[no-untyped-call]


def _frames() -> list[SimpleNamespace]:
    frame, found = sys._getframe(1), []
    while frame is not None:
        found.append(SimpleNamespace(filename=frame.f_code.co_filename))
        frame = frame.f_back  # type: ignore[assignment]
    return found


# A fifth of the tests' time would go into looking up what does not change: which packages extend Lightning, at every
# Trainer; the files of the stack, at every load_from_checkpoint, with their lines; the stack's lines at every seed; and
# a driver of graphics cards where there is none.
registry.entry_points = cache(registry.entry_points)
model_helpers.inspect = SimpleNamespace(stack=_frames)  # type: ignore[attr-defined]
if not torch.cuda.is_available():
    torch.cuda.traceback = SimpleNamespace(format_stack=list)  # type: ignore[attr-defined]
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

collect_ignore = ["foreign_projects", "own_project"]  # programs that tests run; pytest need not import them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests, and leave out what is more of the same, unless EXHAUSTIVE=1: it would take too long."""
    # first, and so one after another in one process, or others would wait for the only cluster
    items.sort(key=lambda item: "one_cluster" not in getattr(item, "fixturenames", ()))
    skipped = pytest.mark.skip(reason="more of the same; EXHAUSTIVE=1 runs it")
    for item in items:
        marker = item.get_closest_marker("exhaustive")
        if marker is None or os.environ.get("EXHAUSTIVE"):
            continue
        # by name: the same ones, whatever is added
        one_of = marker.kwargs.get("one_of")
        if one_of is None or crc32(item.name.encode()) % one_of:
            item.add_marker(skipped)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real MNIST, CIFAR-10 and Location-30 files; the test is skipped where there is none."""
    folder = Path(os.environ.get("LIGHTNING_UNLEARN_DATA", REPO.parent / "shared" / "data"))
    if not (folder / "MNIST" / "raw").is_dir():
        pytest.skip(f"real data sets not found in {folder}; set LIGHTNING_UNLEARN_DATA to their folder")
    return folder


@pytest.fixture
def one_cluster() -> Iterator[None]:
    """Keep clusters of Ray apart, of which two on one machine refuse each other."""
    with FileLock(Path(tempfile.gettempdir()) / "lightning_unlearn_tests_ray.lock"):
        yield


@pytest.fixture(autouse=True)
def _figures_where_they_matter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw them for the tests of reports and those marked: it takes longer than all the rest of a small comparison."""
    if request.path.parent.name != "reports" and request.node.get_closest_marker("figures") is None:
        monkeypatch.setattr("lightning_unlearn.reports.writer.draw_figures", lambda *_: [])


@pytest.fixture(autouse=True)
def _left_as_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that leaves files in the working folder, variables in the environment, or a process group."""
    folder = os.getcwd()
    files = set(os.listdir(folder))
    os.environ.pop(
        "PL_GLOBAL_SEED", None
    )  # a file's shared training may have left it, and seeds default to it
    environment = dict(os.environ)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        # https://github.com/pytorch/pytorch/pull/160843: Lightning still asks in the old way
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        yield
    assert not torch.distributed.is_initialized(), "a process group was left behind"
    new_files = set(os.listdir(folder)) - files - {".pytest_cache", ".hypothesis", "__pycache__"}
    assert not new_files, f"files were left in the working folder: {sorted(new_files)}"
    allowed = {
        "PYTEST_CURRENT_TEST",
        "MASTER_ADDR",
        "MASTER_PORT",
        "PL_GLOBAL_SEED",
        "PL_SEED_WORKERS",
        "KMP_INIT_AT_FORK",
        "KMP_DUPLICATE_LIB_OK",
        "GDAL_CURL_CA_BUNDLE",  # rasterio's, and so torchgeo's
        "PROJ_CURL_CA_BUNDLE",
    }
    leaked = {key for key in os.environ if environment.get(key) != os.environ[key]} - allowed
    for key in set(os.environ) - set(environment):
        os.environ.pop(key)
    assert not leaked, f"environment variables were left changed: {sorted(leaked)}"
