"""Writes tiny data sets in the layouts that the real ones are published in, each class a brightness of its own."""

import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.io
import torchvision
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def images_of(labels: npt.NDArray[np.int64], *shape: int, seed: int = 0) -> Pixels:
    """Return noise around the brightness of each label's class."""
    rng = np.random.default_rng(seed)
    centre = 40 + 170 * labels / max(1, labels.max())
    noise = rng.normal(0, 25, (len(labels), *shape))
    return (centre.reshape(-1, *[1] * len(shape)) + noise).clip(0, 255).astype(np.uint8)


def write_idx(path: Path, array: Pixels) -> None:
    """Write the idx format: a magic number of type (8 for uint8) and number of axes, the axes, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = np.array([0x800 + array.ndim, *array.shape], dtype=">i4").tobytes()
    path.write_bytes(header + array.tobytes())


def write_numbers(path: Path, files: list[str], numbers: npt.NDArray[np.int64]) -> None:
    """Write a number a file, as CelebA's lists have them."""
    path.write_text("".join(f"{file} {number}\n" for file, number in zip(files, numbers, strict=True)))


def write_all(root: Path, train: int = 150, test: int = 120) -> None:
    """Write MNIST, Fashion-MNIST, SVHN, CIFAR-10, CIFAR-100, Purchase (without labels) and CelebA."""
    sizes = {"train": train, "test": test}
    labels = {part: np.arange(size) % 10 for part, size in sizes.items()}
    for name in ("MNIST", "FashionMNIST"):
        for part, prefix in (("train", "train"), ("test", "t10k")):
            raw = root / name / "raw"
            write_idx(raw / f"{prefix}-images-idx3-ubyte", images_of(labels[part], 28, 28))
            write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels[part].astype(np.uint8))
    for part, classes in labels.items():
        pixels = images_of(classes, 32, 32, 3).transpose(1, 2, 3, 0)
        scipy.io.savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": (classes + 10) % 10 + 1})
    for published, key, many in (
        (torchvision.datasets.CIFAR10, "labels", 10),
        (torchvision.datasets.CIFAR100, "fine_labels", 100),
    ):
        folder = root / published.base_folder
        folder.mkdir()
        for name, _ in published.train_list + published.test_list:
            held = name == published.test_list[0][0]
            each = np.arange(test if held else train // len(published.train_list)) % many
            rows = images_of(each, 3 * 32 * 32, seed=len(name))
            (folder / name).write_bytes(pickle.dumps({"data": rows, key: each.tolist()}))
        meta = {published.meta["key"]: [str(number) for number in range(many)]}
        (folder / published.meta["filename"]).write_bytes(pickle.dumps(meta))
    write_purchase(root, train + test)
    write_celeba(root, 60)


def write_purchase(root: Path, rows: int) -> None:
    """Write customers of two kinds, of whom each buys another half of 600 products more often."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, (rows, 1))
    liked = np.arange(600) // 300 == kind
    bought = rng.random((rows, 600)) < np.where(liked, 0.35, 0.2)
    (root / "dataset_purchase").write_text(
        "".join(",".join(map(str, row)) + "\n" for row in bought.astype(int).tolist())
    )


def write_celeba(root: Path, faces: int, young: float = 0.75) -> None:
    """Write faces of people who have four each; who is young is brighter."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    rng = np.random.default_rng(0)
    files = [f"{number:06d}.jpg" for number in range(1, faces + 1)]
    person = np.arange(faces) // 4
    values = (rng.random((person[-1] + 1, 2)) < (0.5, young)).astype(int)[person]
    for file, pixels in zip(files, images_of(values[:, 1], 22, 18, 3), strict=True):
        Image.fromarray(pixels).save(folder / "img_align_celeba" / file)
    rows = [f"{file} {a:2d} {b:2d}" for file, (a, b) in zip(files, 2 * values - 1, strict=True)]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(faces), "Smiling Young", *rows]) + "\n")
    write_numbers(folder / "identity_CelebA.txt", files, person)
    part = np.repeat([0, 1, 2], [faces - 2 * (faces // 6), faces // 6, faces // 6])
    write_numbers(folder / "list_eval_partition.txt", files, part)
