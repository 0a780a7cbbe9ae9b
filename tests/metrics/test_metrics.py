"""Every metric against numpy and scipy on all data at once, however it was cut up, spread or rounded."""

import copy
import inspect
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax
from scipy.stats import entropy
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

import lightning_unlearn.metrics as package
from lightning_unlearn.metrics import (
    ActivationDistance,
    Confidence,
    ForgettingRate,
    KLDistance,
    MemoryRetentionRate,
    PredictiveEntropy,
    Similarity,
    WeightDistance,
)
from lightning_unlearn.metrics._base import SampleMean

BATCH_SIZES = (5, 1, 16, 3)
CLASSES = 4


@dataclass(frozen=True)
class Case:
    """A metric, how to call it on one batch of the data below, and its value on all of it by numpy."""

    metric: type[Metric]
    arguments: Callable[[dict[str, Tensor]], list[tuple[Any, ...]]]
    expected: Callable[[dict[str, np.ndarray]], float]


def data() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    n = sum(BATCH_SIZES)
    result = {
        name: 2 * torch.randn(n, CLASSES, generator=generator)
        for name in ("source", "model", "retrained", "retain")
    }
    for name in ("targets", "retain_targets"):
        result[name] = torch.randint(CLASSES, (n,), generator=generator)
    result["source"][torch.arange(n), result["targets"]] += (
        3  # a source model that knows most of its training data
    )
    return result


def batches() -> list[dict[str, Tensor]]:
    parts = {name: value.split(list(BATCH_SIZES)) for name, value in data().items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(BATCH_SIZES))]


def accuracy(logits: np.ndarray, targets: np.ndarray) -> float:
    return float((logits.argmax(-1) == targets).mean())


def forgetting_rate(d: dict[str, np.ndarray]) -> float:
    before, after = accuracy(d["source"], d["targets"]), accuracy(d["model"], d["targets"])
    return (before - after) / before


def p(logits: np.ndarray) -> np.ndarray:
    return softmax(logits.astype(np.float64), axis=-1)


def retention_arguments(b: dict[str, Tensor]) -> list[tuple[Any, ...]]:
    # The forget set has fewer samples than the retain set: the first of each batch only.
    return [(b["retain"], b["retain_targets"], "retain"), (b["source"][:1], b["targets"][:1], "forget")]


def retention_rate(d: dict[str, np.ndarray]) -> float:
    first = np.cumsum([0, *BATCH_SIZES[:-1]])
    return accuracy(d["retain"], d["retain_targets"]) / accuracy(d["source"][first], d["targets"][first])


CASES = [
    Case(ForgettingRate, lambda b: [(b["source"], b["model"], b["targets"])], forgetting_rate),
    Case(MemoryRetentionRate, retention_arguments, retention_rate),
    Case(
        Similarity,
        lambda b: [(b["model"], b["retrained"])],
        lambda d: float(1 - (jensenshannon(p(d["model"]), p(d["retrained"]), base=2, axis=-1) ** 2).mean()),
    ),
    Case(
        KLDistance,
        lambda b: [(b["model"], b["retrained"])],
        lambda d: float(rel_entr(p(d["retrained"]), p(d["model"])).sum(-1).mean()),
    ),
    Case(
        ActivationDistance,
        lambda b: [(b["model"], b["retrained"])],
        lambda d: float(np.linalg.norm(p(d["model"]) - p(d["retrained"]), axis=-1).mean()),
    ),
    Case(
        PredictiveEntropy, lambda b: [(b["model"],)], lambda d: float(entropy(p(d["model"]), axis=-1).mean())
    ),
    Case(Confidence, lambda b: [(b["model"],)], lambda d: float(p(d["model"]).max(-1).mean())),
]
per_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.metric.__name__)


def expected(case: Case) -> float:
    return case.expected({name: value.numpy() for name, value in data().items()})


def feed(
    metric: Metric, case: Case, parts: list[dict[str, Tensor]], dtype: torch.dtype | None = None
) -> Metric:
    for batch in parts:
        for arguments in case.arguments(batch):
            cast = [
                a.to(dtype) if dtype and isinstance(a, Tensor) and a.is_floating_point() else a
                for a in arguments
            ]
            metric.update(*cast)
    return metric


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return tuple(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)) for _ in range(2))


def test_every_metric_of_the_package_is_tested():
    elsewhere = [
        "Acceleration",
        "DeclaredMetric",
        "RelearnTime",
        "WeightDistance",
    ]  # no means over samples; tested by themselves
    assert sorted(package.__all__) == sorted([*(case.metric.__name__ for case in CASES), *elsewhere])


@per_case
def test_value_matches_the_reference_for_uneven_batches(case):
    assert feed(case.metric(), case, batches()).compute().item() == pytest.approx(expected(case), rel=1e-5)


@per_case
def test_value_does_not_depend_on_the_batches(case):
    whole = data()
    if case.metric is MemoryRetentionRate:
        metric = case.metric()
        first = np.cumsum([0, *BATCH_SIZES[:-1]])
        metric.update(whole["retain"], whole["retain_targets"], "retain")
        metric.update(whole["source"][first], whole["targets"][first], "forget")
    else:
        metric = feed(case.metric(), case, [whole])
    assert metric.compute().item() == pytest.approx(expected(case), rel=1e-5)


def _rank(rank: int, folder: Path) -> None:
    """One of two processes: rank 1 sees a single batch of a single sample, rank 0 all others."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    try:
        mine = [b for i, b in enumerate(batches()) if (i == 1) == (rank == 1)]
        values = {case.metric.__name__: feed(case.metric(), case, mine).compute().item() for case in CASES}
        nothing_on_rank_1 = Similarity()
        if rank == 0:
            feed(nothing_on_rank_1, CASES[2], batches())
        values["nothing_on_rank_1"] = nothing_on_rank_1.compute().item()
        weights = WeightDistance()
        weights.update(*networks())
        values["WeightDistance"] = weights.compute().item()
        torch.save(values, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_with_different_counts_agree_with_the_reference(tmp_path):
    # Forked, because a spawned process spends seconds on imports; one thread each, because a forked one has
    # no pool.
    mp.start_processes(_rank, args=(tmp_path,), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first == second
    for case in CASES:
        assert first[case.metric.__name__] == pytest.approx(expected(case), rel=1e-5), case.metric.__name__
    assert first["nothing_on_rank_1"] == pytest.approx(expected(CASES[2]), rel=1e-5)
    alone = WeightDistance()
    alone.update(*networks())
    assert first["WeightDistance"] == pytest.approx(alone.compute().item())


@per_case
def test_pickling_cloning_and_reset(case):
    metric = feed(case.metric(), case, batches())
    value = metric.compute()
    assert pickle.loads(pickle.dumps(metric)).compute() == value
    assert copy.deepcopy(metric).compute() == value
    assert metric.clone().compute() == value
    half = feed(pickle.loads(pickle.dumps(feed(case.metric(), case, batches()[:2]))), case, batches()[2:])
    assert half.compute().item() == pytest.approx(value.item())
    assert metric.state_dict() == {}  # a checkpoint holds nothing of the samples
    metric.reset()
    with (
        pytest.raises(ValueError, match=f"{case.metric.__name__} has seen no sample"),
        pytest.warns(UserWarning, match="was called before the ``update``"),
    ):
        metric.compute()


def test_a_long_sum_loses_nothing():
    """float32 alone would stay at 2 to the 24th: one more is rounded away."""

    class Values(SampleMean):
        def update(self, values):
            self.accumulate(values)

    metric = Values()
    metric.update(torch.tensor([2.0**24]))
    for _ in range(1000):
        metric.update(torch.ones(1))
    total = float(metric.total.double() + metric.lost.double())
    assert total == 2**24 + 1000
    assert metric.compute().item() == pytest.approx(total / 1001, rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@per_case
def test_half_precision_logits(case, dtype):
    metric = feed(case.metric(), case, batches(), dtype)
    rounded = {n: v.to(dtype).float() if v.is_floating_point() else v for n, v in data().items()}
    exact = case.expected({name: value.numpy() for name, value in rounded.items()})
    assert metric.compute().dtype == torch.float32
    assert metric.compute().item() == pytest.approx(exact, rel=1e-5)


@per_case
def test_a_module_converted_to_half_precision_still_sums_in_float32(case):
    metric = case.metric().to(torch.bfloat16)
    for state in metric._defaults:
        assert getattr(metric, state).dtype in (torch.float32, torch.int64)
    metric.reset()
    for state in metric._defaults:
        assert getattr(metric, state).dtype in (torch.float32, torch.int64)
    for _ in range(40):
        feed(metric, case, batches(), torch.bfloat16)
    rounded = {n: v.bfloat16().float() if v.is_floating_point() else v for n, v in data().items()}
    exact = case.expected({name: value.numpy() for name, value in rounded.items()})
    assert metric.compute().item() == pytest.approx(exact, rel=1e-5)


@per_case
def test_contract_attributes_are_truthful(case):
    metric = case.metric()
    assert metric.full_state_update is False
    if case.metric is MemoryRetentionRate:  # a batch is of one set only and has no rate by itself
        assert metric.is_differentiable is False
        return
    batch = {n: v.requires_grad_() if v.is_floating_point() else v for n, v in batches()[0].items()}
    (arguments,) = case.arguments(batch)
    value = metric(*arguments)
    assert value.requires_grad == metric.is_differentiable
    assert not any(getattr(metric, state).requires_grad for state in metric._defaults)
    if metric.is_differentiable:
        value.backward()
        assert batch["model"].grad.isfinite().all()
        assert batch["model"].grad.abs().sum() > 0


@pytest.mark.parametrize("metric", [Similarity, KLDistance, ActivationDistance])
def test_better_means_closer_to_the_retrained_model(metric):
    near, far = metric(), metric()
    retrained = data()["retrained"]
    near.update(retrained + 0.01, retrained)
    far.update(data()["model"], retrained)
    assert (near.compute() > far.compute()) == metric.higher_is_better


def test_metrics_of_one_call_form_a_collection():
    collection = MetricCollection([Similarity(), KLDistance(), ActivationDistance()])
    for batch in batches():
        collection.update(batch["model"], batch["retrained"])
    for case in CASES[2:5]:
        value = collection.compute()[case.metric.__name__].item()
        assert value == pytest.approx(expected(case), rel=1e-5)


def test_kl_distance_takes_the_retrained_model_as_p():
    metric = KLDistance()
    metric.update(torch.zeros(1, 2), torch.tensor([[0.0, 1000.0]]))
    assert metric.compute().item() == pytest.approx(math.log(2))


def test_weight_distance_is_the_mean_over_layers():
    model, reference = networks()
    metric = WeightDistance()
    metric.update(model, reference)
    distances = []
    for layer in ("0", "1", "2"):
        w, r = (
            np.concatenate([q.detach().numpy().ravel() for q in m.get_submodule(layer).parameters()])
            for m in (model, reference)
        )
        distances.append(np.linalg.norm(w - r) / np.linalg.norm(r))
    assert metric.compute().item() == pytest.approx(np.mean(distances), rel=1e-5)
    assert pickle.loads(pickle.dumps(metric)).compute() == metric.compute()
    metric.update(reference, reference)
    assert metric.compute().item() == pytest.approx(np.mean(distances) / 2, rel=1e-5)
    with pytest.raises(ValueError, match="same names"):
        metric.update(model, nn.Linear(4, 3))
    assert WeightDistance.is_differentiable is False


def test_undefined_rates_raise():
    wrong, right = torch.tensor([[1.0, 0.0]]), torch.tensor([1])
    forgetting = ForgettingRate()
    forgetting.update(wrong, wrong, right)
    with pytest.raises(ValueError, match="before is 0"):
        forgetting.compute()
    retention = MemoryRetentionRate()
    retention.update(wrong, right, "retain")
    with pytest.raises(ValueError, match="no sample of the 'forget' stream"):
        retention.compute()
    retention.update(wrong, right, "forget")
    with pytest.raises(ValueError, match="forget_before is 0"):
        retention.compute()


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), "targets shape"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), "logits must have shape"),
        (torch.zeros(3, 2), torch.zeros(3), "targets must be integer class indices"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.bool), "targets must be integer class indices"),
    ],
)
def test_bad_labels_are_refused(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        ForgettingRate().update(logits, logits, targets)
    with pytest.raises(ValueError, match=message):
        MemoryRetentionRate().update(logits, targets, "retain")


def test_bad_streams_and_logits_are_refused():
    with pytest.raises(ValueError, match="stream must be one of 'retain', 'forget', got 'test'"):
        MemoryRetentionRate().update(torch.zeros(1, 2), torch.tensor([0]), "test")
    for metric in (Similarity, KLDistance, ActivationDistance):
        with pytest.raises(ValueError, match="same shape"):
            metric().update(torch.zeros(2, 3), torch.zeros(2, 4))
    for metric in (PredictiveEntropy, Confidence):
        with pytest.raises(ValueError, match="NaN"):
            metric().update(torch.full((2, 3), math.nan))


def test_docstrings_name_range_and_shape():
    for name in {*package.__all__} - {"DeclaredMetric"}:  # says how a metric is printed, and is none
        text = inspect.getdoc(getattr(package, name))
        assert "``update`` takes" in text or "``update(" in text
        assert "``compute`` returns a scalar" in text


def test_nan_is_named_and_no_mean() -> None:
    metric = Similarity()
    metric.update(torch.tensor([[0.0, torch.nan]]), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="Similarity has seen NaN"):
        metric.compute()
