"""TensorData: the same samples by batch and one by one, and augmentation only where it is asked for."""

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.data.transforms import Normalize


def add_noise(inputs: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randint(1, 5, inputs.shape, generator=generator, device=generator.device)
    return inputs + noise.to(inputs.device, inputs.dtype)


def make(**options) -> TensorData:
    inputs = torch.arange(5 * 2 * 3 * 3, dtype=torch.uint8).view(5, 2, 3, 3)
    return TensorData(inputs, torch.tensor([0, 2, 1, 1, 0], dtype=torch.int32), **options)


def test_batch_gathers_in_order_and_transforms():
    data = make(transform=Normalize((0.5, 0.25), (0.5, 0.2)))
    inputs, targets = data.batch(torch.tensor([3, 0, 3]))
    raw = data.inputs[[3, 0, 3]].double() / 255
    expected = (raw - torch.tensor([0.5, 0.25]).view(2, 1, 1)) / torch.tensor([0.5, 0.2]).view(2, 1, 1)
    torch.testing.assert_close(inputs.double(), expected, rtol=0, atol=1e-6)
    assert inputs.dtype == torch.float32
    assert targets.tolist() == [1, 0, 1]
    assert targets.dtype == torch.int64


def test_items_batches_and_a_dataloader_agree_and_are_never_augmented():
    data = make(transform=Normalize((0.0,), (1.0,)), augment=add_noise)
    inputs, targets = data.batch(torch.arange(5))
    for index in (0, 4, -1):
        torch.testing.assert_close(data[index][0], inputs[index], rtol=0, atol=0)
        assert data[index][1] == targets[index]
    loaded = torch.cat([x for x, _ in DataLoader(data, batch_size=2)])
    torch.testing.assert_close(loaded, inputs, rtol=0, atol=0)
    assert [int(y) for _, y in data.__getitems__([1, 3])] == [2, 1]
    with pytest.raises(IndexError, match="index 5"):
        data[5]


def test_augmentation_needs_a_generator_and_follows_it():
    data = make(augment=add_noise)
    positions = torch.tensor([2, 1])
    first = data.batch(positions, generator=torch.Generator().manual_seed(1))[0]
    again = data.batch(positions, generator=torch.Generator().manual_seed(1))[0]
    other = data.batch(positions, generator=torch.Generator().manual_seed(2))[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first > data.inputs[positions]).all()


def test_global_random_state_is_left_alone():
    data = make(augment=add_noise)
    before = torch.get_rng_state()
    data.batch(torch.arange(5), generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


def test_subset_keeps_classes_attributes_and_functions():
    data = make(
        attributes={"id": np.array(["a", "b", "c", "d", "e"]), "age": torch.arange(5)},
        augment=add_noise,
        transform=torch.neg,
    )
    part = data.subset(np.array([4, 1]))
    assert part.num_classes == 3
    assert part.attributes["id"].tolist() == ["e", "b"]
    assert part.attributes["age"].tolist() == [4, 1]
    assert torch.equal(part.inputs, data.inputs[[4, 1]])
    assert part.augment is add_noise
    assert part.transform is torch.neg


def test_pickle_round_trip():
    data = make(transform=Normalize((0.5,), (0.5,)))
    data.batch(torch.arange(2))
    loaded = pickle.loads(pickle.dumps(data))
    assert torch.equal(loaded.batch(torch.arange(5))[0], data.batch(torch.arange(5))[0])


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "error", "message"),
    [
        (np.zeros((2, 2)), torch.zeros(2).long(), {}, TypeError, "inputs must be a torch.Tensor"),
        (torch.zeros(2, 2), torch.zeros(2), {}, TypeError, "targets must be 1-D integer"),
        (torch.zeros(2, 2), torch.zeros(2, 1).long(), {}, TypeError, "targets must be 1-D integer"),
        (torch.zeros(3, 2), torch.zeros(2).long(), {}, ValueError, "one entry per sample"),
        (torch.zeros(0, 2), torch.zeros(0).long(), {}, ValueError, "empty"),
        (torch.zeros(2, 2), torch.tensor([0, 3]), {"num_classes": 3}, ValueError, "num_classes=3"),
        (torch.zeros(2, 2), torch.tensor([-1, 1]), {}, ValueError, "from -1 to 1"),
        (torch.zeros(2, 2), torch.tensor([0, 1]), {"attributes": {"id": np.arange(3)}}, ValueError, "'id'"),
    ],
)
def test_bad_input_is_refused(inputs, targets, options, error, message):
    with pytest.raises(error, match=message):
        TensorData(inputs, targets, **options)
