"""What fools which evaluator: the documentation's table is measured again."""

import json

import doc_tables
import pytest
from helpers import cheats


@pytest.mark.slow
def test_the_table_of_what_fools_which_evaluator_is_what_is_measured() -> None:
    stored, found = json.loads(cheats.MEASURED.read_text()), cheats.measure()
    assert stored["steps"] == cheats.STEPS
    assert list(found) == list(stored["models"])
    for model, parts in found.items():
        for part, scores in parts.items():
            expected = stored["models"][model][part]
            assert list(scores) == list(expected)
            for name, value in scores.items():
                # nats, steps, and shares: other kernels train other models
                allowed = {
                    "klom/excess": 0.7,
                    "klom/matched": 0.7,
                    "forgetting_quality/matched": 0.2,
                    "relearn_time/steps": 5,
                }.get(name, 0.1)
                assert value == pytest.approx(expected[name], abs=allowed), (model, name)


def test_what_the_documentation_concludes_from_it() -> None:
    stored = json.loads(cheats.MEASURED.read_text())
    fooled = doc_tables.fooled(stored)
    by_model = {model: {name for each, name in fooled if each == model} for model in stored["models"]}
    asks_about_neighbours = {"near_copies/accuracy", "unlearning_degree/degree"}
    assert by_model["the source"] == by_model["another retrained model"] == set()
    assert by_model["its logits ÷ 5"] == {"relearn_time/steps"}
    assert not {name for names in by_model.values() for name in names} & asks_about_neighbours
    refuses, looks = by_model["refuses to answer on D_f"], by_model["looks D_f up in a retrained model"]
    assert {"accuracy/forget", "population_attack/auc", "relearn_time/steps"} == refuses
    assert {"accuracy/forget", "similarity", "forgetting_quality/score", "u_lira/auc", "lira/auc"} < looks
    doubted = by_model["another retrained model, logits ÷ 1.3"]
    assert {"forgetting_quality/score", "lira/auc", "u_lira/auc", "klom/excess"} <= doubted
    at_matched_confidence = {f"{name}/matched" for name in ("forgetting_quality", "u_lira", "klom")}
    assert not doubted & at_matched_confidence
    assert not looks & {"forgetting_quality/matched", "u_lira/matched"}, "among others it is the source"
    assert not by_model["its logits ÷ 5"] & at_matched_confidence
    assert not doubted & set(cheats.ALONE), (
        "evaluators of one model are not fooled by a little less confidence"
    )
