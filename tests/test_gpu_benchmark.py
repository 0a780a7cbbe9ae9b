"""The command that measures on a GPU runs from end to end where there is none."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import gpu


@pytest.mark.slow
def test_the_small_run_measures_every_method(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, gpu.__file__, "--small"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("reference_kl", "top_k", "random_k", "random_top_k", "eu_k", "cf_k", "wgan"):
        assert re.search(rf"^ {name} ", done.stdout, re.MULTILINE), f"{name} has no row"
        assert f"{name} against retraining" in done.stdout
    for what in ("Trainer.fit ÷ bare loop", "models of LeNet5", "models of ResNet8", "peak memory", "degree"):
        assert what in done.stdout


def test_the_full_run_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--root is needed" in capsys.readouterr().err
