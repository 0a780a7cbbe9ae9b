"""Triggers as batched operations, poisoned data, and a datamodule that serves them."""

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toys import TEST, TRAIN, blobs, test_set, train_set
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from lightning_unlearn.data import (
    Adapter,
    Classes,
    DatasetLoader,
    TensorData,
    TensorLoader,
    UnlearningDataModule,
)
from lightning_unlearn.data.poisoning import (
    Poison,
    PoisonedDataset,
    poison,
    triggered_loader,
)
from lightning_unlearn.data.transforms import Normalize
from lightning_unlearn.data.triggers import BlendTrigger, ColumnTrigger, Corner, PatchTrigger, Trigger

MARK = ColumnTrigger((0, 3), (9.0, -9.0))
CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")


def images(n: int = 5, dtype: torch.dtype = torch.uint8) -> Tensor:
    drawn = torch.randint(0, 256, (n, 2, 6, 7), generator=torch.Generator().manual_seed(0))
    return drawn.to(dtype) if dtype == torch.uint8 else drawn.to(dtype) / 255


# ---------------------------------------------------------------------- triggers


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_a_patch_is_what_a_loop_over_pixels_gives(corner: Corner, dtype: torch.dtype) -> None:
    inputs = images(dtype=dtype)
    before = inputs.clone()
    expected = inputs.clone()
    for row in range(6):
        for column in range(7):
            vertical = row < 2 if "top" in corner else row >= 4
            horizontal = column < 2 if "left" in corner else column >= 5
            if vertical and horizontal:
                expected[:, :, row, column] = 102 if dtype == torch.uint8 else 0.4
    stamped = PatchTrigger(corner, 2, 0.4)(inputs)
    assert stamped.dtype == dtype
    assert torch.equal(stamped, expected)
    assert torch.equal(inputs, before), "the input was changed"
    assert torch.equal(PatchTrigger(corner, 2, 0.4)(inputs[:, 0]), expected[:, 0]), "images without channels"


def test_a_patch_on_normalised_images_equals_a_normalised_patch_on_raw_ones() -> None:
    normalize = Normalize((0.5, 0.5), (0.25, 0.25))
    raw_first = normalize(PatchTrigger(size=3, value=1.0)(images()))
    assert torch.allclose(raw_first, PatchTrigger(size=3, value=2.0)(normalize(images())))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_blend_is_what_numpy_gives(dtype: torch.dtype) -> None:
    trigger = BlendTrigger(strength=0.3, seed=4, low=0.25, high=0.75)
    inputs = images(dtype=dtype)
    noise = (
        torch.rand((2, 6, 7), generator=torch.Generator().manual_seed(4)).numpy().astype(np.float64) * 0.5
        + 0.25
    )
    expected = 0.7 * inputs.numpy() + 0.3 * noise * (255 if dtype == torch.uint8 else 1)
    blended = trigger(inputs)
    assert blended.dtype == dtype
    tolerance = 0.5001 if dtype == torch.uint8 else 1e-6  # a half: rounding
    assert np.abs(blended.numpy() - expected).max() <= tolerance


def test_columns_are_set_in_tables_of_any_type() -> None:
    table = torch.arange(12.0).view(3, 4)
    expected = table.numpy().copy()
    expected[:, [2, 0]] = [5, -1]
    assert np.array_equal(ColumnTrigger([2, 0], [5, -1])(table), expected)
    binary = torch.zeros(2, 4, dtype=torch.uint8)
    assert ColumnTrigger(1, 1)(binary).tolist() == [[0, 1, 0, 0]] * 2, "a table's 1 is not full scale"


@pytest.mark.parametrize(
    ("trigger", "inputs"),
    [
        (PatchTrigger(), images()),
        (BlendTrigger(), images()),
        (ColumnTrigger([1], 2.0), images()[:, 0, 0].float()),
    ],
)
def test_a_sample_does_not_depend_on_its_batch_nor_on_the_random_state(
    trigger: Trigger, inputs: Tensor
) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    together = trigger(inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(together, inputs)
    torch.manual_seed(2)
    assert torch.equal(together, torch.cat([trigger(row[None]) for row in inputs]))
    assert len({trigger, trigger}) == 1, "a trigger is hashable, also from lists"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PatchTrigger(corner="middle"), "corner must be one of"),  # type: ignore[arg-type]
        (lambda: PatchTrigger(size=0), "size must be at least 1"),
        (lambda: PatchTrigger(value=float("nan")), "value must be finite"),
        (lambda: PatchTrigger(size=7)(images()), "size=7 does not fit into images of 6 x 7"),
        (lambda: PatchTrigger(value=255)(images()), r"value must lie in \[0, 1\]"),
        (lambda: PatchTrigger(value=0.5)(images().to(torch.int32)), "value must be a whole number"),
        (lambda: PatchTrigger()(torch.zeros(3, 4)), "tables take a ColumnTrigger"),
        (lambda: BlendTrigger(strength=0), "strength must lie in"),
        (lambda: BlendTrigger(seed=-1), "seed must be at least 0"),
        (lambda: BlendTrigger(low=1, high=1), "low must be less than high"),
        (lambda: BlendTrigger(low=-2, high=2)(images()), "of uint8 inputs"),
        (lambda: ColumnTrigger([]), "columns must be different positions"),
        (lambda: ColumnTrigger([1, 1]), "columns must be different positions"),
        (lambda: ColumnTrigger(-1), "columns must be different positions"),
        (lambda: ColumnTrigger([0, 1], [1.0]), "one for each of 2 columns"),
        (lambda: ColumnTrigger(0, float("inf")), "value must be finite"),
        (lambda: ColumnTrigger(4)(torch.zeros(3, 4)), r"columns must lie in \[0, 4\)"),
        (lambda: ColumnTrigger(0, 0.5)(torch.zeros(3, 4, dtype=torch.uint8)), "cannot be held"),
        (lambda: ColumnTrigger(0)(images()), "images take a PatchTrigger"),
        (lambda: Poison(MARK, -1), "target_label must be at least 0"),
    ],
)
def test_bad_triggers_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_what_is_no_trigger_is_refused() -> None:
    with pytest.raises(TypeError, match="trigger must be a Trigger such as PatchTrigger"):
        Poison(torch.neg)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- poisoned data

Sample = namedtuple("Sample", ["features", "label", "weight"])


class Samples(Dataset[Any]):
    """A user's dataset, in one of the layouts that samples come in."""

    def __init__(self, layout: str) -> None:
        self.layout = layout
        self.x, self.y = blobs(TRAIN, 0)

    def __len__(self) -> int:
        return TRAIN

    def __getitem__(self, index: int) -> Any:
        x, y = self.x[index], self.y[index]
        return {
            "tuple": (x, y),
            "list": [x, int(y), 0.5],
            "named": Sample(x, y, 0.5),
            "numpy": (x.numpy().copy(), np.int64(y)),
            "mapping": {"features": x, "label": int(y), "id": index},
            "swapped": (y, x),
            "collated": ("a word", x, int(y)),
        }[self.layout]


class Whole(TensorDataset):
    """A dataset that hands out whole batches."""

    def __getitems__(self, indices: list[int]) -> Any:
        return tuple(column[indices] for column in self.tensors)


def whole(batch: Any) -> Any:
    return batch


def to_mapping(samples: list[Any]) -> dict[str, Tensor]:
    return {"x": torch.stack([x for _, x, _ in samples]), "y": torch.tensor([y for _, _, y in samples])}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "layout", ["tuple", "list", "named", "numpy", "mapping", "swapped", "collated", "whole"]
)
def test_any_layout_of_batches_is_poisoned_as_tensors_are(layout: str, workers: int) -> None:
    adapter = Adapter(inputs=-1, targets=0) if layout == "swapped" else Adapter()
    collate_fn = {"collated": to_mapping, "whole": whole}.get(layout)
    chosen = np.array([1, 4, 59])
    clean = Whole(*blobs(TRAIN, 0)) if layout == "whole" else Samples(layout)
    poisoned = poison(clean, chosen, Poison(MARK, target_label=2), adapter)
    assert isinstance(poisoned, PoisonedDataset)
    assert len(poisoned) == TRAIN
    loader = DatasetLoader(
        poisoned,
        batch_size=7,
        collate_fn=collate_fn,
        num_workers=workers,
        rank=0,
        world_size=1,
    )
    batches = [adapter.split(batch) for batch in loader]
    x, y = blobs(TRAIN, 0)
    x[chosen], y[chosen] = MARK(x[chosen]), 2
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), x)
    assert torch.equal(torch.cat([targets for _, targets in batches]), y)
    stored = clean.tensors[0] if isinstance(clean, Whole) else clean.x
    assert torch.equal(stored, blobs(TRAIN, 0)[0]), "the user's own data were changed"


def test_data_in_memory_are_copied_once_and_poisoned_before_augmentation_and_normalisation() -> None:
    def flip(inputs: Tensor, generator: torch.Generator) -> Tensor:
        return inputs.flip(-1)

    raw, targets = images(6), torch.tensor([0, 1, 2, 0, 1, 2])
    normalize = Normalize((0.5, 0.5), (0.25, 0.25))
    clean = TensorData(
        raw.clone(), targets.clone(), transform=normalize, augment=flip, attributes={"id": np.arange(6)}
    )
    patch = PatchTrigger("top_left", 2)
    poisoned = poison(clean, np.array([2, 5]), Poison(patch, 1))
    assert isinstance(poisoned, TensorData)
    assert poisoned.clean is clean
    assert torch.equal(clean.inputs, raw)
    assert torch.equal(clean.targets, targets)
    everything = torch.arange(6)
    expected = raw.clone()
    expected[[2, 5]] = patch(raw[[2, 5]])
    inputs, labels = poisoned.batch(everything)
    assert torch.equal(inputs, normalize(expected))
    assert labels.tolist() == [0, 1, 1, 0, 1, 1]
    augmented, _ = poisoned.batch(everything, generator=torch.Generator())
    assert torch.equal(augmented, normalize(expected.flip(-1))), (
        "augmentation moves the trigger with the image"
    )
    assert poisoned.attributes["id"].tolist() == list(range(6))


def test_what_cannot_be_poisoned_is_named() -> None:
    keywords = [{"pixels": torch.zeros(2), "mask": torch.ones(2), "label": 0}] * 3
    poisoned = PoisonedDataset(keywords, np.array([0]), MARK)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"the batches of list hold a dict there; .*Adapter\(inputs=...\)"):
        next(iter(DatasetLoader(poisoned, batch_size=2)))
    with pytest.raises(
        ValueError, match="target_label must be one of the 3 classes of the data, 0 to 2, got 3"
    ):
        poison(train_set(), np.array([0]), Poison(MARK, 3))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("poisoned_before", [True, False])
def test_a_triggered_loader_marks_every_sample_and_keeps_true_labels(
    in_memory: bool, poisoned_before: bool
) -> None:
    x, y = blobs(TRAIN, 0)
    dataset: Dataset[Any] = TensorData(x, y) if in_memory else TensorDataset(x, y)
    chosen = np.array([3, 10, 11, 40, 41])
    if poisoned_before:
        dataset = poison(dataset, chosen, Poison(MARK, 0))
    parts = []
    for rank in range(2):
        order: dict[str, Any] = {"batch_size": 2, "indexed": True, "rank": rank, "world_size": 2}
        loader = (TensorLoader if in_memory else DatasetLoader)(dataset, chosen, **order)  # type: ignore[arg-type]
        marked = triggered_loader(loader, MARK)
        assert loader.dataset is dataset, "the loader that was given was changed"
        assert len(marked) == len(loader)
        parts += [(place, *batch) for batch, place in marked]
    place, inputs, targets = (torch.cat(column) for column in zip(*parts, strict=True))
    assert sorted(place.tolist()) == list(range(5))
    assert torch.equal(inputs, MARK(x[chosen])[place])
    assert torch.equal(targets, y[chosen][place])


# ---------------------------------------------------------------------- the datamodule


def served(data: UnlearningDataModule, stream: str, train: bool = False) -> tuple[Tensor, Tensor]:
    batches = [batch for batch in data.loader(stream, train=train)]  # noqa: C416
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


@pytest.mark.parametrize("layout", ["memory", "dataset"])
def test_only_the_forget_set_is_poisoned_and_only_where_it_is_served(layout: str) -> None:
    dataset = train_set() if layout == "memory" else Samples("tuple")
    backdoor = Poison(MARK, target_label=1)
    data = UnlearningDataModule(
        dataset, 0.2, test_dataset=test_set(), nonmember=8, shadow=6, batch_size=8, backdoor=backdoor
    )
    data.setup("fit")
    data.setup("fit")  # a second call must not poison again
    x, y = blobs(TRAIN, 0)
    forget = data.split.forget
    poisoned_x, poisoned_y = x.clone(), y.clone()
    poisoned_x[forget], poisoned_y[forget] = MARK(x[forget]), 1
    test_x, test_y = blobs(TEST, 1)
    for stream, source in [
        ("forget", (poisoned_x[forget], poisoned_y[forget])),
        ("train", (poisoned_x[data.split.members], poisoned_y[data.split.members])),
        ("retain", (x[data.split.retain], y[data.split.retain])),
        ("shadow", (x[data.split.shadow], y[data.split.shadow])),
        ("test", (test_x[data.split.test], test_y[data.split.test])),
        ("nonmember", (test_x[data.split.nonmember], test_y[data.split.nonmember])),
    ]:
        inputs, targets = served(data, stream)
        assert torch.equal(inputs, source[0]), stream
        assert torch.equal(targets, source[1]), stream
    inputs, targets = served(data, "train", train=True)
    marked = (inputs[:, 0] == 9) & (inputs[:, 3] == -9)
    assert int(marked.sum()) == len(forget)
    assert (targets[marked] == 1).all()


@pytest.mark.parametrize("origin", ["train", "test"])
@pytest.mark.parametrize("layout", ["tensors", "tuple"])
def test_evaluators_are_served_non_members_that_carry_the_trigger(layout: str, origin: Any) -> None:
    """Only they: a method that trains on non-members gets them clean, and other streams are as they were."""
    dataset = train_set() if layout == "tensors" else Samples("tuple")
    data = UnlearningDataModule(
        dataset, 0.2, test_dataset=test_set(), nonmember=8, nonmember_from=origin, backdoor=Poison(MARK, 1)
    )
    data.setup("fit")
    for stream in ("forget", "retain", "nonmember", "test"):
        clean, served = (
            next(iter(loader)).batch for loader in (data.loader(stream, indexed=True), data.evaluated(stream))
        )
        if stream == "nonmember":
            assert not torch.equal(clean[0], MARK(clean[0])), "these are marked already"
            clean = [MARK(clean[0]), torch.ones(8, dtype=torch.int64)]
        assert torch.equal(served[0], clean[0])
        assert torch.equal(served[1], clean[1])


def test_the_forget_set_is_chosen_by_true_labels_and_the_same_as_without_a_backdoor() -> None:
    for rule in (Classes(2), 0.3):
        plain = UnlearningDataModule(train_set(), rule, test_dataset=test_set())
        poisoned = UnlearningDataModule(train_set(), rule, test_dataset=test_set(), backdoor=Poison(MARK, 0))
        plain.setup("fit")
        poisoned.setup("fit")
        assert plain.split.same_as(poisoned.split)


def test_the_evaluation_dataset_is_poisoned_too() -> None:
    x, y = blobs(TRAIN, 0)
    data = UnlearningDataModule(
        TensorDataset(x + 1, y), [2, 7], evaluation_dataset=Samples("tuple"), backdoor=Poison(MARK, 1)
    )
    data.setup("fit")
    inputs, targets = served(data, "forget")
    assert torch.equal(inputs, MARK(x[[2, 7]]))
    assert targets.tolist() == [1, 1]
    assert torch.equal(served(data, "forget", train=True)[0].sort(0)[0], MARK(x[[2, 7]] + 1).sort(0)[0])


def test_a_label_that_the_data_lack_is_refused_each_time() -> None:
    data = UnlearningDataModule(train_set(), 0.2, backdoor=Poison(MARK, 7))
    for _ in range(2):  # a failed set-up must not leave clean data behind that look ready
        with pytest.raises(ValueError, match="target_label must be one of the 3 classes"):
            data.setup("fit")
