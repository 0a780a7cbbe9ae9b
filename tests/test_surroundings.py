"""What is set for a while around a run, and put back."""

import os

import pytest
import torch

from lightning_unlearn.core.surroundings import no_search_for_gpus

SWITCH = "PYTORCH_NVML_BASED_CUDA_CHECK"


@pytest.mark.parametrize("before", ["1", None])
def test_without_a_gpu_adam_does_not_look_for_one_at_every_step(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    if before is None:
        monkeypatch.delenv(SWITCH, raising=False)
    else:
        monkeypatch.setenv(SWITCH, before)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with no_search_for_gpus():
        assert os.environ[SWITCH] == "0"
    assert os.environ.get(SWITCH) == before


def test_with_a_gpu_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with no_search_for_gpus():
        assert os.environ[SWITCH] == "1"
