"""Evaluators over many models in a comparison: whose models they compare, and that nothing is made twice."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import Net, toy_data

from lightning_unlearn.callbacks import KLOM, ForgettingQuality, LiRA, MembershipInference, ULiRA
from lightning_unlearn.callbacks.base import populations as populations_module
from lightning_unlearn.comparison.api import Comparison, compare
from lightning_unlearn.comparison.pipeline import Pipeline
from lightning_unlearn.comparison.runs import MethodRun, SourceRun
from lightning_unlearn.methods import EUk, Retrain
from lightning_unlearn.methods.base.again import fit_alone
from lightning_unlearn.models import Classifier


def run(folder: Path, *, sources: str = "many", seeds: Any = 1, **arguments: Any) -> Comparison:
    many: dict[str, Any] = {"models": 5, "sources": sources}
    return compare(
        **{
            "source": SourceRun(lambda: Classifier(Net()), {"max_epochs": 2}),
            "data": toy_data,
            "methods": [MethodRun(lambda source: EUk(source, k=2), "eu_k", {"max_epochs": 1}, batch_size=4)],
            "evaluators": [lambda: ForgettingQuality(**many), lambda: ULiRA(**many), lambda: KLOM(**many)],
            "seeds": seeds,
            "trainer": {"accelerator": "cpu"},
            "output_dir": folder,
            "quiet": True,
            "retrain_2": False,  # evaluators of many models leave these controls out
            "short_retrainings": [],
            **arguments,
        }
    )


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Notes what is fitted alone, and has everything fitted so."""
    made: list[Any] = []

    def counted(procedure: Any, *positional: Any, **named: Any) -> Any:
        made.append(procedure)
        return fit_alone(procedure, *positional, **named)

    monkeypatch.setattr(populations_module, "fit_alone", counted)
    monkeypatch.setattr(populations_module, "ensemble_plan", lambda *_: None)
    return made


@pytest.mark.slow
def test_every_model_has_its_population(tmp_path: Path, fits: list[Any]) -> None:
    found = run(tmp_path)
    assert not found.report["failures"]
    models = found.report["models"]
    assert len(fits) == 5 * 5, (
        "sources, unlearned, retrained for reference, the null's, and the retrained model's own"
    )
    assert {procedure.batch_size for procedure in fits} == {None, 4}, "the method's own batch size"
    null = models["source"]["forgetting_quality/null"]["mean"]
    for name in ("source", "retrain", "eu_k"):
        assert models[name]["forgetting_quality/null"]["mean"] == null
        assert (tmp_path / name / "seed_0" / "evaluation" / "u_lira_samples.npz").is_file()
    assert models["retrain"]["klom/mean"] != models["retrain"]["klom/null"]
    assert models["retrain"]["klom/null"] == models["source"]["klom/null"]
    assert models["eu_k"]["klom/mean"]["mean"] not in (
        models["source"]["klom/mean"]["mean"],
        models["retrain"]["klom/mean"]["mean"],
    )
    fits.clear()
    (tmp_path / "eu_k" / "seed_0" / "metrics.json").unlink()
    again = run(tmp_path)
    assert not fits, "answers are kept from run to run"
    assert again.report["models"] == models


@pytest.mark.slow
def test_seeds_are_repetitions_of_all_models(tmp_path: Path) -> None:
    values = run(tmp_path, seeds=2).report["models"]["retrain"]["klom/mean"]["values"]
    assert values[0] != values[1]


@pytest.mark.slow
def test_one_source_is_one_model(tmp_path: Path, fits: list[Any]) -> None:
    found = run(tmp_path, sources="one")
    assert len(fits) == 4 * 5
    assert found.report["models"]["source"]["forgetting_quality/epsilon_mean"]["mean"] == 50.0


@pytest.mark.slow
def test_many_sources_need_to_know_how_long_to_train(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = Classifier(Net())
    torch.save({"state_dict": source.state_dict()}, tmp_path / "source.ckpt")
    found = run(
        tmp_path / "run",
        source=SourceRun(lambda: Classifier(Net()), {}, str(tmp_path / "source.ckpt")),
        retrain=MethodRun(lambda s: EUk(s, k=2), "retrain", {"max_epochs": 1}),
    )
    assert any("give the source max_epochs" in failure["error"] for failure in found.report["failures"])


@pytest.mark.slow
def test_a_finished_comparison_is_not_audited_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a comparison itself sets on an evaluator, models of many kinds say, is no setting of it."""
    audits: list[Any] = []
    real = Pipeline._measure
    monkeypatch.setattr(Pipeline, "_measure", lambda *a: audits.append(1) or real(*a))  # type: ignore[func-returns-value]
    evaluators = [
        lambda: KLOM(models=2),
        lambda: MembershipInference(shadow_models=2, shadow_epochs=1, bootstrap=10),
    ]
    data = partial(toy_data, nonmember=10, shadow=12)
    run(tmp_path, evaluators=evaluators, data=data)
    assert len(audits) == 3
    (tmp_path / "eu_k" / "seed_0" / "metrics.json").unlink()
    run(tmp_path, evaluators=evaluators, data=data)
    assert len(audits) == 4


def test_a_folder_of_ones_own_is_used(tmp_path: Path) -> None:
    data = partial(toy_data, nonmember=10, shadow=12)
    mine, others = tmp_path / "mine", tmp_path / "others"
    evaluators = [
        lambda: KLOM(models=2, cache=mine),
        lambda: MembershipInference(shadow_models=2, shadow_epochs=1, bootstrap=10, cache=others),
    ]
    run(tmp_path / "run", evaluators=evaluators, data=data)
    assert list(mine.rglob("*.npz"))
    assert len(list(others.glob("*.pt"))) == 2
    assert not {"populations", "shadow_models"} & {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.slow
def test_an_interrupted_population_goes_on_with_the_models_that_were_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that saw the forget set may lie there meanwhile, and afterwards no model at all."""
    ways: list[str] = []
    real, answer = populations_module.train_ensemble, populations_module._answers

    def told(*arguments: Any, **named: Any) -> Any:
        ensemble = real(*arguments, **named)
        ways.append(ensemble.way)
        return ensemble

    def interrupted(*_: Any) -> Any:
        raise RuntimeError("interrupted")

    monkeypatch.setattr(populations_module, "train_ensemble", told)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    retrain = MethodRun(lambda s: Retrain(s, optimizer=optimizer), "retrain", {"max_epochs": 1})
    settings: dict[str, Any] = {"retrain": retrain, "methods": []}
    with monkeypatch.context() as broken:
        broken.setattr(populations_module, "_answers", interrupted)
        first = run(tmp_path, **settings, evaluators=[lambda: KLOM(models=2), lambda: LiRA(models=2)])
    assert first.report["failures"]
    kept = tmp_path / "populations"
    assert len(list(kept.rglob("*.pt"))) == 4, "2 retrained, 2 for the null; LiRA's references remember"
    ways.clear()
    monkeypatch.setattr(populations_module, "_answers", answer)
    again = run(tmp_path, **settings, evaluators=[lambda: KLOM(models=2)])
    assert not again.report["failures"]
    assert "cache" in ways
    assert not list(kept.rglob("*.pt")), "they remember whoever may ask next"


def test_evaluators_with_folders_of_their_own_fill_both(tmp_path: Path) -> None:
    mine, others = tmp_path / "mine", tmp_path / "others"
    evaluators = [
        lambda: KLOM(models=2, cache=mine),
        lambda: LiRA(models=2, mode="offline", cache=others),
    ]
    run(tmp_path / "run", evaluators=evaluators)
    assert {path.name for path in others.rglob("*.npz")} == {path.name for path in mine.rglob("*.npz")}
    assert len(list(others.iterdir())) == len(list(mine.iterdir()))
