"""Point 3: whole batches with augmentation as tensor operations, against PIL transforms in a DataLoader."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from benchmarks.material import cifar_like
from benchmarks.measuring import Table, Turns
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
from torchvision import transforms

from lightning_unlearn.data import Adapter, DatasetLoader, TensorLoader
from lightning_unlearn.data.project_loaders import part_of_loader
from lightning_unlearn.data.streaming import StreamLoader, counted

IMAGES, BATCH, WORKERS = 10_000, 128, (0, 1, 2)


class PILImages(Dataset[Any]):
    """Images as torchvision's CIFAR10 serves them: from an array through PIL."""

    def __init__(self, count: int) -> None:
        self.images = cifar_like(count).inputs.permute(0, 2, 3, 1).contiguous().numpy()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), index % 10


class Streamed(IterableDataset[Any]):
    """The same, each loader process its share."""

    def __init__(self, count: int) -> None:
        self.images = PILImages(count)

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        start, step = (0, 1) if info is None else (info.id, info.num_workers)
        return (self.images[place] for place in range(start, len(self.images), step))


def through(loader: Any) -> Callable[[], None]:
    def epoch() -> None:
        for _ in loader:
            pass

    return epoch


def test_whole_batches_against_pil(interleave: Callable[..., Turns], table: Table) -> None:
    dataset = PILImages(IMAGES)
    arms = {"whole": through(TensorLoader(cifar_like(IMAGES), batch_size=BATCH, shuffle=True, augment=True))}
    for workers in WORKERS:
        loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
        arms[f"{workers} workers"] = through(loader)
    turns = interleave(arms, clock=time.perf_counter)  # other processes work too, so wall-clock time
    best = min((f"{workers} workers" for workers in WORKERS), key=turns.median)
    assert table.at_least(
        3,
        "images/s of CIFAR-10's shape, cropped and flipped, whole batches ÷ PIL with the best number of workers",
        turns.ratio(best, "whole"),
        5,
        f"{IMAGES / turns.median('whole'):,.0f} / {IMAGES / turns.median(best):,.0f} images/s ({best}); "
        f"{turns.spread(best, 'whole')}",
    )


def test_datasets_and_streams_are_served_at_the_speed_of_their_own_loader(
    interleave: Callable[..., Turns], table: Table
) -> None:
    dataset, order = PILImages(IMAGES), {"batch_size": BATCH, "shuffle": True}
    part = counted(
        part_of_loader(DataLoader(Streamed(IMAGES), BATCH, num_workers=2), "train"), None, Adapter()
    )
    everything = np.arange(IMAGES)
    arms = {
        "own": through(DataLoader(dataset, BATCH, shuffle=True, num_workers=2, persistent_workers=True)),
        "ours": through(DatasetLoader(dataset, num_workers=2, **order)),
        "own stream": through(DataLoader(Streamed(IMAGES), BATCH, num_workers=2)),
        "our stream": through(StreamLoader(part.dataset, everything, part, **order)),
    }
    turns = interleave(arms, clock=time.perf_counter)
    for kind, (own, ours) in {"a dataset": ("own", "ours"), "a stream": ("own stream", "our stream")}.items():
        what = f"speed of {kind} of files in two loader processes, ours ÷ its own DataLoader"
        table.at_least(3, what, turns.ratio(own, ours), 0.8, turns.spread(own, ours))
