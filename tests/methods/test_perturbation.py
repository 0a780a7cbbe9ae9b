"""Top-K, Random-k and Random-TopK: which weights are perturbed and how, the loss, what moves, and every way to run."""

import pickle
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.toys import (
    CLASSES,
    FEATURES,
    Net,
    PlainModule,
    assert_same_state,
    quiet_trainer,
    state,
    toy_data,
    toy_source,
)
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, softmax
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_unlearn.data import Digits, UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods.base.perturbation import Perturbation
from lightning_unlearn.methods.random_k import RandomK
from lightning_unlearn.methods.random_top_k import RandomTopK
from lightning_unlearn.methods.top_k import TopK
from lightning_unlearn.models import MLP, ResNet8

# what the harnesses run it with, by purpose; see settings_of() in helpers/support.py
SETTINGS = {
    "TopK": {"quick": {"k": 9}, "forgets": {"k": 20, "lambda_": 2.0}},
    "RandomK": {"forgets": {"lambda_": 2.0}},
    "RandomTopK": {"quick": {"k": 5, "fraction": 0.2}, "forgets": {"k": 20, "lambda_": 2.0}},
}

METHODS = {
    "top_k": lambda source, **kw: TopK(source, 9, **{"epsilon": 0.5, **kw}),
    "random_k": lambda source, **kw: RandomK(source, 0.2, **{"epsilon": 0.5, **kw}),
    "random_k_mixed": lambda source, **kw: RandomK(source, 0.2, **{"epsilon": 0.5, "mix": True, **kw}),
    "random_top_k": lambda source, **kw: RandomTopK(source, 9, 0.2, **{"epsilon": 0.5, **kw}),
    "selected": lambda source, **kw: TopK(source, 9, **{"epsilon": 0.5, "update": "selected", **kw}),
}
NET_WEIGHTS = 99  # of toys.Net


def standing(parameters: Any) -> torch.optim.Optimizer:
    """An optimizer that moves nothing, so that fit ends in the perturbed weights."""
    return torch.optim.SGD(parameters, lr=0.0)


def perturbed_by(build: Any, source: nn.Module, data: Any = None, **arguments: Any) -> Perturbation:
    method: Perturbation = build(source, optimizer=standing, **arguments)
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, data or toy_data())
    return method


def flat(named: Any) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().reshape(-1).copy() for name, value in named}


def set_up(data: UnlearningDataModule) -> UnlearningDataModule:
    data.setup("fit")
    return data


# ---------------------------------------------------------------------- which weights


def brute_force(source: nn.Module, data: UnlearningDataModule, stream: str, kind: str) -> dict[str, Tensor]:
    """Mean over samples of the magnitude of each sample's own gradient, one backward pass a sample."""
    model = source.eval()
    totals = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    samples = [(x, y) for xs, ys in data.loader(stream) for x, y in zip(xs, ys, strict=True)]
    for x, y in samples:
        logits = model(x[None])
        value = nn.functional.cross_entropy(logits, y[None]) if kind == "loss" else logits.square().sum()
        for name, gradient in zip(totals, torch.autograd.grad(value, list(model.parameters())), strict=True):
            totals[name] += gradient.abs()
    return {name: total / len(samples) for name, total in totals.items()}


@pytest.mark.parametrize("stream", ["forget", "retain", "train"])
@pytest.mark.parametrize("kind", ["loss", "output_norm"])
def test_sensitivity_is_the_mean_magnitude_of_each_samples_gradient(stream: Any, kind: Any) -> None:
    data = set_up(toy_data())
    method = TopK(toy_source(), sensitivity=kind, sensitivity_stream=stream, sensitivity_samples=None)
    measured = method.sensitivities(data, Runtime())
    expected = brute_force(toy_source(), data, stream, kind)
    assert measured.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(measured[name], expected[name], rtol=1e-4, atol=1e-7)
    assert method.model.training, "measuring must leave the mode as it was"


def test_sensitivity_of_batches_is_the_magnitude_of_their_mean_gradient() -> None:
    data = set_up(toy_data(batch_size=7))
    source = toy_source()
    method = TopK(source, sensitivity_per_sample=False, sensitivity_stream="forget", sensitivity_samples=None)
    measured = method.sensitivities(data, Runtime())
    source.eval()
    expected = [torch.zeros_like(p) for p in source.parameters()]
    for x, y in data.loader("forget"):
        value = nn.functional.cross_entropy(source(x), y)
        for total, gradient in zip(
            expected, torch.autograd.grad(value, list(source.parameters())), strict=True
        ):
            total += gradient.abs() * len(x) / 12
    for name, value in zip(measured, expected, strict=True):
        torch.testing.assert_close(measured[name], value, rtol=1e-4, atol=1e-7)


def test_fewer_samples_are_a_reproducible_choice() -> None:
    def measure(samples: int | None, **arguments: Any) -> dict[str, Tensor]:
        return TopK(toy_source(), sensitivity_samples=samples).sensitivities(
            set_up(toy_data(**arguments)), Runtime()
        )

    few, again, other, whole = measure(5), measure(5), measure(5, order_seed=7), measure(None)
    assert_same_state(few, again)
    for different in (other, whole):
        assert not torch.equal(few["net.0.weight"], different["net.0.weight"])
    assert_same_state(measure(10_000), whole)  # no more than there are


@pytest.mark.parametrize("k", [1, 9, NET_WEIGHTS])
def test_top_k_are_the_largest_of_all_weights(k: int) -> None:
    data = set_up(toy_data())
    method = perturbed_by(
        lambda s, **kw: TopK(s, k, epsilon=0.5, sensitivity_samples=None, **kw), toy_source()
    )
    values = brute_force(toy_source(), data, "train", "loss")
    ranked = sorted(
        ((float(v), n, i) for n, t in values.items() for i, v in enumerate(t.reshape(-1))), reverse=True
    )
    chosen = {(name, int(i)) for name, positions in method.perturbed.items() for i in positions}
    assert len(chosen) == method.n_perturbed == k
    smallest = min(float(values[name].reshape(-1)[i]) for name, i in chosen)
    # rounding may exchange two that are as good as equal
    assert smallest == pytest.approx(ranked[k - 1][0], rel=1e-4, abs=1e-9)


def test_by_tensor_the_k_tensors_of_largest_gradient_norm_are_chosen_whole() -> None:
    data = set_up(toy_data())
    source = toy_source()
    method = perturbed_by(
        lambda s, **kw: TopK(s, 2, epsilon=0.5, granularity="tensor", sensitivity_samples=None, **kw), source
    )
    model, norms = toy_source().eval(), dict.fromkeys(dict(source.named_parameters()), 0.0)
    for xs, ys in data.loader("train"):
        for x, y in zip(xs, ys, strict=True):
            value = nn.functional.cross_entropy(model(x[None]), y[None])
            for name, gradient in zip(
                norms, torch.autograd.grad(value, list(model.parameters())), strict=True
            ):
                norms[name] += float(gradient.norm())
    top = set(sorted(norms, key=norms.__getitem__)[-2:])
    for name, parameter in source.named_parameters():
        assert method.perturbed[name].tolist() == (list(range(parameter.numel())) if name in top else [])


def test_random_k_has_the_exact_count_and_follows_the_seed() -> None:
    methods = [
        perturbed_by(METHODS["random_k"], toy_source(), toy_data(order_seed=seed)) for seed in (0, 0, 1)
    ]
    for method in methods:
        assert method.n_perturbed == round(0.2 * NET_WEIGHTS)
    first, again, other = (state(method.model) for method in methods)
    for name in dict(methods[0].model.named_parameters()):
        assert torch.equal(first[name], again[name])
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(("granularity", "k"), [("scalar", 9), ("tensor", 1)])
def test_random_top_k_is_random_k_with_the_top_k_in_it(granularity: Any, k: int) -> None:
    def built(kind: Any, *args: Any, **kw: Any) -> Perturbation:
        return perturbed_by(lambda s, **more: kind(s, *args, epsilon=0.5, **kw, **more), toy_source())

    fraction = 0.6
    random = built(RandomK, fraction)
    top = built(TopK, k, granularity=granularity)
    both = built(RandomTopK, k, fraction, granularity=granularity)
    assert both.n_perturbed == random.n_perturbed == round(fraction * NET_WEIGHTS)
    for name, positions in both.perturbed.items():
        found, must = set(positions.tolist()), set(top.perturbed[name].tolist())
        assert must <= found <= must | set(random.perturbed[name].tolist())


# ---------------------------------------------------------------------- how they are perturbed


@pytest.mark.parametrize("name", ["top_k", "random_k", "random_top_k"])
@pytest.mark.parametrize("epsilon", [0.5, -2.0])
def test_exactly_the_chosen_weights_are_scaled(name: str, epsilon: float) -> None:
    source = toy_source()
    method = perturbed_by(METHODS[name], source, epsilon=epsilon)
    assert method.n_perturbed
    after = flat(method.model.named_parameters())
    for key, value in flat(source.named_parameters()).items():
        value[method.perturbed[key].numpy()] *= np.float32(1 + epsilon)
        np.testing.assert_allclose(after[key], value, rtol=1e-6)
        untouched = np.setdiff1d(np.arange(value.size), method.perturbed[key].numpy())
        np.testing.assert_array_equal(after[key][untouched], value[untouched])


def test_mixing_is_a_convex_combination_with_another_chosen_weight() -> None:
    source = toy_source()
    method = perturbed_by(METHODS["random_k_mixed"], source, epsilon=0.25)
    before, after = flat(source.named_parameters()), flat(method.model.named_parameters())
    old = np.concatenate([before[n][p.numpy()] for n, p in method.perturbed.items()])
    new = np.concatenate([after[n][p.numpy()] for n, p in method.perturbed.items()])
    partners = (new - 0.75 * old) / 0.25
    np.testing.assert_allclose(np.sort(partners), np.sort(old), atol=1e-5)
    for key in before:
        untouched = np.setdiff1d(np.arange(before[key].size), method.perturbed[key].numpy())
        np.testing.assert_array_equal(after[key][untouched], before[key][untouched])


def test_the_count_is_reported(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    trainer = quiet_trainer(max_epochs=1, logger=logger)
    trainer.fit(METHODS["random_k"](toy_source()), toy_data())
    assert float(trainer.callback_metrics["perturbed_parameters"]) == 20
    rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert "20.0" in [row.split(",")[rows[0].split(",").index("perturbed_parameters")] for row in rows[1:]]


# ---------------------------------------------------------------------- fine-tuning


class Steps(L.Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, Any], dict[str, Tensor]]] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append((batch, state(module.model)))

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(FEATURES, CLASSES)


@pytest.mark.parametrize("lambda_", [0.1, 3.0])
@pytest.mark.parametrize("teacher", [None, 1])
@pytest.mark.parametrize("augmented", [False, True])
def test_the_loss_is_equation_10_with_its_sign_restored(
    lambda_: float, teacher: Any, augmented: bool
) -> None:
    source = linear(0)
    taught_by = source if teacher is None else linear(teacher)
    data = toy_data()
    if augmented:  # then the teacher must be asked about what the model sees
        data.inner.augment = lambda x, generator: x + 1  # type: ignore[union-attr]
    spy = Steps()
    method = RandomK(
        source, 0.3, epsilon=3.0, lambda_=lambda_, teacher="source" if teacher is None else taught_by
    )
    quiet_trainer(max_epochs=1, callbacks=[spy], limit_val_batches=0).fit(method, data)
    assert len(spy.losses) == 6
    for (batch, weights), loss in zip(spy.seen, spy.losses, strict=True):

        def logits(x: Tensor, w: dict[str, Tensor]) -> np.ndarray:
            return x.double().numpy() @ w["weight"].double().numpy().T + w["bias"].double().numpy()

        forget, (retain, targets) = batch["forget"].batch[0], batch["retain"]
        p, q = (softmax(logits(forget, w), axis=1) for w in (weights, taught_by.state_dict()))
        js = np.mean([jensenshannon(a, b, base=2) ** 2 for a, b in zip(p, q, strict=True)])
        ce = -log_softmax(logits(retain, weights), axis=1)[np.arange(len(targets)), targets].mean()
        assert loss == pytest.approx(ce + lambda_ * js, rel=1e-5)


def test_without_the_js_term_the_forget_set_is_not_read() -> None:
    spy, teacher = Steps(), Counting(FEATURES, CLASSES)
    Counting.calls = 0
    method = RandomK(linear(0), 0.3, lambda_=0.0, teacher=teacher)
    quiet_trainer(max_epochs=1, callbacks=[spy], limit_val_batches=0).fit(method, toy_data())
    assert Counting.calls == 0
    for (batch, weights), loss in zip(spy.seen, spy.losses, strict=True):
        assert list(batch) == ["retain"]
        inputs, targets = batch["retain"]
        expected = nn.functional.cross_entropy(inputs @ weights["weight"].T + weights["bias"], targets)
        assert loss == pytest.approx(float(expected), rel=1e-5)
    assert RandomK(linear(0), 0.3, lambda_=0.0, similarity_threshold=0.9).streams == ("forget", "retain")


class Counting(nn.Linear):
    """Counts how often it is asked."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return super().forward(x)


@pytest.mark.parametrize(("augmented", "calls"), [(False, 2), (True, 12)])
def test_the_teacher_is_asked_once_or_at_every_step(augmented: bool, calls: int) -> None:
    data = toy_data(batch_size=8)
    if augmented:
        data.inner.augment = lambda x, generator: x  # type: ignore[union-attr]
    Counting.calls = 0
    method = RandomK(linear(0), 0.3, teacher=Counting(FEATURES, CLASSES))
    quiet_trainer(max_epochs=2, limit_val_batches=0).fit(method, data)
    assert Counting.calls == calls


class Decay(torch.optim.AdamW):
    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.05, weight_decay=0.1)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1},
        {"precision": "bf16-mixed"},
        {"plugins": [MixedPrecision("16-mixed", "cpu")]},
    ],
    ids=["plain", "accumulated", "bf16", "scaled"],
)
def test_selected_update_moves_the_perturbed_weights_and_no_other_number(arguments: dict[str, Any]) -> None:
    source = toy_source()
    method = METHODS["selected"](source, optimizer=Decay)
    quiet_trainer(max_epochs=3, **arguments).fit(method, toy_data())
    start = perturbed_by(METHODS["selected"], source).model.state_dict()
    old, new = source.state_dict(), method.model.state_dict()
    for name in old:  # buffers too
        changed = (old[name] != new[name]).reshape(-1).nonzero().squeeze(1)
        assert changed.tolist() == method.perturbed.get(name, torch.empty(0)).tolist(), name
    moved = sum(int((start[name] != new[name]).sum()) for name in method.perturbed)
    assert moved == method.n_perturbed, "fine-tuning must move them from where the perturbation put them"


def test_selected_update_sees_only_its_own_gradients() -> None:
    """Clipping by norm must not shrink the step because of gradients that are not used."""
    source = linear(0)
    method = TopK(
        source, 1, epsilon=0.5, update="selected", optimizer=lambda p: torch.optim.SGD(p, lr=1.0), lambda_=0.0
    )
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0, gradient_clip_val=1e-3)
    trainer.fit(method, toy_data())
    before, after = dict(source.named_parameters()), dict(method.model.named_parameters())
    ((name, positions),) = [(n, p) for n, p in method.perturbed.items() if len(p)]
    step = after[name].reshape(-1)[positions] - 1.5 * before[name].reshape(-1)[positions]
    assert abs(float(step.detach())) == pytest.approx(1e-3, rel=1e-2)


def test_all_weights_move_otherwise() -> None:
    source = toy_source()
    method = METHODS["top_k"](source)
    quiet_trainer().fit(method, toy_data())
    for name, value in source.named_parameters():
        assert not torch.equal(method.model.get_parameter(name), value)


@pytest.mark.parametrize("augmented", [False, True])
def test_it_stops_when_the_similarity_is_reached(augmented: bool) -> None:
    def run(threshold: float | None, teacher: Any) -> L.Trainer:
        data = toy_data()
        if augmented:
            data.inner.augment = lambda x, generator: x  # type: ignore[union-attr]
        method = RandomK(
            linear(0), 0.1, epsilon=0.01, similarity_threshold=threshold, teacher=teacher, optimizer=standing
        )
        trainer = quiet_trainer(max_epochs=3)
        trainer.fit(method, data)
        return trainer

    stopped = run(0.99, "source")
    assert stopped.current_epoch == 1
    assert run(None, "source").current_epoch == 3
    other = run(0.99, linear(1))
    assert other.current_epoch == 3
    data = set_up(toy_data())
    x = torch.cat([xs for xs, _ in data.loader("forget")])
    p, q = (linear(seed)(x).softmax(1).detach().double().numpy() for seed in (0, 1))
    js = np.mean([jensenshannon(a, b, base=2) ** 2 for a, b in zip(p, q, strict=True)])
    # epsilon is small, so the model is the source but for rounding of this size
    assert float(other.callback_metrics["train/similarity"]) == pytest.approx(1 - js, abs=0.005)


@pytest.mark.parametrize(("epoch", "steps"), [("retain", 6), ("forget", 2)])
def test_an_epoch_is_a_pass_over_the_set_that_was_asked_for(epoch: Any, steps: int) -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(METHODS["random_k"](toy_source(), epoch=epoch), toy_data())
    assert trainer.global_step == steps


def test_a_source_in_evaluation_mode_is_trained_in_training_mode() -> None:
    source = toy_source().eval()
    for update, expected in (("all", True), ("selected", False)):
        method = METHODS["top_k"](source, update=update)
        assert method.model.training
        assert method.model.net[1].training == expected, "batch normalisation"
        assert method.model.net[3].training, "dropout"
    assert not source.training


# ---------------------------------------------------------------------- every way to run


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "arguments",
    [
        {"precision": "bf16-mixed"},
        {"plugins": [MixedPrecision("16-mixed", "cpu")]},
        {"accumulate_grad_batches": 2},
        {"precision": "bf16-true"},
    ],
    ids=["bf16", "scaled", "accumulated", "bf16-true"],
)
def test_it_runs_in_every_precision(name: str, arguments: dict[str, Any]) -> None:
    source = toy_source()
    method = METHODS[name](source)
    trainer = quiet_trainer(**arguments)
    trainer.fit(method, toy_data())
    assert float(trainer.callback_metrics["perturbed_parameters"]) == method.n_perturbed
    assert method.model.net[0].weight.isfinite().all()
    assert not torch.equal(method.model.net[0].weight.float(), source.net[0].weight)


class SameOnAllRanks(L.Callback):
    """Perturbing happens after DDP has made the ranks alike, so nothing would repair a difference."""

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        assert trainer.world_size == 2
        for parameter in module.model.parameters():
            first, second = gather_all_tensors(parameter.detach())
            assert torch.equal(first, second), "the ranks start from different weights"


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_perturb_what_one_does(name: str) -> None:
    one = perturbed_by(METHODS[name], toy_source())
    two = METHODS[name](toy_source(), optimizer=standing)
    quiet_trainer(max_epochs=1, strategy="ddp_fork", devices=2, callbacks=[SameOnAllRanks()]).fit(
        two, toy_data()
    )
    for key, value in one.model.named_parameters():
        assert torch.equal(two.model.get_parameter(key), value), key


class Measure(L.Callback):
    """Compares sensitivities measured by all ranks together with those of one process."""

    def __init__(self, expected: dict[str, Tensor]) -> None:
        self.expected = expected

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        measured = module.sensitivities(module.data, Runtime(trainer))
        for name, value in self.expected.items():
            torch.testing.assert_close(measured[name], value, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("samples", "processes"), [(2, 3), (None, 2)])
def test_every_sample_counts_once_in_several_processes(samples: int | None, processes: int) -> None:
    """Two samples for three ranks: one is served twice."""
    method = METHODS["top_k"](toy_source(), sensitivity_samples=samples)
    expected = method.sensitivities(set_up(toy_data()), Runtime())
    trainer = quiet_trainer(
        max_epochs=1, strategy="ddp_fork", devices=processes, callbacks=[Measure(expected)]
    )
    trainer.fit(method, toy_data())


def test_selected_update_holds_in_two_processes() -> None:
    source = toy_source()
    method = METHODS["selected"](source, optimizer=Decay)
    trainer = quiet_trainer(strategy="ddp_fork", devices=2)
    trainer.fit(method, toy_data())
    changed = sum(int((method.model.state_dict()[n] != v).sum()) for n, v in source.state_dict().items())
    assert changed == 9 == float(trainer.callback_metrics["perturbed_parameters"])


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_ends_in_the_same_weights(name: str, tmp_path: Path) -> None:
    def run(ckpt_path: str | None = None) -> Perturbation:
        method: Perturbation = METHODS[name](toy_source(), similarity_threshold=1.0, teacher=toy_source(1))
        keep = ModelCheckpoint(tmp_path / str(ckpt_path is None), save_top_k=-1, every_n_train_steps=4)
        torch.manual_seed(5 if ckpt_path is None else 6)
        quiet_trainer(callbacks=[keep], enable_checkpointing=True).fit(
            method, toy_data(), ckpt_path=ckpt_path
        )
        return method

    whole = run()
    middle = str(tmp_path / "True" / "epoch=0-step=4.ckpt")
    content = torch.load(middle, weights_only=True)
    assert not [key for key in content["state_dict"] if not key.startswith("model.")]
    resumed = run(middle)
    assert_same_state(state(resumed.model), state(whole.model))
    assert_same_state(resumed.perturbed, whole.perturbed)


@pytest.mark.parametrize("name", METHODS)
def test_export_holds_the_weights_alone(name: str, tmp_path: Path) -> None:
    method = METHODS[name](PlainModule())
    quiet_trainer(max_epochs=1).fit(method, toy_data())
    content = torch.load(method.export(tmp_path / "unlearned.ckpt"), weights_only=True)
    assert content["state_dict"].keys() == PlainModule().state_dict().keys()
    assert not any("perturbed" in str(key) for key in content)
    assert_same_state(
        state(PlainModule.load_from_checkpoint(tmp_path / "unlearned.ckpt")), state(method.model)
    )


@pytest.mark.parametrize("name", METHODS)
def test_it_can_be_pickled_before_and_after_fit(name: str) -> None:
    method = pickle.loads(pickle.dumps(METHODS[name](toy_source())))
    quiet_trainer(max_epochs=1).fit(method, toy_data())
    method.trainer = None
    again = pickle.loads(pickle.dumps(method))
    assert_same_state(again.perturbed, method.perturbed)


@pytest.mark.parametrize("kind", [TopK, RandomK, RandomTopK])
@pytest.mark.parametrize("network", [lambda: MLP(64, (32,), 10), lambda: ResNet8(10, in_channels=1, width=4)])
def test_digits_with_the_defaults(kind: Any, network: Any) -> None:
    arguments = {"fraction": 0.2} if kind is RandomTopK else {}
    method = kind(network(), **arguments)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=3, limit_val_batches=1)
    trainer.fit(method, UnlearningDataModule(Digits(batch_size=32), 0.1))
    assert method.n_perturbed
    assert "accuracy/forget" in trainer.callback_metrics


class Branching(nn.Module):
    """Looks at the values of a batch, which cannot be batched over samples."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x if float(x.sum()) > 0 else x * 2)


def test_models_that_vmap_cannot_batch_are_asked_one_by_one() -> None:
    with pytest.warns(UserWarning, match="one sample at a time"):
        assert perturbed_by(METHODS["top_k"], Branching()).n_perturbed == 9
    assert perturbed_by(METHODS["top_k"], Branching(), sensitivity_per_sample=False).n_perturbed == 9


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (TopK, {"k": 0}, r"k must lie in \[1, 99\], got 0: Net has 99 weights"),
        (TopK, {"k": 100}, r"k must lie in \[1, 99\], got 100: Net has 99 weights"),
        (
            TopK,
            {"k": 7, "granularity": "tensor"},
            r"k must lie in \[1, 6\], got 7: Net has 6 parameter tensors",
        ),
        (TopK, {"k": 5, "epsilon": 0.0}, "epsilon must be finite and not 0, got 0.0"),
        (TopK, {"k": 5, "epsilon": float("nan")}, "epsilon must be finite"),
        (TopK, {"k": 5, "lambda_": -1.0}, "lambda_ must be at least 0, got -1.0"),
        (
            TopK,
            {"k": 5, "sensitivity": "fisher"},
            "sensitivity must be one of 'loss', 'output_norm', got 'fisher'",
        ),
        (TopK, {"k": 5, "sensitivity_stream": "test"}, "sensitivity_stream must be one of .* got 'test'"),
        (TopK, {"k": 5, "sensitivity_samples": 0}, "sensitivity_samples must be at least 1, got 0"),
        (
            TopK,
            {"k": 5, "granularity": "layer"},
            "granularity must be one of 'scalar', 'tensor', got 'layer'",
        ),
        (TopK, {"k": 5, "update": "some"}, "update must be one of 'all', 'selected', got 'some'"),
        (TopK, {"k": 5, "epoch": "train"}, "epoch must be one of 'retain', 'forget', got 'train'"),
        (TopK, {"k": 5, "similarity_threshold": 1.5}, r"similarity_threshold must lie in \(0, 1\], got 1.5"),
        (RandomK, {"fraction": 0.0}, r"fraction must lie in \(0, 1\]"),
        (RandomK, {"fraction": 0.001}, "choose at least one of 99 weights, got 0.001"),
        (RandomK, {"epsilon": 2.0, "mix": True}, r"epsilon must lie in \(0, 1\] with mix, got 2.0"),
        (RandomTopK, {"k": 45}, "k=45 weights are more than the 5 that fraction=0.05 perturbs"),
    ],
)
def test_arguments_outside_their_range_are_refused(
    kind: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(Net(), **arguments)


def test_tensors_that_do_not_fit_into_the_fraction_are_refused() -> None:
    with pytest.raises(ValueError, match=r"k=6 tensors of 99 weights are more than the 20"):
        perturbed_by(lambda s, **kw: RandomTopK(s, 6, 0.2, granularity="tensor", **kw), toy_source())


def test_k_must_be_an_integer() -> None:
    for k in (4.0, True):
        with pytest.raises(TypeError, match="k must be an integer"):
            TopK(Net(), k)  # type: ignore[arg-type]


def test_a_method_of_ones_own_must_select() -> None:
    with pytest.raises(NotImplementedError, match="must define select"):
        perturbed_by(lambda s, **kw: Perturbation(s, epsilon=0.1, **kw), toy_source())


def test_gradients_are_measured_once_a_step(tmp_path: Path) -> None:
    norms: list[Any] = []

    class Noting(RandomK):
        def log(self, name: str, value: Any, *arguments: Any, **options: Any) -> None:
            norms.extend([value] if name == "train/gradient_norm" else [])
            super().log(name, value, *arguments, **options)

    trainer = quiet_trainer(logger=CSVLogger(tmp_path), log_every_n_steps=1, limit_val_batches=0)
    trainer.fit(Noting(toy_source()), toy_data())
    assert len(norms) == trainer.global_step
