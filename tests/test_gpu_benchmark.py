"""The command that measures on a GPU runs where there is none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import gpu

PARTS = ("facts", "fast", "probe", "source", "retrain", "fast_methods", "ensembles")
OTHERS = ("checks", "step_overhead", "nccl", "all_methods")  # of which a few rows are run


@pytest.mark.slow
@pytest.mark.exhaustive  # whoever has a GPU runs it
def test_the_quick_run_measures_and_keeps_what_it_found(tmp_path: Path) -> None:
    folders = tmp_path, tmp_path / "others"
    runs = [
        ["--quick", "--out", str(folder), *(word for part in parts for word in ("--part", part)), *only]
        for folder, parts, only in zip(folders, (PARTS, OTHERS), ([], ["--only", "fine"]), strict=True)
    ]
    program = f"from benchmarks import gpu; raise SystemExit(max(map(gpu.main, {runs})))"
    command, env = [sys.executable, "-c", program], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    results, others = (json.loads((folder / "results.json").read_text()) for folder in folders)
    assert list(results["parts"]) == list(PARTS)
    assert list(others["parts"]) == ["source", *OTHERS], "the parts that start from it bring the source"
    assert {*results["parts"], *others["parts"]} == {name for name, *_ in gpu.PARTS}
    assert [row["method"] for row in others["parts"]["all_methods"]["rows"]] == ["fine_tune"]
    faster, compared = results["parts"]["fast"]["rows"]
    assert faster["value"] > 0
    assert compared["value"] is True, compared
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
