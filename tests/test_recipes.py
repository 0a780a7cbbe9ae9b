"""The configurations that come with the package: found by name, in a clone and in a wheel."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from helpers.toys import quiet_trainer
from jsonargparse import ArgumentParser

from lightning_unlearn import methods
from lightning_unlearn.cli import recipes
from lightning_unlearn.cli.compare import parsed, scenarios_in
from lightning_unlearn.cli.main import main
from lightning_unlearn.data import TensorData, UnlearningDataModule
from lightning_unlearn.models import MLP, Classifier

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_config_but_sweeps_is_a_recipe() -> None:
    files = {path for path in (REPO / "configs").rglob("*.yaml") if path.parent.name != "sweeps"}
    assert set(recipes.recipes().values()) == files
    assert recipes.recipe_file("mnist/compare") == REPO / "configs" / "mnist" / "compare.yaml"


def recipe_methods() -> list[tuple[str, dict[str, Any]]]:
    """Return each method that a recipe or a sweep names, with how long it trains; not the papers' own settings."""
    found = []
    for file in (REPO / "configs" / "sweeps").glob("*.yaml"):
        (given,) = (
            word for word in yaml.safe_load(file.read_text())["command"] if word.startswith("--methods=")
        )
        found += [(f"sweeps/{file.stem}", each) for each in yaml.safe_load(given.removeprefix("--methods="))]
    for name, file in recipes.recipes().items():
        content = yaml.safe_load(file.read_text())
        if name.startswith("methods/"):
            found.append((name, {"method": content["model"], "trainer": content["trainer"]}))
        elif not name.startswith("papers/"):
            found += [(name, each) for each in content.get("methods", [])]
    return found


def test_every_recipe_ends_with_a_rate_near_zero() -> None:
    found = recipe_methods()
    assert len(found) > 80
    for name, each in found:
        method = each["method"]
        kind, schedule = (
            getattr(methods, method["class_path"]),
            method["init_args"].get("lr_scheduler", {}) if "init_args" in method else {},
        )
        given, falls = schedule.get("init_args", {}), str(schedule.get("class_path")).endswith(".Annealed")
        # how an annealed or a linear schedule ends, and one that falls by a factor an epoch, in the last of them
        falls_by = given.get("gamma", 1.0) ** (each.get("trainer", {}).get("max_epochs", 1) - 1)
        last = given.get("end", 0.02) if falls else given.get("end_factor", falls_by)
        as_the_source_was = kind in (methods.Retrain, methods.SISA)
        assert as_the_source_was or kind.one_shot or (kind.anneals and not schedule) or last <= 0.05, (
            f"{name}: {method}"
        )


def test_recipes_scale_with_the_data() -> None:
    """They are told in passes over the data, so that ten times the data gets ten times the steps.

    The benchmark's alone may give steps, of the data that they name, for its bounds on speed.
    """
    for name, each in recipe_methods():
        trainer = each.get("trainer", {"max_epochs": 1})
        assert "max_epochs" in trainer or name.startswith("benchmark/"), f"{name}: {trainer}"

    class Rates(L.Callback):
        def __init__(self) -> None:
            self.all: list[float] = []

        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            self.all.append(trainer.optimizers[0].param_groups[0]["lr"])

    rates = []
    for count in (40, 400):
        samples = TensorData(torch.zeros(count, 4), torch.arange(count) % 3, num_classes=3)
        data = UnlearningDataModule(samples, 0.5, batch_size=5)
        method = methods.FineTune(MLP(4, (3,), 3))
        quiet_trainer(max_epochs=2, limit_val_batches=0, callbacks=[seen := Rates()]).fit(method, data)
        rates.append(seen.all)
    small, large = rates
    assert len(large) == 10 * len(small) == 80
    assert small[-1] == large[-1] == pytest.approx(0.02 * max(large))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_scenario_of_every_recipe_is_understood() -> None:
    found = 0
    for file in recipes.recipes().values():
        full = ["--full"] if "full_scenarios" in yaml.safe_load(file.read_text()) else []
        for changes in scenarios_in([f"--config={file}", *full]).values():
            _, config = parsed([f"--config={file}", f"--config={json.dumps(changes)}"])
            assert config.methods
            found += 1
    assert found > 15


def nets(content: Any) -> Iterator[dict[str, Any]]:
    """Yield each network that a recipe describes, those of its scenarios too."""
    if isinstance(content, dict):
        if "class_path" in (content.get("net") or {}):
            yield content["net"]
        for each in content.values():
            yield from nets(each)


def test_every_network_is_named_so_that_it_is_found() -> None:
    """``GoogLeNet`` alone is torchvision's as well."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Classifier, "model")
    files = recipes.recipes().values()
    named = {json.dumps(net) for file in files for net in nets(yaml.safe_load(file.read_text()))}
    assert len(named) > 15
    for net in named:
        parser.parse_object({"model": {"net": json.loads(net)}})


def test_a_name_becomes_its_file_and_files_and_overrides_may_follow() -> None:
    file = recipes.recipe_file("digits/compare")
    for given in (["--recipe", "digits/compare"], ["--recipe=digits/compare"]):
        arguments = ["compare", *given, "--config=mine.yaml", "--seeds", "1"]
        assert recipes.with_recipes(arguments) == [
            "compare",
            f"--config={file}",
            "--config=mine.yaml",
            "--seeds",
            "1",
        ]


@pytest.mark.parametrize("given", [["--recipe", "mnist/all"], ["--recipe"], ["--recipe=mnist/compare.yaml"]])
def test_an_unknown_name_lists_what_there_is(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *given]) == 2
    message = capsys.readouterr().err
    assert "--recipe: there is no " in message
    assert "digits/compare, digits/demo, digits/forgetting_quality" in message


def test_compare_and_fit_take_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = ["--recipe", "digits/compare", "--recipe=evaluators/backdoor"]
    with pytest.raises(SystemExit):
        main(["compare", *recipe, "--seeds=1", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["seeds"] == 1
    assert printed["evaluators"][-1]["class_path"].endswith("Backdoor")

    with pytest.raises(SystemExit):
        main(["fit", "--recipe=methods/eu_k", "--model.source=a.ckpt", "--data=Digits", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"].endswith("EUk")


def test_an_installed_package_has_them_within(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "lightning_unlearn"
    (package / "configs" / "mnist").mkdir(parents=True)
    (package / "configs" / "mnist" / "compare.yaml").touch()
    monkeypatch.setattr(recipes, "_PACKAGE", package)
    assert recipes.recipes() == {"mnist/compare": package / "configs" / "mnist" / "compare.yaml"}
    (package / "configs" / "mnist" / "compare.yaml").unlink()
    with pytest.raises(ValueError, match="there is no 'mnist/compare'"):
        recipes.recipe_file("mnist/compare")


def test_the_wheel_holds_every_recipe(tmp_path: Path) -> None:
    builders = pytest.importorskip("hatchling.builders.wheel")
    (wheel,) = builders.WheelBuilder(str(REPO)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= {f"lightning_unlearn/configs/{name}.yaml" for name in recipes.recipes()}
    assert "lightning_unlearn/core/compat.py" in names
    assert not any(name.startswith(("configs/", "tests/")) for name in names)
