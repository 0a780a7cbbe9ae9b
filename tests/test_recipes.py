"""The configurations that come with the package: found by name, in a clone and in a wheel."""

import json
import zipfile
from pathlib import Path

import pytest
import yaml

from lightning_unlearn import methods
from lightning_unlearn.cli import recipes
from lightning_unlearn.cli.compare import parsed, scenarios_in
from lightning_unlearn.cli.main import main

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_config_but_sweeps_is_a_recipe() -> None:
    files = {path for path in (REPO / "configs").rglob("*.yaml") if path.parent.name != "sweeps"}
    assert set(recipes.recipes().values()) == files
    assert recipes.recipe_file("mnist/compare") == REPO / "configs" / "mnist" / "compare.yaml"


# the papers' settings, beside papers/, and what was measured before rates ended near zero; nothing new belongs here
CONSTANT = {
    *("mnist/backdoor_lambda", "mnist/backdoor_reference_size", "location30/wgan_alpha"),
    *("cifar10/small", "digits/compare", "digits/demo", "digits/forgetting_quality", "mnist/compare"),
}


def test_every_recipe_ends_with_a_rate_near_zero() -> None:
    found = []
    assert recipes.recipes().keys() > CONSTANT
    for name, file in recipes.recipes().items():
        content = yaml.safe_load(file.read_text())
        if name.startswith("methods/"):
            found.append((name, content["model"]))
        elif not name.startswith("papers/") and name not in CONSTANT:
            found += [(name, each["method"]) for each in content.get("methods", [])]
    assert len(found) > 40
    for name, method in found:
        kind, schedule = (
            getattr(methods, method["class_path"]),
            method["init_args"].get("lr_scheduler", {}) if "init_args" in method else {},
        )
        # how a linear schedule ends, and one that falls by a factor an epoch
        last = schedule.get("init_args", {}).get(
            "end_factor", schedule.get("init_args", {}).get("gamma", 1.0) ** 3
        )
        assert kind.one_shot or (kind.anneals and not schedule) or last <= 0.05 or kind is methods.Retrain, (
            f"{name}: {method}"
        )


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_scenario_of_every_recipe_is_understood() -> None:
    found = 0
    for file in recipes.recipes().values():
        for changes in scenarios_in([f"--config={file}"]).values():
            _, config = parsed([f"--config={file}", f"--config={json.dumps(changes)}"])
            assert config.methods
            found += 1
    assert found > 15


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
