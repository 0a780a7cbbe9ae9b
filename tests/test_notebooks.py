"""The notebooks: stored as a reader should find them, and executed from the first cell to the last."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SMALL = {"NOTEBOOK_EPOCHS": "2", "NOTEBOOK_SEEDS": "1", "NOTEBOOK_MODELS": "4"}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def test_there_are_six() -> None:
    assert [path.stem[0] for path in NOTEBOOKS] == list("123456")


def test_stored_without_outputs(notebook: Path) -> None:
    for cell in cells(notebook, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
    assert set(json.loads(notebook.read_text())["metadata"]) == {"kernelspec", "language_info"}


def test_ends_with_what_to_do_next(notebook: Path) -> None:
    last = json.loads(notebook.read_text())["cells"][-1]
    assert last["cell_type"] == "markdown"
    assert "## What to do next" in "".join(last["source"])


def test_names_files_that_exist(notebook: Path) -> None:
    text = "".join("".join(cell["source"]) for cell in cells(notebook, "markdown"))
    names = re.findall(r"\b(?:configs|lightning_unlearn)/[\w/.]+\.(?:yaml|py)", text)
    for name in names:
        assert (FOLDER.parent / name).is_file(), f"{notebook.name} names {name}, which is not there"


def test_every_setting_of_the_test_is_one_of_a_notebook() -> None:
    texts = "".join(path.read_text() for path in NOTEBOOKS)
    assert set(re.findall(r"NOTEBOOK_\w+", texts)) == set(SMALL)


@pytest.mark.slow
def test_runs(notebook: Path, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="notebooks run with pip install -e '.[test]'")
    pytest.importorskip("ipykernel", reason="notebooks run with pip install -e '.[test]'")
    if "text" in notebook.stem:
        pytest.importorskip("transformers", reason="it runs with pip install -e '.[test]'")
    nbformat = pytest.importorskip("nbformat")
    executed = nbformat.read(notebook, as_version=4)
    client = nbclient.NotebookClient(
        executed, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    # small settings; what it writes under the home folder or into temporary ones goes into the test's own
    folders = {"TMPDIR": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}
    client.execute(env={**os.environ, **SMALL, **folders})
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    said = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert all("IProgress not found" in text for text in said), (
        "it prints warnings"
    )  # of tqdm, without ipywidgets
    assert any("image/png" in o.get("data", {}) for o in outputs), "it shows no picture"
