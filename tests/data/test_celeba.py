"""CelebA in its published format, a small one that the test makes."""

import numpy as np
import pytest
import torch
from helpers.layouts import write_numbers
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from lightning_unlearn.data.builtin.celeba import CelebA
from lightning_unlearn.data.builtin.folder import LazyImages
from lightning_unlearn.data.selection import Groups, Ids, SelectionData
from lightning_unlearn.data.splits import make_split
from lightning_unlearn.data.tensors import TensorData

NAMES = ["Male", "Smiling", "Young"]
COUNT = 24


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    rng = np.random.default_rng(0)
    files = [f"{number:06d}.jpg" for number in range(1, COUNT + 1)]
    for number, file in enumerate(files):
        pixels = np.random.default_rng(number).integers(0, 256, (22, 18, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "img_align_celeba" / file)
    values = rng.choice([-1, 1], (COUNT, 3))
    rows = [f"{file} {a:2d} {b:2d} {c:2d}" for file, (a, b, c) in zip(files, values, strict=True)]
    lines = [str(COUNT), " ".join(NAMES), *rows]
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    identity = np.arange(COUNT) // 3 + 2880
    write_numbers(folder / "identity_CelebA.txt", files, identity)
    write_numbers(folder / "list_eval_partition.txt", files, np.repeat([0, 1, 2], [15, 3, 6]))
    return tmp_path, files, (values + 1) // 2, identity


def ready(datamodule):
    datamodule.prepare_data()
    datamodule.setup("fit")
    return datamodule


def test_images_targets_and_attributes(root):
    folder, files, values, identity = root
    data = ready(CelebA(folder, image_size=9))
    train, test = data.train_data, data.test_data
    assert isinstance(train, TensorData)
    assert (len(train), len(test), data.num_classes) == (15, 6, 2)
    for part, rows in ((train, np.arange(15)), (test, np.arange(18, 24))):
        assert part.targets.tolist() == values[rows, 1].tolist()
        assert part.attributes["identity"].tolist() == identity[rows].tolist()
        assert part.attributes["file"].tolist() == [files[row] for row in rows]
        assert part.attributes["Male"].tolist() == values[rows, 0].tolist()
        assert part.attributes["age"].tolist() == (1 - values[rows, 2]).tolist()
        for index, row in enumerate(rows):
            with Image.open(folder / "celeba" / "img_align_celeba" / files[row]) as image:
                fitted = np.array(ImageOps.fit(image, (9, 9), Image.Resampling.BILINEAR))
            assert np.array_equal(part.inputs[index].numpy(), fitted.transpose(2, 0, 1))
            torch.testing.assert_close(part[index][0], torch.tensor(fitted).permute(2, 0, 1) / 127.5 - 1)
    assert ready(CelebA(folder, target="Male")).train_data.targets.tolist() == values[:15, 0].tolist()


def test_images_that_do_not_fit_are_decoded_on_demand_and_are_the_same(root):
    folder, _, values, _ = root
    held = ready(CelebA(folder, image_size=9, val_fraction=0.2, batch_size=4, seed=1))
    lazy = ready(CelebA(folder, image_size=9, val_fraction=0.2, batch_size=4, seed=1, max_memory_gb=1e-6))
    for part in ("train_data", "val_data", "test_data"):
        one, other = getattr(held, part), getattr(lazy, part)
        assert isinstance(other, LazyImages)
        assert torch.equal(one.targets, other.targets)
        assert one.attributes.keys() == other.attributes.keys()
        assert one.attributes["file"].tolist() == other.attributes["file"].tolist()
        assert all(torch.equal(one[index][0], other[index][0]) for index in range(len(one)))
    for name in ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader"):
        batches = list(zip(getattr(held, name)(), getattr(lazy, name)(), strict=True))
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in batches)
    loaded = torch.cat([y for _, y in DataLoader(lazy.test_data, batch_size=4)])
    assert loaded.tolist() == values[18:, 1].tolist()
    # 15 images of 243 bytes are above the limit and 6 are not.
    mixed = ready(CelebA(folder, image_size=9, max_memory_gb=2e-6))
    assert isinstance(mixed.train_data, LazyImages)
    assert isinstance(mixed.test_data, TensorData)


def test_forgetting_identities_takes_all_their_images(root):
    folder, _, _, _ = root
    train = ready(CelebA(folder, image_size=4)).train_data
    data = SelectionData(len(train), targets=train.targets, attributes=train.attributes)
    split = make_split(len(train), 6, Groups("identity", 0.4, skew_by="age", skew=1.0), data, seed=0)
    assert len(split.forget) == 6
    forgotten = set(train.attributes["identity"][split.forget])
    assert not forgotten & set(train.attributes["identity"][split.retain])
    one = make_split(len(train), 6, Ids([2881], column="identity"), data, seed=0)
    assert one.forget.tolist() == [3, 4, 5]
    named = make_split(len(train), 6, Ids(["000002.jpg"], column="file"), data, seed=0)
    assert named.forget.tolist() == [1]


def test_limits(root):
    folder = root[0]
    data = ready(CelebA(folder, image_size=4, train_limit=4, test_limit=2))
    assert sorted(data.train_data.targets.tolist()) == [0, 0, 1, 1]
    assert data.train_data.attributes["Smiling"].tolist() == data.train_data.targets.tolist()
    assert len(data.test_data) == 2


@pytest.mark.parametrize(
    "name", ["list_attr_celeba.txt", "identity_CelebA.txt", "list_eval_partition.txt", "img_align_celeba"]
)
def test_missing_parts_are_named(root, name):
    folder = root[0]
    (folder / "celeba" / name).rename(folder / "moved")
    message = rf"CelebA not found: looked for .*celeba/{name}\. .*mmlab.*download=True"
    with pytest.raises(FileNotFoundError, match=message):
        ready(CelebA(folder))


def test_a_missing_image_and_a_damaged_one_are_named(root):
    folder, files, _, _ = root
    image = folder / "celeba" / "img_align_celeba" / files[3]
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"000004\.jpg cannot be decoded"):
        ready(CelebA(folder))
    image.unlink()
    with pytest.raises(FileNotFoundError, match=r"image file not found: .*000004\.jpg"):
        ready(CelebA(folder))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("identity_CelebA.txt", "000002.jpg 1\n", "does not list the same images"),
        ("identity_CelebA.txt", "", "is damaged"),
        ("identity_CelebA.txt", "000001.jpg one\n", "is damaged"),
        ("list_attr_celeba.txt", "3\nMale Smiling Young\n000001.jpg 1 -1\n", "is damaged"),
        ("list_attr_celeba.txt", "", "is damaged"),
    ],
)
def test_damaged_lists_are_refused(root, name, text, message):
    (root[0] / "celeba" / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name} {message}"):
        ready(CelebA(root[0]))


def test_a_partition_without_test_images_is_refused(root):
    folder, files, _, _ = root
    write_numbers(folder / "celeba" / "list_eval_partition.txt", files, np.zeros(COUNT, dtype=int))
    with pytest.raises(ValueError, match="names no test images"):
        ready(CelebA(folder))


def test_bad_arguments_are_refused(root):
    with pytest.raises(ValueError, match=r"one of Male, Smiling, Young; got 'Happy'"):
        ready(CelebA(root[0], target="Happy"))
    with pytest.raises(ValueError, match="image_size"):
        CelebA(root[0], image_size=0)
    with pytest.raises(ValueError, match="max_memory_gb"):
        CelebA(root[0], max_memory_gb=-1)
