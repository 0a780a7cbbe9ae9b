"""Taking batches and outputs apart."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_unlearn.data import Adapter

X, Y = torch.zeros(2, 3), torch.tensor([0, 1])


class WithLogits(nn.Module):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=input_ids + attention_mask, loss=None)


@pytest.mark.parametrize(
    ("batch", "adapter"),
    [
        ((X, Y), Adapter()),
        ([X, Y, "ids"], Adapter()),
        ({"x": X, "y": Y}, Adapter()),
        ({"image": X, "label": Y, "id": 1}, Adapter()),
        ((Y, X), Adapter(inputs=1, targets=0)),
        ({"pixels": X, "species": Y}, Adapter(inputs="pixels", targets="species")),
    ],
)
def test_inputs_and_targets_are_found(batch: object, adapter: Adapter) -> None:
    inputs, targets = adapter.split(batch)
    assert inputs is X
    assert targets is Y


def test_a_hugging_face_batch_is_passed_as_keywords() -> None:
    inputs, targets = Adapter().split({"input_ids": X, "attention_mask": X + 1, "labels": Y})
    assert targets is Y
    assert torch.equal(Adapter().call(WithLogits(), inputs), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("batch", "forward", "adapter"),
    [
        ({"input_ids": X, "labels": Y, "text": ["a", "b"]}, lambda input_ids: input_ids, Adapter()),
        ({"left": X, "right": X, "label": Y, "id": Y}, lambda left, right: left + right, Adapter()),
        ({"pixels": X, "label": Y}, lambda batch: batch["pixels"], Adapter()),
        ({"image": X, "mask": Y, "crs": "EPSG"}, lambda x: x, Adapter()),
        (((X, X), Y), lambda left, right: left + right, Adapter()),
        (((X, X), Y), lambda pair: pair[0] + pair[1], Adapter()),
        ((X, X, Y), lambda left, right: left + right, Adapter(inputs=[0, 1], targets=2)),
        ({"a": X, "b": X, "y": Y}, lambda a, b: a + b, Adapter(inputs=["a", "b"])),
    ],
)
def test_a_model_is_called_with_what_its_forward_takes(
    batch: object, forward: object, adapter: Adapter
) -> None:
    model = nn.Module()
    model.forward = forward  # type: ignore[assignment]
    inputs, targets = adapter.split(batch)
    assert targets is Y
    assert torch.equal(adapter.call(model, inputs), X)
    wrapper = nn.Module()
    wrapper.model, wrapper.forward = model, lambda *args, **kwargs: model(*args, **kwargs)
    assert torch.equal(adapter.call(wrapper, inputs), X), "as methods hand on what they are given"


def test_a_next_token_models_inputs_are_its_targets_but_for_padding() -> None:
    batch = {"input_ids": torch.tensor([[3, 4, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    inputs, targets = Adapter().split(batch)
    assert inputs.keys() == batch.keys()
    assert targets.tolist() == [[3, 4, -100]]
    assert Adapter().relabelled(batch, targets)["labels"] is targets


@pytest.mark.parametrize("output", [X, (X, "hidden"), {"logits": X}, SimpleNamespace(logits=X)])
def test_logits_are_found(output: object) -> None:
    class Gives(nn.Module):
        def forward(self, x: object) -> object:
            return output

    assert Adapter().call(Gives(), X) is X


@pytest.mark.parametrize(
    ("batch", "adapter", "message"),
    [
        ((X,), Adapter(), r"targets=1 not found in a batch of 1 elements"),
        ({"x": X}, Adapter(), r"targets=None .* the keys \['x'\]; name one with .* --adapter.targets=\.\.\."),
        ({"x": X, "y": Y}, Adapter(targets="z"), r"targets='z' not found"),
        ((X, torch.tensor(1)), Adapter(), r"a row a sample, got shape \(\) of torch.int64"),
        (X, Adapter(), "must be a sequence or mapping"),
    ],
)
def test_a_batch_it_cannot_take_apart_is_described(batch: object, adapter: Adapter, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapter.split(batch)


def test_an_output_without_logits_is_described() -> None:
    with pytest.raises(
        ValueError, match=r"forward of Identity must give logits, got shape \(2,\) of torch.int64"
    ):
        Adapter().call(nn.Identity(), Y)
    with pytest.raises(ValueError, match="logits='scores' is not in the model's output"):
        Adapter(logits="scores").call(nn.Identity(), X)

    class Gives(nn.Module):
        def forward(self, x: object) -> object:
            return {"out": X}

    for adapter in (Adapter(), Adapter(logits="scores")):
        with pytest.raises(ValueError, match=r"dict with the keys \['out'\].* --adapter.logits=\.\.\."):
            adapter.call(Gives(), X)
