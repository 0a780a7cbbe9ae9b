"""The command that measures on a GPU runs where there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import gpu

PARTS = ("facts", "probe", "source", "retrain", "fast_methods", "ensembles")


@pytest.mark.slow
def test_the_quick_run_measures_and_keeps_what_it_found(tmp_path: Path) -> None:
    command = [sys.executable, gpu.__file__, "--quick", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, *(word for part in PARTS for word in ("--part", part))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["parts"]) == list(PARTS)
    methods = {row["method"]: row for row in results["parts"]["fast_methods"]["rows"]}
    assert {"fine_tune", "rewind", "neg_grad_plus", "short retraining"} <= methods.keys()
    assert all(row["total_s"] > 0 and 0 <= row["auc"] <= 1 for row in methods.values())
    assert "## fast_methods" in (tmp_path / "results.md").read_text()


def test_a_part_that_fails_leaves_the_others(tmp_path: Path) -> None:
    bench = gpu.Bench.__new__(gpu.Bench)
    bench.folder, bench.budget, bench.quick, bench.start = tmp_path, 1e9, True, 0.0
    bench.results = {"parts": {}}
    bench.run(
        [("a", 1, lambda *_: 1 / 0), ("b", 1, lambda _, rows: rows.append({"what": "x", "value": 1.5}))]
    )
    found = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert "ZeroDivisionError" in found["a"]["errors"]["a"]
    assert found["b"]["rows"] == [{"what": "x", "value": 1.5}]


def test_the_full_run_says_what_it_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path)])
    assert "--data is needed" in capsys.readouterr().err
