"""What outputs and targets of each kind of task mean, against PyTorch's and scikit-learn's own."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, d2_absolute_error_score, r2_score
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, kl_divergence

from lightning_unlearn.functional import (
    AbsoluteRegression,
    Binary,
    Embedding,
    Masks,
    MultiLabel,
    Positions,
    Regression,
    SingleLabel,
    SoftLabels,
    Task,
    Tokens,
    task_named,
    tasks,
    tasks_of,
)

F = nn.functional
B, L, C, SIDE = 6, 4, 3, 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coins(*shape: int) -> Tensor:
    return (normal(*shape, seed=9) > 0).float()


def image() -> Tensor:
    targets = normal(B, SIDE, SIDE, seed=8).abs().long() % C
    targets[0, :2], targets[3] = 255, 255  # one of them whole
    return targets


CASES: dict[str, tuple[Task, Tensor, Tensor]] = {
    "classes": (SingleLabel(), normal(B, C), normal(B, seed=3).abs().long() % C),
    "soft": (SoftLabels(), normal(B, C), normal(B, C, seed=3).softmax(-1)),
    "one-hot": (SoftLabels(), normal(B, C), F.one_hot(torch.arange(B) % C, C)),
    "binary": (Binary(), normal(B), coins(B)),
    "binary, a column": (Binary(), normal(B, 1), coins(B)),
    "multilabel": (MultiLabel(), normal(B, L), coins(B, L)),
    "masks": (Masks(), normal(B, 1, SIDE, SIDE), coins(B, SIDE, SIDE)),
    "positions": (Positions(255), normal(B, C, SIDE, SIDE), image()),
    "tokens": (Tokens(255), normal(B, SIDE, SIDE, C), image()),
    "regression": (Regression(), normal(B, 2), normal(B, 2, seed=3)),
    "regression, one number": (Regression(), normal(B, 1), normal(B, seed=3)),
    "l1": (AbsoluteRegression(), normal(B), normal(B, seed=3)),
}
BINARY = ("binary", "binary, a column", "multilabel", "masks")


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape == targets.shape:
        return F.cross_entropy(outputs, targets.float())
    return F.cross_entropy(outputs, targets, ignore_index=255)


OF_PYTORCH = {
    **dict.fromkeys(("binary", "multilabel", "masks"), F.binary_cross_entropy_with_logits),
    "regression": F.mse_loss,
    "l1": F.l1_loss,
}
every_case = pytest.mark.parametrize("name", CASES)


def counted(targets: Tensor) -> list[Tensor]:
    """Return which positions of each sample count."""
    return [row.flatten() != 255 for row in targets]


@every_case
def test_losses_are_pytorchs(name: str) -> None:
    task, outputs, targets = CASES[name]
    assert task.fits(outputs, targets)
    found = task.loss(outputs, targets)
    assert found.shape == (B,)
    whole = outputs.reshape(targets.shape) if outputs.numel() == targets.numel() else outputs
    whole = whole.movedim(-1, 1) if name == "tokens" else whole
    expected = OF_PYTORCH.get(task.name, cross_entropy)
    torch.testing.assert_close(task.batch_loss(outputs, targets), expected(whole, targets))
    for row in range(B):
        one = slice(row, row + 1)
        alone = expected(whole[one], targets[one])
        torch.testing.assert_close(found[row], torch.nan_to_num(alone))  # nothing that counts: 0


@every_case
def test_divergences_are_those_of_distributions(name: str) -> None:
    task, p, targets = CASES[name]
    q = normal(*p.shape, seed=4)
    found = task.kl(p, q, targets)
    assert found.shape == (B,)
    torch.testing.assert_close(task.kl(p, p, targets), torch.zeros(B), atol=1e-6, rtol=0)
    if name in BINARY:
        each = kl_divergence(Bernoulli(logits=p), Bernoulli(logits=q)).flatten(1) if p.ndim > 1 else None
        each = kl_divergence(Bernoulli(logits=p), Bernoulli(logits=q))[:, None] if each is None else each
        expected = each.mean(1) if name == "masks" else each.sum(1)
    elif name in ("positions", "tokens"):
        p, q = (x.movedim(1, -1) if name == "positions" else x for x in (p, q))
        each = kl_divergence(Categorical(logits=p), Categorical(logits=q)).flatten(1)
        expected = torch.stack(
            [x[m].mean() if m.any() else x.new_zeros(()) for x, m in zip(each, counted(targets), strict=True)]
        )
    elif "posteriors" in task.offers:
        expected = kl_divergence(Categorical(logits=p), Categorical(logits=q))
    else:
        expected = task.loss(p, q.reshape(p.shape))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["binary", "multilabel", "masks", "positions", "tokens", "soft"])
def test_jensen_shannon_is_the_mean_of_two_divergences(name: str) -> None:
    task, p, targets = CASES[name]
    q = normal(*p.shape, seed=4)
    a, b = (task.posteriors(x).double() for x in (p, q))
    m = (a + b) / 2
    each = ((a * (a / m).log2()).sum(-1) + (b * (b / m).log2()).sum(-1)) / 2
    if each.ndim > 1:
        rows = (
            counted(targets)
            if name in ("positions", "tokens")
            else [torch.ones(each.shape[1], dtype=torch.bool)] * B
        )
        reduce = torch.sum if name == "multilabel" else torch.mean
        each = torch.stack([torch.nan_to_num(reduce(x[m])) for x, m in zip(each, rows, strict=True)])
    torch.testing.assert_close(task.js(p, q, targets).double(), each, atol=1e-5, rtol=1e-4)
    same = task.similarity(p, q, targets)
    assert bool(((same >= 0) & (same <= 1)).all())
    torch.testing.assert_close(task.similarity(p, p, targets), torch.ones(B))


def test_a_multi_label_answer_is_right_if_all_labels_are() -> None:
    task, outputs, targets = CASES["multilabel"]
    outputs[0] = 2 * targets[0] - 1
    assert float(task.correct(outputs, targets).sum()) == accuracy_score(
        targets, outputs > 0, normalize=False
    )
    assert float(MultiLabel().by_label(outputs, targets).mean()) == pytest.approx(
        accuracy_score(targets.flatten(), outputs.flatten() > 0)
    )


def test_positions_count_once_unless_they_are_ignored() -> None:
    task, outputs, targets = CASES["positions"]
    right = (outputs.argmax(1) == targets)[targets != 255].float().mean()
    sizes = torch.stack([m.sum() for m in counted(targets)])
    found = task.correct(outputs, targets)
    torch.testing.assert_close((found * sizes).sum() / sizes.sum(), right)
    other = Tokens(255)
    for what in ("loss", "correct", "confidence"):
        torch.testing.assert_close(
            getattr(other, what)(outputs.movedim(1, -1), targets), getattr(task, what)(outputs, targets)
        )
    channel = targets[:, None]  # masks with a channel
    assert task.fits(outputs, channel)
    torch.testing.assert_close(task.loss(outputs, channel), task.loss(outputs, targets))


@pytest.mark.parametrize("name", ["classes", "binary", "multilabel", "positions"])
def test_confidence_is_the_logit_of_the_true_answers_probability(name: str) -> None:
    task, outputs, targets = CASES[name]
    p = task.posteriors(outputs).double()
    labels = targets.long().flatten(1) if targets.ndim > 1 else targets.long()
    known = labels.clamp(max=C - 1) if name == "positions" else labels
    true = p.gather(-1, known.unsqueeze(-1)).squeeze(-1)
    each = torch.logit(true)
    if each.ndim > 1:
        rows = counted(targets) if name == "positions" else [torch.ones(L, dtype=torch.bool)] * B
        each = torch.stack([torch.nan_to_num(x[m].mean()) for x, m in zip(each, rows, strict=True)])
    torch.testing.assert_close(task.confidence(outputs, targets), each, atol=1e-4, rtol=1e-4)


def test_confidence_of_a_regression_is_its_small_residual() -> None:
    found = Regression().confidence(torch.tensor([[0.0, 0.0], [1.0, 1.0], [3.0, 4.0]]), torch.zeros(3, 2))
    expected = [103.616, 0.0, -np.log(np.sqrt(12.5))]  # none at all is as sure as can be
    assert found.tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["classes", "soft", "one-hot", "binary", "multilabel", "masks", "positions"])
def test_wrong_targets_are_wrong_and_belong_to_sample_and_seed(name: str) -> None:
    task, outputs, targets = CASES[name]
    index = torch.arange(B)
    first, other = (task.wrong_targets(outputs, targets, index, count=B, seed=seed) for seed in (1, 2))
    assert first.dtype == targets.dtype
    changed = (
        (first != targets).flatten(1).float().mean(1) if targets.ndim > 1 else (first != targets).float()
    )
    if name == "positions":
        assert torch.equal(first == 255, targets == 255)
        changed = torch.stack(
            [
                (x != y)[m].all()
                for x, y, m in zip(first.flatten(1), targets.flatten(1), counted(targets), strict=True)
            ]
        )
    assert bool((changed > 0).all())
    turned = index.flip(0)
    again = task.wrong_targets(outputs[turned], targets[turned], turned, count=B, seed=1)
    assert torch.equal(again, first[turned])
    assert name in ("binary", "masks") or not torch.equal(first, other)
    assert task.fits(outputs, first)


def test_distances_between_embeddings_are_compared_and_not_directions() -> None:
    task, p, q = Embedding(), normal(B, 4), normal(B, 4, seed=5)
    turn = torch.linalg.qr(normal(4, 4, seed=6)).Q
    torch.testing.assert_close(task.kl(p, p @ turn + 3), torch.zeros(B), atol=1e-3, rtol=0)
    expected = torch.zeros(B)
    for i, j in itertools.permutations(range(B), 2):
        expected[i] += ((p[i] - p[j]).square().sum() - (q[i] - q[j]).square().sum()) ** 2 / (B - 1)
    torch.testing.assert_close(task.kl(p, q), expected)


def test_embeddings_are_judged_by_the_means_of_the_other_samples() -> None:
    random = torch.Generator().manual_seed(0)
    known, classes = torch.randn(9, 4, generator=random), torch.tensor([2, 5, 5, 2, 7, 7, 5, 7, 2])
    asked, targets = torch.randn(3, 4, generator=random), torch.tensor([7, 2, 5])

    def by_hand(x: Tensor, target: int, others: Tensor) -> tuple[list[float], int]:
        means = [known[others & (classes == name)].mean(dim=0) for name in (2, 5, 7)]
        return [float((x - mean).square().sum()) for mean in means], (2, 5, 7).index(target)

    every = torch.arange(9)
    among = [by_hand(known[place], int(classes[place]), every != place) for place in range(9)]
    width = np.mean([distances[column] for distances, column in among])
    apart = [by_hand(x, int(y), every >= 0) for x, y in zip(asked, targets, strict=True)]
    embedding = Embedding()
    for part, (logits, columns) in (
        (apart, embedding.nearness(asked, targets, known, classes)),
        (among, embedding.nearness(known, classes, known, classes, among=True)),
    ):
        assert columns.tolist() == [column for _, column in part]
        own = [-distances[column] / (2 * width) for distances, column in part]
        assert logits.gather(1, columns[:, None]).squeeze(1).tolist() == pytest.approx(own, rel=1e-5)
    turned, _ = torch.linalg.qr(torch.randn(4, 4, generator=random))
    again, _ = embedding.nearness(10 * asked @ turned, targets, 10 * known @ turned, classes)
    assert torch.allclose(again, embedding.nearness(asked, targets, known, classes)[0], atol=1e-4)
    with pytest.raises(ValueError, match="of the class 3 nothing is retained"):
        embedding.nearness(asked, torch.tensor([7, 3, 5]), known, classes)
    with pytest.raises(ValueError, match="their targets are no classes"):
        embedding.nearness(asked, torch.rand(3), known, classes)


def test_what_a_regression_explains_is_scikit_learns() -> None:
    outputs, targets = torch.randn(2, 31, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for task, reference in ((Regression(), r2_score), (AbsoluteRegression(), d2_absolute_error_score)):
        assert task.explained(outputs, targets) == pytest.approx(reference(targets, outputs))
        assert np.isnan(task.explained(outputs, torch.ones(31)))


@every_case
def test_gradients_are_finite(name: str) -> None:
    task, outputs, targets = CASES[name]
    for value in (outputs, 1e4 * outputs):
        leaf = value.clone().requires_grad_()
        (
            task.loss(leaf, targets).mean()
            + task.kl(outputs, leaf, targets).mean()
            + task.js(outputs, leaf, targets).mean()
        ).backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        assert bool(leaf.grad.isfinite().all())


@every_case
def test_the_task_is_among_those_that_fit(name: str) -> None:
    task, outputs, targets = CASES[name]
    assert task in tasks_of(outputs, targets)
    assert type(task_named(task.name)) is type(task)
    assert Embedding().name not in [each.name for each in tasks_of(outputs, targets)]


def test_what_has_no_meaning_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError,
        match="WGAN needs one distribution over classes a sample, which the task 'regression' has not",
    ):
        Regression().require("WGAN", ("loss", "distribution"))
    Regression().require("FineTune", ("loss",))


def test_of_large_maps_as_much_is_kept_as_a_memory_holds() -> None:
    """What does not count is left out first, and two models are compared at the same positions."""
    task, side = Positions(255), 2 * round(tasks.MOST_POSITIONS**0.5)
    p, q = (normal(2, C, side, side, seed=seed) for seed in (1, 2))
    sparse = (normal(2, side, side, seed=3).abs() * 1.5).long().clamp(max=C - 1)
    full, sparse[:, :, : side * 4 // 5] = sparse.clone(), 255  # and a fifth is counted
    kept, marks = task.kept(p, sparse)
    assert marks.shape == (2, tasks.MOST_POSITIONS)
    assert int((sparse != 255).sum()) == int((marks != 255).sum())
    assert torch.allclose(task.loss(kept, marks), task.loss(p, sparse))
    (ours, marks), (theirs, _) = (task.kept(each, full) for each in (p, q))
    for measure in (task.loss, task.correct):
        assert torch.allclose(measure(ours, marks), measure(p, full), atol=0.05)
    assert not torch.equal(task.loss(ours, marks), task.loss(p, full))
    assert torch.allclose(task.js(ours, theirs, marks), task.js(p, q, full), atol=0.01)
    mask, one = Masks(), p[:, :1]
    ours, marks = mask.kept(one, full.clamp(max=1))
    assert torch.allclose(mask.loss(ours, marks), mask.loss(one, full.clamp(max=1)), atol=0.05)
    small = p[..., : side // 2, : side // 2], full[:, : side // 2, : side // 2]
    assert all(a is b for a, b in zip(task.kept(*small), small, strict=True))


def test_a_wrong_class_is_none_that_is_ignored() -> None:
    targets, index = torch.randint(0, 4, (50, 3)), torch.arange(50)
    for mark in (0, 3):
        task = Positions(mark)
        wrong = task.wrong_targets(torch.zeros(50, 4, 3), targets, index, count=50, seed=0)
        counted = targets != mark
        assert torch.equal(wrong[~counted], targets[~counted])
        assert not ((wrong == mark) | (wrong == targets))[counted].any()
