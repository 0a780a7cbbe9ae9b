"""What a comparison keeps of its source's training, for a method that goes back to it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import Net, state
from test_compare import toy_compare
from torch import nn

from lightning_unlearn import MethodRun, SourceRun
from lightning_unlearn.cli.main import main
from lightning_unlearn.methods import Rewind
from lightning_unlearn.models import Classifier


def source_run(**arguments: Any) -> SourceRun:
    return SourceRun(lambda: Classifier(Net()), {"max_epochs": 5}, **arguments)


def rewinding(**arguments: Any) -> dict[str, Any]:
    return {
        "methods": [MethodRun(Rewind, None, {"max_epochs": 1})],
        "evaluators": [],
        "seeds": 2,
        **arguments,
    }


@pytest.mark.slow
def test_kept_weights_are_gone_back_to_and_cleaned_away(tmp_path: Path) -> None:
    begun: list[list[Path]] = []

    class Noted(Rewind):
        def __init__(self, source: nn.Module) -> None:
            super().__init__(source)
            begun.append(self._files)

    methods = [MethodRun(Noted, "rewind", {"max_epochs": 1})]
    result = toy_compare(tmp_path, source=source_run(keep_every=2), **rewinding(methods=methods))
    assert not result.failed
    kept = [
        [tmp_path / f"source/seed_{seed}/earlier/epoch={epoch}.ckpt" for epoch in (1, 3)] for seed in (0, 1)
    ]
    assert begun == kept  # this seed's own
    assert {path.name for path in kept[0]} == {path.name for path in kept[0][0].parent.iterdir()}
    remembered = {item.file: item.reason for item in result.remembering}
    assert all(
        remembered[file].startswith("weights that a training kept") for files in kept for file in files
    )
    again = toy_compare(tmp_path, source=source_run(keep_every=2), clean=True, **rewinding(methods=methods))
    assert len(begun) == 4
    assert again.remembering == []
    assert not kept[0][0].parent.exists() or not list(kept[0][0].parent.iterdir())


@pytest.mark.slow
def test_another_setting_trains_the_source_again(tmp_path: Path) -> None:
    settings = rewinding(seeds=1)
    assert not toy_compare(tmp_path, source=source_run(keep_every=2), **settings).failed
    model = tmp_path / "source/seed_0/model.ckpt"
    before, weights = model.stat().st_mtime_ns, torch.load(model, weights_only=True)["state_dict"]
    assert not toy_compare(tmp_path, source=source_run(keep_every=2), **settings).failed
    assert model.stat().st_mtime_ns == before
    assert not toy_compare(tmp_path, source=source_run(keep_every=1), **settings).failed
    assert model.stat().st_mtime_ns != before
    after = torch.load(model, weights_only=True)["state_dict"]
    assert all(torch.equal(after[name], value) for name, value in weights.items()), "to keep is no change"
    assert len(list((tmp_path / "source/seed_0/earlier").iterdir())) == 5


@pytest.mark.slow
def test_other_checkpoints_under_the_same_name_unlearn_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "sources").mkdir()
    given, earlier = tmp_path / "sources/source.ckpt", tmp_path / "sources/earlier.ckpt"
    source = Classifier(Net())
    for file, step in ((given, 2), (earlier, 1)):
        torch.save({"state_dict": state(source), "global_step": step}, file)
    settings = rewinding(seeds=1, source=source_run(checkpoint=str(given)))
    assert not toy_compare(tmp_path / "out", **settings).failed
    model = tmp_path / "out/rewind/seed_0/model.ckpt"
    before = model.stat().st_mtime_ns
    toy_compare(tmp_path / "out", **settings)
    assert model.stat().st_mtime_ns == before
    torch.save({"state_dict": {k: v * 1.5 for k, v in state(source).items()}, "global_step": 1}, earlier)
    toy_compare(tmp_path / "out", **settings)
    assert model.stat().st_mtime_ns != before


@pytest.mark.slow
def test_without_kept_weights_the_method_fails_by_name(tmp_path: Path) -> None:
    (failure,) = toy_compare(tmp_path, source=source_run(), **rewinding(seeds=1)).report["failures"]
    assert "In a comparison give the source keep_every=1" in failure["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep_every": 0}, "keep_every must"),
        ({"keep_every": 1, "checkpoint": "a.ckpt"}, "keep_every=1: the source of a.ckpt is trained"),
    ],
)
def test_what_cannot_be_kept_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source_run(**arguments)


YAML = """
source:
  model: {class_path: Classifier, init_args: {net: {class_path: lightning_unlearn.models.MLP, init_args: {in_features: 64, hidden: [8], num_classes: 10}}}}
  trainer: {max_epochs: 3}
  keep_every: 1
data: {class_path: UnlearningDataModule, init_args: {datamodule: {class_path: Digits}, forget: 0.1}}
methods:
  - method: {class_path: Rewind, init_args: {checkpoint: auto, ascent: 0.1}}
    trainer: {max_epochs: 1}
seeds: 1
trainer: {accelerator: cpu}
"""


@pytest.mark.slow
def test_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "compare.yaml").write_text(YAML)
    assert (
        main(["compare", "--config", str(tmp_path / "compare.yaml"), "--output_dir", str(tmp_path / "out")])
        == 0
    )
    assert len(list((tmp_path / "out/source/seed_0/earlier").glob("*.ckpt"))) == 3
