"""A comparison and a request of other tasks than single labels: what they say is what a person would believe."""

import re
from functools import partial
from pathlib import Path

import pytest
from helpers.tasks import KINDS, Kind, Regression, data_of, known_by_heart

from lightning_unlearn import MethodRun, NegGradPlus, SourceRun, compare, forget
from lightning_unlearn.callbacks import Evaluator, MembershipInference, PopulationAttack

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def comparison(kind: type[Kind], folder: Path, evaluator: type[Evaluator]) -> dict[str, dict[str, float]]:
    adapter = kind.adapter()
    own = {"adapter": adapter, "step": "source" if kind.NAMED else "loss"}
    result = compare(
        SourceRun(kind, {"max_epochs": 25}),
        lambda: data_of(kind),
        [MethodRun(partial(NegGradPlus, **own), "neg", {"max_epochs": 6})],
        [evaluator],
        seeds=1,
        short_retrainings=[0.2],
        trainer={"accelerator": "cpu"},
        output_dir=folder,
        quiet=True,
        adapter=adapter if kind.NAMED else None,
    )
    assert not result.report["failures"]
    return {
        model: {name: value["mean"] for name, value in scores.items()}
        for model, scores in result.report["models"].items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "Binary",
        pytest.param("MultiLabel", marks=pytest.mark.exhaustive),
        pytest.param("Segmentation", marks=pytest.mark.exhaustive),
        "Regression",
        "Embedding",
    ],
)
def test_a_comparison(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    models = comparison(kind, tmp_path / "out", PopulationAttack)
    source, neg, retrained = (models[each] for each in ("source", "neg", "retrain"))
    assert {"retrain_2", "retrain_20pct"} <= models.keys()
    page = re.sub(r"\s+", " ", (tmp_path / "out" / "report.html").read_text())
    if name == "Regression":
        assert not any("accuracy" in metric or metric == "similarity" for metric in source)
        assert source["loss/forget"] < neg["loss/forget"] < retrained["loss/forget"]
        assert neg["distance"] < source["distance"]
        assert source["explained/test"] < retrained["explained/test"] <= 1
        assert models["retrain_2"]["distance"] < neg["distance"]
        assert "Loss on the forget set D_f: source" in page
        assert "Share of the test targets that is explained" in page
    else:
        assert retrained["accuracy/forget"] < 0.5 < source["accuracy/forget"]
        assert neg["accuracy/forget"] <= source["accuracy/forget"]
        assert models["retrain_2"]["similarity"] > source["similarity"]
        assert ("accuracy_by_label/test" in source) == (name == "MultiLabel")


def test_what_an_evaluator_cannot_measure_is_refused_before_the_source_is_trained(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="MembershipInference needs posteriors, which the task 'regression' has not"
    ):
        comparison(Regression, tmp_path / "out", MembershipInference)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_request(tmp_path: Path) -> None:
    def ask(*, wrong_labels: bool) -> str:
        data = data_of(Regression)
        data.wrong_labels = wrong_labels
        result = forget(
            known_by_heart(Regression),
            data,
            output=tmp_path / "o",
            ledger=tmp_path / "l.jsonl",
            trainer=QUIET,
        )
        page = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", result.certificate.read_text()))
        assert result.answered.text in page
        return result.answered.text

    with pytest.raises(
        ValueError, match=r"wrong_labels=True .* needs one label a sample, which the task 'regression'"
    ):
        ask(wrong_labels=True)
    assert not (tmp_path / "o").exists()
    said = ask(wrong_labels=False)
    found = re.search(r"16 samples: loss (\S+) → (\S+) \(unseen samples (\S+)\), an attacker", said)
    assert found, said
    assert float(found[1]) < float(found[3]) < float(found[2])
    assert re.search(r"Cost: test loss \S+ → \S+, ", said)
    assert "accuracy" not in said
