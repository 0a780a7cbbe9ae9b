"""The next token as a task, against the definition written out token by token."""

import math
from typing import Any

import pytest
import torch
from helpers.toys import quiet_trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_unlearn.callbacks import PopulationAttack
from lightning_unlearn.data import Adapter, DatasetLoader, UnlearningDataModule
from lightning_unlearn.ensembles import Runtime, predict
from lightning_unlearn.functional.tasks import NextToken, Tokens, TokenScores, min_k, tasks_of
from lightning_unlearn.methods import FineTune

LOGITS = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[1, 2, 3, 4, 5], [6, 0, 2, -100, -100], [3, 3, 1, 0, -100]])


def by_hand(logits: Tensor, tokens: Tensor) -> list[list[float]]:
    """Return each sequence's log probabilities of the tokens that follow."""
    return [
        [
            float(answer[t].log_softmax(0)[sequence[t + 1]])
            for t in range(len(sequence) - 1)
            if sequence[t + 1] >= 0
        ]
        for answer, sequence in zip(logits.double(), tokens, strict=True)
    ]


def test_a_sequences_loss_is_a_mean_over_the_tokens_that_follow() -> None:
    task, logs = NextToken(), by_hand(LOGITS, TOKENS)
    wanted = torch.tensor([-sum(row) / len(row) for row in logs])
    torch.testing.assert_close(task.loss(LOGITS, TOKENS), wanted)
    counted = [value for row in logs for value in row]
    assert float(task.batch_loss(LOGITS, TOKENS)) == pytest.approx(-sum(counted) / len(counted), rel=1e-5)
    assert task in tasks_of(LOGITS, TOKENS)


def test_what_is_kept_of_the_answers_measures_as_the_answers_do() -> None:
    task = NextToken()
    kept, marks = task.kept(LOGITS, TOKENS)
    scores = task.of_kept
    assert isinstance(scores, TokenScores)
    assert kept.shape == (3, 4, 3)
    torch.testing.assert_close(kept.exp().sum(-1)[marks == 0], torch.ones(9))
    for what in ("loss", "correct", "confidence"):
        torch.testing.assert_close(getattr(scores, what)(kept, marks), getattr(task, what)(LOGITS, TOKENS))
    other = LOGITS.flip(0)
    kept_other = task.kept(other, TOKENS)[0]
    torch.testing.assert_close(scores.kl(kept, kept, marks), torch.zeros(3), atol=1e-6, rtol=0)
    assert (scores.kl(kept, kept_other, marks) <= task.kl(LOGITS, other, TOKENS) + 1e-6).all(), (
        "coarser, so less"
    )
    assert (scores.js(kept, kept_other, marks) <= task.js(LOGITS, other, TOKENS) + 1e-6).all()
    logs = by_hand(LOGITS, TOKENS)
    wanted = torch.tensor([[math.exp(sum(row) / len(row)), math.exp(min(row))] for row in logs])
    torch.testing.assert_close(scores.features(kept), wanted)


def test_tokens_that_are_marked_zero_are_ignored_and_no_others() -> None:
    marked = NextToken(ignore_index=0)
    tokens = TOKENS.masked_fill(TOKENS == 0, 1)
    kept, marks = NextToken().kept(LOGITS, tokens)
    ours, our_marks = marked.kept(LOGITS, tokens.masked_fill(tokens == -100, 0))
    torch.testing.assert_close(marked.of_kept.loss(ours, our_marks), NextToken().of_kept.loss(kept, marks))
    assert torch.equal(our_marks, marks)


def test_features_are_finite_where_no_token_counts() -> None:
    kept, marks = NextToken().kept(LOGITS, TOKENS.new_full(TOKENS.shape, -100))
    assert NextToken().of_kept.features(kept, marks).isfinite().all()


def test_min_k_is_the_mean_of_the_least_likely_tokens() -> None:
    logs = torch.tensor([[-1.0, -9.0, -3.0, -2.0], [-4.0, torch.nan, torch.nan, torch.nan]])
    assert min_k(logs, 0.5).tolist() == [-6.0, -4.0]
    assert min_k(logs, 0.01).tolist() == [-9.0, -4.0]


class Lengths(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return {"input_ids": torch.arange(place, place + 3 + place)}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 12)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)


def test_batches_of_different_lengths_are_put_together() -> None:
    torch.manual_seed(0)
    model, adapter = Model(), Adapter(task="next token")
    loader = DatasetLoader(Lengths(), batch_size=1, indexed=True)
    outputs = predict(model, loader, Runtime(None), adapter)
    assert outputs.logits.shape == (5, 6, 3)
    for place in range(5):
        ids = Lengths()[place]["input_ids"][None]
        alone = NextToken().loss(model(ids), ids)
        torch.testing.assert_close(outputs.loss[place : place + 1].float(), alone.detach())


@pytest.mark.parametrize("ignored", [-100, 0])
def test_features_do_not_depend_on_the_longest_sequence(ignored: int) -> None:
    class Tagged(Dataset[Any]):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, place: int) -> Any:
            tokens = torch.arange(1, place + 3)
            return tokens, torch.where(tokens == 2, ignored, tokens)

    torch.manual_seed(0)
    model, adapter = Model(), Adapter(task=Tokens(ignored))
    outputs = predict(model, DatasetLoader(Tagged(), batch_size=1, indexed=True), Runtime(None), adapter)
    for place in range(5):
        answers = model(torch.tensor([t for t in range(1, place + 3) if t != 2]))
        wanted = answers.softmax(-1).sort(dim=-1, descending=True).values.mean(dim=0).detach()
        torch.testing.assert_close(outputs.features[place], wanted)


class Sequences(Dataset[dict[str, Tensor]]):
    def __init__(self, seed: int) -> None:
        self.ids = torch.randint(12, (24, 9), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return 24

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[place]}


def test_least_likely_tokens_and_the_ratio_to_a_reference_rank_as_they_do_by_hand() -> None:
    torch.manual_seed(0)
    model, reference, adapter = Model(), Model(), Adapter(task="next token")
    attack = PopulationAttack(reference=reference, adapter=adapter, bootstrap=2, on_error="raise")
    data = UnlearningDataModule(Sequences(0), list(range(8)), test_dataset=Sequences(1), nonmember=10)
    quiet_trainer(max_epochs=0, callbacks=[attack]).fit(FineTune(model, adapter=adapter), data)
    sets = [Sequences(0).ids[data.split.forget], Sequences(1).ids[data.split.nonmember]]
    rows = [[by_hand(m(ids).detach(), ids) for ids in sets] for m in (model, reference)]
    lowest = [
        torch.tensor([sum(sorted(row)[:2]) / 2 for row in part]) for part in rows[0]
    ]  # of 8 tokens a fifth
    ratios = [
        torch.tensor([-sum(one) / sum(two) for one, two in zip(*parts, strict=True)])
        for parts in zip(*rows, strict=True)
    ]
    for name, (known, others) in {"min_k_auc": lowest, "ratio_auc": ratios}.items():
        higher = (known[:, None] > others).double() + (known[:, None] == others) / 2
        assert attack.results[f"population_attack/{name}"] == pytest.approx(float(higher.mean()))
