"""What the source has frozen: bit-identical in what is exported, in every method and in every model made beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import CLASSES, FEATURES, PlainData, blobs, quiet_trainer, state, toy_data
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint
from torch import Tensor, nn

from lightning_unlearn.callbacks import ForgettingQuality, MembershipInference, RelearnTime, UnlearningDegree
from lightning_unlearn.methods import (
    WGAN,
    CFk,
    EUk,
    RandomK,
    RandomTopK,
    ReferenceKL,
    Retrain,
    SourceCheckpoint,
    TopK,
    UnlearningModule,
)

RATE = 0.05


class Pretrained(L.LightningModule):
    """A backbone, frozen with the statistics of other data, and a head that is trained."""

    def __init__(self, freeze: bool = True) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone = nn.Sequential(
            nn.Linear(FEATURES, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 8),
            nn.BatchNorm1d(8, affine=False),
        )
        self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES))
        self.backbone.requires_grad_(not freeze)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=RATE)


def pretrained() -> Pretrained:
    torch.manual_seed(0)
    source = Pretrained()
    source.backbone.train()(3 * torch.randn(64, FEATURES) + 1)
    return source


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=RATE)


def still(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)


METHODS: dict[str, Callable[..., UnlearningModule]] = {
    "retrain": Retrain,
    "reference_kl": ReferenceKL,
    "eu_k": lambda source, **a: EUk(source, 4, **a),
    "cf_k": lambda source, **a: CFk(source, 4, **a),
    "top_k": TopK,
    "random_k": lambda source, **a: RandomK(source, 0.5, **a),
    "random_top_k": lambda source, **a: RandomTopK(source, 5, 0.5, **a),
    "selected": lambda source, **a: TopK(source, update="selected", **a),
    "mixed": lambda source, **a: RandomK(source, 0.5, mix=True, **a),
    "wgan": WGAN,
}


def exported(method: UnlearningModule, folder: Path, **trainer: Any) -> Pretrained:
    quiet_trainer(**{"max_epochs": 1, "limit_val_batches": 1, **trainer}).fit(method, toy_data())
    return Pretrained.load_from_checkpoint(method.export(folder / "m.ckpt")).eval()


@pytest.mark.parametrize("name", METHODS)
def test_a_frozen_backbone_is_exported_as_it_was(name: str, tmp_path: Path) -> None:
    source = pretrained()
    before = state(source)
    model = exported(METHODS[name](source, optimizer=adam), tmp_path)
    for key, value in model.state_dict().items():
        if key.startswith("backbone."):
            assert torch.equal(value, before[key]), key
    assert not torch.equal(model.head[0].weight, source.head[0].weight)
    assert [p.requires_grad for p in source.parameters()] == [p.requires_grad for p in model.parameters()]


@pytest.mark.parametrize("name", ["reference_kl", "cf_k", "wgan"])
def test_without_a_step_no_prediction_changes(name: str, tmp_path: Path) -> None:
    source = pretrained()
    x, _ = blobs(40, 5)
    model = exported(METHODS[name](source, optimizer=still), tmp_path)
    assert torch.equal(model(x), source.eval()(x))


@pytest.mark.parametrize("name", ["top_k", "random_k", "random_top_k", "mixed"])
def test_only_trained_weights_are_perturbed_and_counted(name: str, tmp_path: Path) -> None:
    method = METHODS[name](pretrained(), optimizer=still)
    exported(method, tmp_path)
    weights = {name: p.numel() for name, p in method.source.named_parameters() if p.requires_grad}
    assert method.perturbed.keys() <= weights.keys()
    assert method.n_perturbed == (45 if name == "top_k" else round(0.5 * sum(weights.values())))


def test_what_is_taken_for_frozen_is_said_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("lightning_unlearn.methods.base.module.rank_zero_info", said.append)
    quiet_trainer(max_epochs=1).fit(CFk(pretrained(), 2), toy_data())
    quiet_trainer(max_epochs=1).fit(CFk(Pretrained(freeze=False), 2), toy_data())
    (message,) = said
    assert message.startswith("CFk: backbone.0.weight, ")
    assert "frozen=[]" in message


def test_k_counts_trained_tensors() -> None:
    with pytest.raises(
        ValueError, match="k must be from 1 to 4, the trainable parameter tensors of Pretrained, got 5"
    ):
        CFk(pretrained(), 5)
    with pytest.raises(ValueError, match=r"k must lie in \[1, 99\], got 100: Pretrained has 99 weights"):
        TopK(pretrained(), 100)
    with pytest.raises(ValueError, match=r"k must lie in \[1, 4\], .* 4 parameter tensors"):
        TopK(pretrained(), 5, granularity="tensor")


def test_a_source_that_is_frozen_as_a_whole_is_refused() -> None:
    source = pretrained()
    source.freeze()
    with pytest.raises(ValueError, match=r"source: all parameters of Pretrained are frozen.*unfreeze\(\)"):
        ReferenceKL(source)
    for ours in (UnlearningDegree("continue", on_error="raise"), RelearnTime(on_error="raise")):
        ours.source = source
        with pytest.raises(ValueError, match=r"frozen.*unfreeze\(\)"):
            quiet_trainer(max_epochs=1, callbacks=[ours]).fit(CFk(pretrained(), 2), toy_data())
    assert all(p.requires_grad for p in ReferenceKL(source, frozen=[]).model.parameters())
    assert not any(p.requires_grad for p in source.parameters()), "the user's own is left alone"


@pytest.mark.parametrize("names", [["backbone"], ["backbone.*"], ["*.0.weight", "backbone"]])
def test_frozen_says_it_where_the_source_does_not(names: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = Pretrained(freeze=False)
    before = state(source)
    model = exported(Retrain(source, frozen=names), tmp_path)
    kept = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert {name for name in before if name.startswith("backbone.")} <= kept
    assert ("head.0.weight" in kept) == ("*.0.weight" in names)
    assert "head.2.weight" not in kept
    with pytest.raises(
        ValueError, match=r"frozen: Pretrained has no parameter 'back'; it has backbone\.0\.weight"
    ):
        Retrain(source, frozen=["back"])


@pytest.mark.parametrize("strategy", [{}, {"strategy": "ddp_fork", "devices": 2}], ids=["one", "fork"])
@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
def test_what_a_method_froze_is_not_taken_for_pretrained(
    name: str, strategy: dict[str, Any], tmp_path: Path
) -> None:
    source = Pretrained(freeze=False)
    method = METHODS[name](source)
    exported(method, tmp_path, **strategy)
    oracle = Retrain(method.model).model
    assert not torch.equal(oracle.backbone[0].weight, source.backbone[0].weight)
    assert all(p.requires_grad for p in oracle.parameters())


@pytest.mark.parametrize("unfreeze_at", [1, 9])
@pytest.mark.parametrize("freezes", [True, False])
def test_what_finetuning_unfroze_was_trained(unfreeze_at: int, freezes: bool, tmp_path: Path) -> None:
    source = pretrained()
    source.hparams.freeze = freezes
    saver = ModelCheckpoint(tmp_path, save_last=True)
    finetuning = BackboneFinetuning(unfreeze_at, train_bn=False, should_align=False)
    quiet_trainer(max_epochs=3, enable_checkpointing=True, callbacks=[saver, finetuning]).fit(
        source, PlainData()
    )
    saved = SourceCheckpoint(saver.last_model_path, f"{__name__}.Pretrained", {"freeze": freezes}).load()
    trained = unfreeze_at == 1
    assert [layer.weight.requires_grad for layer in saved.backbone[:4] if hasattr(layer, "weight")] == [
        trained,
        True,  # Lightning's callback leaves batch normalisation to be trained
        trained,
    ]
    oracle = Retrain(saved).model
    assert torch.equal(oracle.backbone[0].weight, saved.backbone[0].weight) != trained
    assert all(p.requires_grad for p in saved.head.parameters())


def test_a_frozen_average_of_the_weights_is_no_pretrained_network() -> None:
    class Averaged(Pretrained):
        def __init__(self) -> None:
            super().__init__(freeze=False)
            self.average = nn.ModuleDict(
                {"head": nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES))}
            )
            self.average.requires_grad_(False)

    source = Averaged()
    with torch.no_grad():
        for average, weight in zip(source.average.parameters(), source.head.parameters(), strict=True):
            average.copy_(weight + 0.01 * torch.randn_like(weight))
    oracle = Retrain(source).model
    for name, value in source.average.named_parameters():
        assert not torch.equal(oracle.average.get_parameter(name), value), name


# ---------------------------------------------------------------------- models made beside the unlearned one


def test_models_that_evaluators_train_keep_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shadow models, null controls, fresh models and retrained ones, as they are after their training."""
    import lightning_unlearn.callbacks.base.populations as populations
    import lightning_unlearn.callbacks.membership_inference as membership_inference
    import lightning_unlearn.callbacks.relearn_time as relearn_time
    import lightning_unlearn.callbacks.unlearning_degree as unlearning_degree

    made: dict[str, nn.Module] = {}

    def noted(module: Any, function: str, key: str) -> None:
        original = getattr(module, function)

        def call(model: Any, *arguments: Any, **named: Any) -> Any:
            result = original(model, *arguments, **named)
            made[key] = model
            return result

        monkeypatch.setattr(module, function, call)

    noted(unlearning_degree, "train_classifier", "null")
    noted(populations, "_answers", "retrained")
    original = membership_inference.shadow_models

    def shadows(*arguments: Any, **named: Any) -> Any:
        for shadow in original(*arguments, **named):
            made["shadow"] = shadow
            yield shadow

    monkeypatch.setattr(membership_inference, "shadow_models", shadows)
    real_fresh = relearn_time.fresh_copy
    monkeypatch.setattr(relearn_time, "fresh_copy", lambda m: made.setdefault("fresh", real_fresh(m)))
    source = pretrained()
    before = state(source)
    evaluators = [
        UnlearningDegree("retrain", null_epochs=1, epochs=1, least_steps=0, on_error="raise"),
        MembershipInference("shadow", shadow_epochs=1, on_error="raise"),
        ForgettingQuality(3, retrain_epochs=1, on_error="raise"),
        RelearnTime(3, on_error="raise"),
    ]
    data = toy_data(shadow=0.4)
    quiet_trainer(max_epochs=1, callbacks=evaluators, limit_val_batches=0).fit(Retrain(source), data)
    assert made.keys() == {"null", "shadow", "retrained", "fresh"}
    for kind, model in made.items():
        for name, value in model.state_dict().items():
            assert torch.equal(value.cpu(), before[name]) == name.startswith("backbone."), (kind, name)
