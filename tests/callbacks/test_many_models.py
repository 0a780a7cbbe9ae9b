"""Evaluators over many models: which models they compare, that these are made once, and what goes on after a stop."""

import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.toys import Net, PlainData, PlainModule, quiet_trainer, toy_data, toy_source
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch import Tensor, nn

from lightning_unlearn.callbacks import (
    KLOM,
    RMIA,
    Audit,
    CollapseGuard,
    ForgettingQuality,
    LiRA,
    ManyModels,
    ULiRA,
)
from lightning_unlearn.callbacks.base import populations as populations_module
from lightning_unlearn.callbacks.base.populations import Population
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Member, Runtime, train_ensemble
from lightning_unlearn.functional import (
    forgetting_quality,
    klom,
    logit_scaled_confidence,
    match_confidence,
    rmia_unlearned_scores,
    u_lira_rates,
    u_lira_scores,
)
from lightning_unlearn.methods import (
    NPO,
    BadTeacher,
    CFk,
    EUk,
    FineTune,
    L1Sparse,
    NegGradPlus,
    RandomLabel,
    ReferenceKL,
    Retrain,
    ShrinkPerturb,
    UnlearningModule,
)
from lightning_unlearn.methods.base import again
from lightning_unlearn.methods.base.again import (
    Procedure,
    TrainAnew,
    ensemble_plan,
    fit_alone,
    fit_side_by_side,
    repeated,
)
from lightning_unlearn.models import Classifier

SGD = partial(torch.optim.SGD, lr=0.05)


class Look(ManyModels):
    """Keeps the populations it is given, to be looked at."""

    default_name = "look"
    least_models = 2

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        self.seen: dict[str, Population] = getattr(self, "seen", {})
        key = "source" if model is audit.source else "retrain" if model is audit.retrained else "own"
        self.seen[key] = self.audited_population(model, audit)
        self.seen["retrained"] = self.retrained_population(model, audit)
        self.seen["null"] = self.retrained_population(model, audit, second=True)
        return {"look/models": float(self.models)}


def looked(method: L.LightningModule, *, trainer: dict[str, Any] | None = None, **arguments: Any) -> Look:
    look = Look(**{"models": 3, "retrain_epochs": 1, "on_error": "raise", **arguments})
    L.seed_everything(5, verbose=False)
    quiet_trainer(**{"max_epochs": 1, "callbacks": [look], **(trainer or {})}).fit(
        method, toy_data(nonmember=10)
    )
    return look


def plain_source(seed: int = 0) -> Classifier:
    """A source without dropout, which an ensemble can train side by side."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Classifier(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), optimizer=SGD)


# ---------------------------------------------------------------------- which models


def test_a_method_is_repeated_from_new_seeds_and_retrained_models_differ() -> None:
    look = looked(EUk(toy_source(), k=2), controls=False)
    own, retrained, null = (look.seen[key].confidence["forget"] for key in ("own", "retrained", "null"))
    assert own.shape == retrained.shape == (3, 12)
    rows = torch.cat([own, retrained, null])
    assert len(torch.unique(rows, dim=0)) == 9, "no two models are the same"
    assert set(look.seen["own"].confidence) == {"forget", "test", "nonmember"}
    assert set(look.seen["own"].accuracy) == {"forget", "retain", "test", "nonmember"}


def test_a_fresh_draw_of_the_initial_model_belongs_to_a_repetition() -> None:
    """EU-k draws its last layers when it is built; copies of one build would all start alike."""
    method = EUk(toy_source(), k=2)
    build = repeated(method)
    torch.manual_seed(1)
    one, other = build(method.source), build(method.source)
    assert isinstance(one, EUk)
    assert not torch.equal(one.model.net[4].weight, other.model.net[4].weight)
    assert torch.equal(one.model.net[0].weight, method.source.net[0].weight)
    assert one.source is method.source


def test_a_users_own_method_is_repeated() -> None:
    class Noise(UnlearningModule):
        def initial_model(self, source: nn.Module) -> nn.Module:
            model = super().initial_model(source)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            return model

        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            ((logits, targets),) = self.stream_logits(batch["retain"])
            return self.loss(logits, targets)

    look = looked(Noise(toy_source()), controls=False)
    assert len(torch.unique(look.seen["own"].confidence["forget"], dim=0)) == 3


class Stops(L.Callback):
    """Ends a fit after the first of its epochs."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = True


def repetitions(
    monkeypatch: pytest.MonkeyPatch, method: L.LightningModule, *callbacks: L.Callback, **trainer: Any
) -> tuple[list[L.Trainer], list[str]]:
    """Return the Trainers that repeat a fit, retrained models' left out, and what was warned of their callbacks."""
    made: list[L.Trainer] = []

    def noted(module: L.LightningModule, *arguments: Any, fit: Any = again._fit) -> L.Trainer:
        trainer: L.Trainer = fit(module, *arguments)
        if not isinstance(module, Retrain):
            made.append(trainer)
        return trainer

    monkeypatch.setattr(again, "_fit", noted)
    arguments = {"models": 2, "retrain_epochs": 1, "on_error": "raise", "controls": False}
    looks = [Look(**arguments, name=name) for name in ("look", "look_2")]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        quiet_trainer(**{"callbacks": [*looks, *callbacks], **trainer}).fit(method, toy_data(nonmember=10))
    said = [str(each.message) for each in told if "carries the fit out again" in str(each.message)]
    return made, said


@pytest.mark.parametrize("epochs", [7, -1])
@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_fit_that_was_ended_early_is_repeated_for_as_many_steps(
    epochs: int, side_by_side: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = plain_source() if side_by_side else toy_source()
    method = FineTune(source, lr_scheduler=lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0))
    made, (said,) = repetitions(monkeypatch, method, Stops(), max_epochs=epochs, limit_val_batches=0)
    assert len(made) == 2
    assert {trainer.global_step for trainer in made} == {method.trainer.global_step}
    assert {trainer.max_epochs for trainer in made} == {epochs}, "by which schedules go"
    assert "Stops may have had a say in the fit" in said
    of = " of 7" if epochs == 7 else ""
    assert f"the fit ended after 1{of} epochs, and they end after as many steps" in said


def test_early_stopping_is_repeated_where_it_stopped_and_is_no_matter_where_it_did_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fit(patience: int) -> tuple[list[int], int, list[str]]:
        # an accuracy is never above 1, so that no look is better than the first
        stopping = EarlyStopping("accuracy/retain", min_delta=1.0, mode="max", patience=patience)
        keeping, watching = ModelCheckpoint(tmp_path), CollapseGuard(below=1.0)
        method = FineTune(toy_source())
        made, said = repetitions(
            monkeypatch, method, stopping, watching, keeping, max_epochs=5, enable_checkpointing=True
        )
        return [trainer.global_step for trainer in made], method.trainer.global_step, said

    steps, own, (said,) = fit(patience=1)
    assert steps == [own, own]
    assert own < fit(patience=9)[1]
    assert "; EarlyStopping may have had a say in the fit" in said
    assert "the fit ended after 2 of 5 epochs" in said
    assert not fit(patience=9)[2]


def test_callbacks_that_decide_what_is_trained_are_named_and_their_changes_not_taken_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    callbacks = [
        GradientAccumulationScheduler({0: 1, 1: 2}),
        StochasticWeightAveraging(0.01, swa_epoch_start=1),
    ]
    made, (said,) = repetitions(monkeypatch, FineTune(plain_source()), *callbacks, max_epochs=3)
    assert "; GradientAccumulationScheduler, StochasticWeightAveraging may have had a say in the fit" in said
    assert "ended after" not in said
    assert {trainer.accumulate_grad_batches for trainer in made} == {1}


def test_a_module_that_is_no_method_is_repeated_with_its_own_data() -> None:
    look = Look(
        models=3,
        retrain_epochs=1,
        on_error="raise",
        controls=False,
        data=UnlearningDataModule(PlainData(), 0.2),
    )
    data = PlainData()
    trainer = quiet_trainer(max_epochs=1, callbacks=[look])
    trainer.fit(PlainModule(), data)
    assert data.trainer is trainer
    assert len(torch.unique(look.seen["own"].confidence["forget"], dim=0)) == 3


def test_the_source_is_one_model_or_many_and_the_retrained_control_has_models_of_its_own() -> None:
    source, retrained = toy_source(), toy_source(7)
    one = looked(Retrain(source), source=source, retrained=retrained)
    assert len(torch.unique(one.seen["source"].confidence["forget"], dim=0)) == 1
    rows = [one.seen[key].confidence["forget"] for key in ("retrain", "retrained", "null", "own")]
    assert len(torch.unique(torch.cat(rows), dim=0)) == 12, "compared with itself a row would have no width"
    many = looked(Retrain(source), source=source, retrained=retrained, sources="many")
    assert len(torch.unique(many.seen["source"].confidence["forget"], dim=0)) == 3


def test_a_tested_model_stands_as_it_is() -> None:
    source = toy_source()
    look = Look(models=3, retrain_epochs=1, on_error="raise")
    quiet_trainer(callbacks=[look]).test(source, toy_data(), verbose=False)
    answers = look.seen["own"].confidence["forget"]
    data = toy_data()
    data.setup("fit")
    inputs, targets = data.loader("forget").dataset.batch(torch.as_tensor(data.split.forget))
    with torch.no_grad():
        expected = logit_scaled_confidence(source.eval()(inputs), targets)
    assert answers.shape == (3, 12)
    torch.testing.assert_close(answers, expected.expand(3, 12), atol=1e-5, rtol=0)


def test_sources_trained_anew_see_the_forget_set_and_retrained_models_do_not() -> None:
    """The trained rows, by the plans of both procedures."""
    data = toy_data()
    data.setup("fit")
    for kind, expected in ((TrainAnew, data.split.members), (Retrain, data.split.retain)):
        plan = ensemble_plan(
            Procedure(partial(kind, optimizer=SGD), lambda: {"max_epochs": 2}, None), plain_source(), data
        )
        assert plan is not None
        assert set(plan[2].tolist()) == set(expected.tolist())


def test_unlearning_starts_from_the_sources_it_is_told() -> None:
    """With a method that does nothing, the unlearned models are the sources."""

    class Nothing(UnlearningModule):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
            return None

    source = plain_source()
    many = looked(Nothing(source), source=source, sources="many")
    assert torch.equal(many.seen["own"].confidence["forget"], many.seen["source"].confidence["forget"])
    one = looked(Nothing(source), source=source)
    assert torch.equal(one.seen["own"].confidence["forget"], one.seen["source"].confidence["forget"])
    assert not torch.equal(one.seen["own"].confidence["forget"], many.seen["own"].confidence["forget"])


# ---------------------------------------------------------------------- as one computation


@pytest.mark.slow
def test_an_ensemble_retrains_as_a_trainer_does() -> None:
    """The same recipe, whichever way: the two ways give models of the same quality, from seeds of their own."""
    data = toy_data()
    data.setup("fit")
    source = plain_source()
    procedure = Procedure(Retrain, lambda: {"max_epochs": 30}, None)
    plan = ensemble_plan(procedure, source, data)
    assert plan is not None
    recipe, samples, rows, _ = plan
    ensemble = train_ensemble(recipe, samples, [Member(rows, seed) for seed in range(6)], way="sequential")
    one = torch.stack([m(samples.inputs).detach() for m in ensemble.models()])
    alone = [fit_alone(procedure, source, data, seed=seed, runtime=Runtime())[0] for seed in range(6)]
    other = torch.stack([m(samples.inputs).detach() for m in alone])
    fits = [float((logits.argmax(-1) == samples.targets).double().mean()) for logits in (one, other)]
    assert fits[0] == pytest.approx(fits[1], abs=0.05)
    means, spreads = ([x.mean(0) for x in (one, other)], [x.std(0).mean() for x in (one, other)])
    assert float((means[0] - means[1]).abs().mean()) < float(spreads[0])
    assert float(spreads[0]) == pytest.approx(float(spreads[1]), rel=0.5)


class Derived(NegGradPlus):
    """Says nothing of its own step."""


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (lambda s: Retrain(PlainModule()), {"max_epochs": 1}),
        (Derived, {"max_epochs": 1}),
        (lambda _: FineTune(toy_source()), {"max_epochs": 1}),
        (FineTune, {"max_epochs": 1, "gradient_clip_val": 1.0}),
        (Retrain, {"max_steps": 10}),
    ],
    ids=["own training_step", "another method", "batch normalisation", "clipped", "in steps"],
)
def test_what_is_not_plain_is_left_to_a_trainer(build: Any, arguments: dict[str, Any]) -> None:
    data = toy_data()
    data.setup("fit")
    assert ensemble_plan(Procedure(build, lambda: arguments, None), plain_source(), data) is None


class OwnLoss(UnlearningModule):
    """A user's: halves the loss on the forget set, beside a penalty on what is trained."""

    side_by_side = True
    hidden = False

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        (forget, labels), (retain, targets) = self.stream_logits(batch["forget"], batch["retain"])
        moved = [w for w in self.model.parameters() if w.requires_grad or not self.hidden]
        self.log("mine", self.loss(forget, labels))
        return self.loss(retain, targets) - 0.5 * self.loss(forget, labels) + sum(w.norm() for w in moved)


STEPPED = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
SIDE_BY_SIDE: dict[str, Any] = {
    "annealed": FineTune,
    "scheduled": partial(FineTune, optimizer=SGD, lr_scheduler=STEPPED),
    "frozen": partial(CFk, k=2, optimizer=SGD),
    "shrunk": partial(ShrinkPerturb, ascent=0.3),
    "ascent": NegGradPlus,
    "penalty": L1Sparse,
    "wrong labels": RandomLabel,
    "teacher": NPO,
    "two teachers": BadTeacher,
    "own": OwnLoss,
}


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_methods_unlearn_side_by_side_what_a_trainer_does(name: str) -> None:
    """From sources of their own, in orders and with draws of their own."""
    data = toy_data(batch_size=9)
    data.setup("fit")
    procedure = Procedure(SIDE_BY_SIDE[name], lambda: {"max_epochs": 2, "max_steps": -1}, None)
    plan = ensemble_plan(procedure, plain_source(), data)
    assert plan is not None
    assert plan.in_trainer
    together, _ = fit_side_by_side(
        procedure, [plain_source(1), plain_source(2)], data, seeds=[1, 2], runtime=Runtime()
    )
    for k, model in enumerate(together, 1):
        alone, _ = fit_alone(procedure, plain_source(k), data, seed=k, runtime=Runtime())
        for entry, value in alone.state_dict().items():
            torch.testing.assert_close(model.state_dict()[entry], value, rtol=1e-5, atol=1e-6)
    assert not torch.equal(*(next(model.parameters()) for model in together))


def test_a_step_that_is_another_one_side_by_side_is_refused() -> None:
    """Whether a parameter requires a gradient cannot be seen in there."""

    class Hidden(OwnLoss):
        side_by_side = True
        hidden = True

    data = toy_data()
    data.setup("fit")
    procedure = Procedure(Hidden, lambda: {"max_epochs": 1}, None)
    with pytest.raises(RuntimeError, match=r"Hidden: training_step has another loss .* set its side_by_side"):
        fit_side_by_side(procedure, [plain_source()] * 2, data, seeds=[1, 2], runtime=Runtime())


def test_an_evaluator_asks_models_that_were_made_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(populations_module, "fit_alone", None)  # which is not called
    look = looked(RandomLabel(plain_source()), controls=False)
    assert len(torch.unique(look.seen["own"].confidence["forget"], dim=0)) == 3


def test_a_classifiers_own_loss_and_schedule_are_kept() -> None:
    data = toy_data(batch_size=7)
    data.setup("fit")
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1)

    def build(source: nn.Module) -> Classifier:
        return Classifier(Net(), optimizer=SGD, lr_scheduler=schedule, label_smoothing=0.3)

    plan = ensemble_plan(
        Procedure(build, lambda: {"max_epochs": 4}, None, batch_size=5), build(nn.Identity()), data
    )
    assert plan is not None
    recipe = plan[0]
    assert (recipe.optimizer, recipe.lr_scheduler, recipe.epochs, recipe.batch_size) == (SGD, schedule, 4, 5)
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    expected = nn.functional.cross_entropy(logits, targets, label_smoothing=0.3)
    assert torch.equal(recipe.loss(logits, targets), expected)
    smooth, weighted = (
        Classifier(Net(), **options)
        for options in ({"label_smoothing": 0.3}, {"class_weight": [1.0, 2.0, 1.0]})
    )

    def plan_of(source: Classifier, step: Any) -> Any:
        procedure = Procedure(
            lambda source: Retrain(source, optimizer=SGD, step=step), lambda: {"max_epochs": 4}, None
        )
        return ensemble_plan(procedure, source, data)

    assert torch.equal(plan_of(smooth, "source")[0].loss(logits, targets), expected)
    assert torch.equal(
        plan_of(smooth, "loss")[0].loss(logits, targets), nn.functional.cross_entropy(logits, targets)
    )
    assert plan_of(weighted, "source") is None


# ---------------------------------------------------------------------- once, and again


def count_fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    fits: list[int] = []

    def counted(*positional: Any, **named: Any) -> Any:
        fits.append(named["seed"])
        return fit_alone(*positional, **named)

    monkeypatch.setattr(populations_module, "fit_alone", counted)
    monkeypatch.setattr(populations_module, "ensemble_plan", lambda *_: None)
    return fits


@pytest.mark.slow
def test_evaluators_of_a_run_share_their_models(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = count_fits(monkeypatch)
    quick: dict[str, Any] = {"models": 4, "retrain_epochs": 1, "on_error": "raise", "controls": False}
    evaluators = [
        ForgettingQuality(**quick),
        ULiRA(**quick),
        KLOM(**quick),
        RMIA(**quick),
        LiRA(**quick, mode="offline"),
    ]
    quiet_trainer(max_epochs=1, callbacks=evaluators).fit(
        ReferenceKL(toy_source(), reference_epochs=1), toy_data()
    )
    assert len(fits) == 12, "4 unlearned, 4 retrained, 4 more"
    assert all(evaluator.results for evaluator in evaluators)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_more_models_are_added(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(models: int, cache: Path | None) -> Tensor:
        look = looked(EUk(toy_source(), k=2), models=models, cache=cache, controls=False)
        return look.seen["own"].confidence["forget"]

    fits = count_fits(monkeypatch)
    whole = run(4, None)
    fits.clear()

    def stops(*positional: Any, **named: Any) -> Any:
        if len(fits) == 2:
            raise RuntimeError("the power is cut")
        fits.append(named["seed"])
        return fit_alone(*positional, **named)

    with monkeypatch.context() as patch:
        patch.setattr(populations_module, "fit_alone", stops)
        with pytest.raises(RuntimeError, match="power"):
            run(4, tmp_path)
    fits.clear()
    assert torch.equal(run(4, tmp_path), whole)
    assert len(fits) == 10
    fits.clear()
    assert torch.equal(run(5, tmp_path)[:4], whole)
    assert len(fits) == 3, "one more of each kind"
    fits.clear()
    looked(EUk(toy_source(), k=3), models=5, cache=tmp_path, controls=False)
    assert len(fits) == 5, "another method is made anew, and its retrained models are not"


@pytest.mark.slow
def test_other_data_or_seeds_are_not_mistaken_for_these(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fits = count_fits(monkeypatch)
    looked(EUk(toy_source(), k=2), models=2, cache=tmp_path, controls=False)
    for change in ({"seed": 9}, {"retrain_epochs": 2}, {"retrain_optimizer": SGD}):
        fits.clear()
        looked(EUk(toy_source(), k=2), models=2, cache=tmp_path, controls=False, **change)
        assert len(fits) >= 4, change
    fits.clear()
    look = Look(models=2, retrain_epochs=1, on_error="raise", controls=False, cache=tmp_path, seed=5)
    quiet_trainer(max_epochs=1, callbacks=[look]).fit(
        EUk(toy_source(), k=2), toy_data(forget=0.3, nonmember=10)
    )
    assert len(fits) == 6


# ---------------------------------------------------------------------- the scores


@pytest.mark.slow
@pytest.mark.parametrize("evaluator", [ForgettingQuality, ULiRA, KLOM, LiRA, RMIA])
def test_scores_of_samples_stand_beside_the_results(evaluator: type[ManyModels], tmp_path: Path) -> None:
    ours = evaluator(models=4, retrain_epochs=1, on_error="raise", dirpath=tmp_path)
    quiet_trainer(max_epochs=1, callbacks=[ours]).fit(Retrain(toy_source()), toy_data())
    written = json.loads((tmp_path / f"{ours.name}.json").read_text())
    assert written["details"]["models"] == 4
    assert written["details"]["sources"] == "one"
    with np.load(tmp_path / written["details"]["samples"]) as arrays:
        assert {array.shape[-1] for array in arrays.values()} == {12}
        assert all(np.isfinite(array).all() for array in arrays.values())


def test_the_scores_are_the_functions_of_the_populations() -> None:
    quick: dict[str, Any] = {"models": 5, "retrain_epochs": 1, "on_error": "raise", "controls": False}
    look, quality, attack, margins = Look(**quick), ForgettingQuality(**quick), ULiRA(**quick), KLOM(**quick)
    quiet_trainer(max_epochs=1, callbacks=[look, quality, attack, margins]).fit(
        EUk(toy_source(), k=2), toy_data()
    )
    own, retrained, null = (look.seen[key].confidence["forget"] for key in ("own", "retrained", "null"))
    found, floor = forgetting_quality(own, retrained), forgetting_quality(null, retrained)
    assert quality.results["forgetting_quality/score"] == found.score
    assert quality.results["forgetting_quality/null"] == floor.score
    assert quality.results["forgetting_quality/epsilon_mean"] == pytest.approx(float(found.epsilon.mean()))
    accuracy = {
        name: [float(look.seen[kind].accuracy[name].mean()) for kind in ("own", "retrained")]
        for name in ("retain", "test")
    }
    final = (
        found.score
        * accuracy["retain"][0]
        / accuracy["retain"][1]
        * accuracy["test"][0]
        / accuracy["test"][1]
    )
    assert quality.results["forgetting_quality/final"] == pytest.approx(final)
    rates = u_lira_rates(*u_lira_scores(own, retrained))
    assert {name: attack.results[f"u_lira/{name}"] for name in rates} == pytest.approx(rates)
    assert margins.results["klom/mean"] == pytest.approx(float(klom(own, retrained).mean()))
    assert margins.results["klom/null"] == pytest.approx(float(klom(null, retrained).mean()))
    excess = float(klom(own, retrained).mean() - klom(null, retrained).mean())
    assert margins.results["klom/excess"] == pytest.approx(excess)
    unseen = [look.seen[key].confidence["nonmember"] for key in ("own", "retrained", "null")]
    assert attack.results["u_lira/nonmember"] == u_lira_rates(*u_lira_scores(*unseen[:2]))["auc"]
    assert attack.results["u_lira/difference"] == pytest.approx(
        rates["auc"] - attack.results["u_lira/nonmember"]
    )
    matched = [
        match_confidence(look.seen[key].confidence["forget"], others, unseen[1])
        for key, others in zip(("own", "retrained", "null"), unseen, strict=True)
    ]
    assert attack.results["u_lira/matched"] == u_lira_rates(*u_lira_scores(*matched[:2]))["auc"]
    ours, floor_there = (forgetting_quality(unseen[place], unseen[1]).score for place in (0, 2))
    assert quality.results["forgetting_quality/nonmember"] == pytest.approx(ours / floor_there)
    ours, floor_there = (forgetting_quality(matched[place], matched[1]).score for place in (0, 2))
    assert quality.results["forgetting_quality/matched"] == pytest.approx(ours / floor_there)
    assert quality.details["unseen"] == "nonmember"


def test_no_test_set_leaves_out_what_needs_one() -> None:
    quick: dict[str, Any] = {"models": 4, "retrain_epochs": 1, "on_error": "raise", "controls": False}
    quality, margins = ForgettingQuality(**quick), KLOM(**quick)
    data = toy_data(test_dataset=None, nonmember=0)
    with pytest.warns(UserWarning, match="neither non-members nor a test set"):
        quiet_trainer(max_epochs=1, callbacks=[quality, margins]).fit(Retrain(toy_source()), data)
    assert not {"forgetting_quality/matched", "klom/difference"} & {*quality.results, *margins.results}
    assert "forgetting_quality/final" not in quality.results
    assert "klom/test" not in margins.results
    with pytest.raises(ValueError, match="RMIA needs a test set"):
        quiet_trainer(max_epochs=1, callbacks=[RMIA(**quick)]).fit(
            Retrain(toy_source()), toy_data(test_dataset=None, nonmember=0)
        )


@pytest.mark.slow
def test_retraining_scores_as_the_null_and_the_unchanged_source_does_not() -> None:
    """A source that fits noisy labels: its own samples are known to it, and not to a retrained model."""
    generator = torch.Generator().manual_seed(0)
    from lightning_unlearn.data import TensorData

    def noisy(size: int) -> TensorData:
        return TensorData(
            torch.randn(size, 6, generator=generator), torch.randint(3, (size,), generator=generator)
        )

    def build() -> Classifier:
        net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))
        return Classifier(net, optimizer=partial(torch.optim.Adam, lr=0.02))

    def data() -> UnlearningDataModule:
        return UnlearningDataModule(noisy(120), 0.25, test_dataset=noisy(60), nonmember=20, batch_size=20)

    torch.manual_seed(0)
    quick: dict[str, Any] = {"models": 16, "sources": "many", "retrain_epochs": 25, "on_error": "raise"}
    quality, attack, margins = ForgettingQuality(**quick), ULiRA(**quick), KLOM(**quick)
    quiet_trainer(max_epochs=25, callbacks=[quality, attack, margins]).fit(Retrain(build()), data())
    scores = {**quality.results, **attack.results, **margins.results}
    # three populations of retrained models: 30 samples give F a standard error of about 0.04
    assert scores["forgetting_quality/score"] == pytest.approx(scores["forgetting_quality/null"], abs=0.12)
    assert scores["u_lira/auc"] == pytest.approx(0.5, abs=0.06)
    assert scores["source/forgetting_quality/score"] < 0.5 * scores["forgetting_quality/null"]
    assert scores["source/u_lira/auc"] > 0.8
    assert scores["source/klom/mean"] > 2 * scores["klom/null"]


class Prepared(Classifier):
    """A source whose author downloads something, which Lightning does under a barrier of all processes."""

    def prepare_data(self) -> None:
        pass


MANY = (KLOM, ULiRA, LiRA, RMIA)


def method_scores(**arguments: Any) -> dict[str, float]:
    L.seed_everything(1, verbose=False)
    quick: dict[str, Any] = {"models": 5, "retrain_epochs": 1, "on_error": "raise", "sources": "many"}
    trainer = quiet_trainer(max_epochs=1, callbacks=[evaluator(**quick) for evaluator in MANY], **arguments)
    trainer.fit(EUk(Prepared(Net()), k=2), toy_data(order_seed=3))
    return {
        key: float(value)
        for key, value in trainer.callback_metrics.items()
        if "/" in key and key.split("/")[-2] in {evaluator.default_name for evaluator in MANY}
    }


@pytest.mark.slow
def test_two_processes_make_the_models_of_one() -> None:
    """A source with dropout and batch normalisation: what is drawn must not depend on who draws."""
    one = method_scores()
    assert {"klom/mean", "lira/auc", "source/rmia/auc"} <= one.keys()
    assert method_scores(strategy="ddp_fork", devices=2) == pytest.approx(one, abs=1e-9)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("evaluator", "arguments", "message"),
    [
        (
            ForgettingQuality,
            {"models": 2},
            "models must be at least 3, got 2; ForgettingQuality needs as many",
        ),
        (ULiRA, {"models": 3}, "models must be at least 4, got 3; ULiRA needs as many"),
        (LiRA, {"models": 3, "variance": "per_sample"}, "at least 4, got 3; variance='per_sample'"),
        (KLOM, {"models": 1}, "models must be at least 2"),
        (RMIA, {"models": 1}, "models must be at least 2"),
        (KLOM, {"sources": "some"}, "sources"),
        (KLOM, {"retrain_epochs": 0}, "retrain_epochs"),
        (KLOM, {"bins": 1}, "bins"),
        (ForgettingQuality, {"delta": 1.0}, "delta"),
        (ForgettingQuality, {"thresholds": "few"}, "thresholds"),
        (ForgettingQuality, {"bootstrap": 1}, "bootstrap"),
        (ULiRA, {"bootstrap": 1}, "bootstrap"),
        (LiRA, {"bootstrap": 1}, "bootstrap"),
        (LiRA, {"mode": "shadow"}, "mode"),
        (LiRA, {"variance": "none"}, "variance"),
        (LiRA, {"centre": "mode"}, "centre"),
        (RMIA, {"bootstrap": 1}, "bootstrap"),
        (RMIA, {"gamma": 0.0}, "gamma"),
        (RMIA, {"references": "retrained", "offline": 2.0}, r"offline must lie in \[0, 1\]"),
        (RMIA, {"offline": 0.3}, "take references='retrained'"),
        (RMIA, {"references": "ordinary"}, "references must be"),
    ],
)
def test_bad_arguments_are_refused(
    evaluator: type[ManyModels], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluator(**arguments)


# ---------------------------------------------------------------------- references


def test_lira_knows_its_modes() -> None:
    quick: dict[str, Any] = {"models": 4, "retrain_epochs": 1, "on_error": "raise", "controls": False}
    online, offline = (
        LiRA(**quick, variance="per_sample", centre="mean"),
        LiRA(**quick, mode="offline", name="offline"),
    )
    quiet_trainer(max_epochs=1, callbacks=[online, offline]).fit(Retrain(toy_source()), toy_data())
    assert "lira/accuracy" in online.results
    assert "offline/accuracy" not in offline.results
    assert online.results["lira/auc"] != offline.results["offline/auc"]


THIRTEEN = list(range(0, 39, 3))


class Halves(Look):
    """Keeps the models that are trained on halves of the forget set, and on which."""

    default_name = "halves"

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        super().evaluate(model, audit)
        self.half, self.members = self.half_trained_population(model, audit)
        return {"halves/models": float(self.models)}


def halves(models: int, source: nn.Module | None = None, **arguments: Any) -> Halves:
    look = Halves(models=models, retrain_epochs=1, on_error="raise", controls=False, seed=3, **arguments)
    torch.manual_seed(0)  # of which EU-k draws its layers
    quiet_trainer(max_epochs=1, callbacks=[look]).fit(EUk(source or plain_source(), k=2), toy_data(THIRTEEN))
    return look


def test_half_of_the_references_are_trained_with_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[list[set[int]]] = []

    def spy(recipe: Any, samples: Any, members: Any, **named: Any) -> Any:
        trained.append([set(member.indices.tolist()) for member in members])
        return train_ensemble(recipe, samples, members, **named)

    monkeypatch.setattr(populations_module, "train_ensemble", spy)
    few, more = halves(3, forget := plain_source()), halves(5, forget)
    assert few.members.shape == (6, 13)
    assert few.members.sum(0).tolist() == [3] * 13
    assert few.members.sum(1).tolist() == [6, 7] * 3
    assert len(torch.unique(few.members, dim=0)) == 6, "every pair has halves of its own"
    assert torch.equal(more.members[:6], few.members), "more models are added to those that there are"
    assert torch.equal(more.half.confidence["forget"][:6], few.half.confidence["forget"])
    data = toy_data(THIRTEEN)
    data.setup("fit")
    retain, positions = set(data.split.retain.tolist()), torch.from_numpy(data.split.forget)
    rows = next(found for found in trained if len(found) == 6)
    assert rows == [retain | set(positions[row].tolist()) for row in few.members]


def test_halves_are_chosen_for_a_trainer_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where models cannot be trained as an ensemble, each is fitted alone on its rows; and not again."""
    trained: list[set[int]] = []

    def spy(procedure: Any, source: Any, data: Any, **named: Any) -> Any:
        trained.append(set(data.split.members.tolist()))
        return fit_alone(procedure, source, data, **named)

    monkeypatch.setattr(populations_module, "fit_alone", spy)
    monkeypatch.setattr(populations_module, "ensemble_plan", lambda *_: None)
    source = toy_source()
    look = halves(2, source, cache=tmp_path)
    data = toy_data(THIRTEEN)
    data.setup("fit")
    positions = torch.from_numpy(data.split.forget)
    expected = [{*data.split.retain.tolist(), *positions[row].tolist()} for row in look.members]
    assert trained[-4:] == expected
    assert len(torch.unique(look.half.confidence["forget"], dim=0)) == 4
    trained.clear()
    assert torch.equal(
        halves(2, source, cache=tmp_path).half.confidence["forget"], look.half.confidence["forget"]
    )
    assert not trained


def test_attacks_on_samples_are_the_functions_of_their_references(tmp_path: Path) -> None:
    """LiRA against SciPy, RMIA against its function."""
    from scipy import stats

    quick: dict[str, Any] = {
        "models": 4,
        "retrain_epochs": 1,
        "on_error": "raise",
        "controls": False,
        "seed": 3,
    }
    look, online = Halves(**quick), LiRA(**quick, dirpath=tmp_path, variance="per_sample", centre="mean")
    unlearned = RMIA(**quick, dirpath=tmp_path)
    retrained = RMIA(**quick, dirpath=tmp_path, name="offline", references="retrained", offline=0.5)
    quiet_trainer(max_epochs=1, callbacks=[look, online, unlearned, retrained]).fit(
        EUk(plain_source(), k=2), toy_data()
    )
    known, members = look.half.confidence["forget"].numpy(), look.members.numpy()
    attacked = {"unlearned": look.seen["own"], "retrained": look.seen["null"]}
    with np.load(tmp_path / "lira_samples.npz") as found:
        for name, population in attacked.items():
            phi = population.confidence["forget"].numpy()
            for sample in range(phi.shape[1]):
                density = []
                for chosen in (members[:, sample], ~members[:, sample]):
                    some = known[chosen, sample]
                    density.append(stats.norm.logpdf(phi[:, sample], some.mean(), some.std(ddof=1)))
                np.testing.assert_allclose(
                    found[name][:, sample], density[0] - density[1], rtol=1e-9, atol=1e-9
                )
    ours, theirs = rmia_unlearned_scores(
        *(
            nn.functional.logsigmoid(look.seen[kind].confidence[stream])
            for stream in ("forget", "test")
            for kind in ("own", "retrained")
        )
    )
    with np.load(tmp_path / "rmia_samples.npz") as found:
        assert np.array_equal(found["unlearned"], ours.numpy())
        assert np.array_equal(found["retrained"], theirs.numpy())
    assert (unlearned.details["references"], retrained.details["references"]) == ("unlearned", "retrained")
    assert "offline" not in unlearned.details
    assert retrained.details["offline"] == 0.5
    assert RMIA(references="retrained").offline == 0.3


@pytest.mark.slow
def test_attacks_find_the_source_and_not_the_retrained_model() -> None:
    """Digits with random labels, which only a model that was trained with them knows."""
    from sklearn.datasets import load_digits

    from lightning_unlearn.data import TensorData

    images = torch.from_numpy(load_digits().data[:200]).float() / 16
    labels = torch.randint(10, (200,), generator=torch.Generator().manual_seed(0))
    source = Classifier(
        nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        optimizer=partial(torch.optim.Adam, lr=0.02),
    )
    data = UnlearningDataModule(
        TensorData(images[:120], labels[:120]), 0.25, test_dataset=TensorData(images[120:], labels[120:])
    )
    quick: dict[str, Any] = {"models": 6, "sources": "many", "retrain_epochs": 25, "on_error": "raise"}
    attacks = [LiRA(**quick), RMIA(**quick), RMIA(**quick, references="retrained", name="offline")]
    quiet_trainer(max_epochs=25, callbacks=attacks).fit(Retrain(source), data)
    scores = {name: value for attack in attacks for name, value in attack.results.items()}
    for name in ("lira", "rmia", "offline"):
        assert scores[f"source/{name}/auc"] > 0.85
        assert scores[f"{name}/auc"] == pytest.approx(0.5, abs=0.12)


def test_halves_need_two_samples() -> None:
    lira = LiRA(models=4, retrain_epochs=1, on_error="raise", controls=False)
    with pytest.raises(ValueError, match="at least 2 samples in it, and it has 1"):
        quiet_trainer(max_epochs=1, callbacks=[lira]).fit(Retrain(toy_source()), toy_data([5]))


def test_so_few_models_that_the_attack_is_biased_are_named() -> None:
    with pytest.warns(UserWarning, match=r"models=8: .* 0\.49 with 8"):
        ULiRA(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ULiRA(16)


def test_a_method_that_ends_itself_is_no_fit_that_callbacks_ended() -> None:
    method = ReferenceKL(toy_source(), reference_epochs=1, kl_tolerance=100.0)
    audit = ULiRA(models=4, sources="one", on_error="raise", controls=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*the fit ended after")
        trainer = quiet_trainer(max_epochs=4, callbacks=[audit])
        trainer.fit(method, toy_data(nonmember=10))
    assert trainer.current_epoch < 4
    assert method.ended_itself
