"""The command that measures on a GPU runs from end to end where there is none."""

import importlib
import logging
import re
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_small_run_measures_every_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    gpu = importlib.import_module("benchmarks.gpu")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    assert gpu.main(["--small"]) == 0
    printed = capsys.readouterr().out
    for name in ("reference_kl", "top_k", "random_k", "random_top_k", "eu_k", "cf_k", "wgan"):
        assert re.search(rf"^ {name} ", printed, re.MULTILINE), f"{name} has no row"
        assert f"{name} against retraining" in printed
    for what in ("Trainer.fit ÷ bare loop", "models of LeNet5", "models of ResNet8", "peak memory", "degree"):
        assert what in printed


def test_the_full_run_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    gpu = importlib.import_module("benchmarks.gpu")
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--root is needed" in capsys.readouterr().err
