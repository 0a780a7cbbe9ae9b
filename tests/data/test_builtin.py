"""Built-in datamodules: digits, torchvision's sets, image folders, arrays; on real data and tiny files."""

import pickle

import lightning as L
import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from helpers.layouts import write_idx
from PIL import Image
from torchvision.transforms import functional as tv

from lightning_unlearn.data.builtin.arrays import Arrays
from lightning_unlearn.data.builtin.base import TensorDataModule, balanced_prefix, hold_out
from lightning_unlearn.data.builtin.digits import Digits
from lightning_unlearn.data.builtin.folder import ImageFolder
from lightning_unlearn.data.builtin.vision import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST
from lightning_unlearn.data.tensors import TensorData


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def ready(datamodule):
    datamodule.prepare_data()
    datamodule.setup("fit")
    return datamodule


# ---------------------------------------------------------------- the base class and the digits


def test_digits_are_those_of_scikit_learn_once_each():
    from sklearn.datasets import load_digits

    data = ready(Digits())
    bunch = load_digits()
    raw = torch.cat([data.train_data.inputs, data.test_data.inputs]) * 16
    labels = torch.cat([data.train_data.targets, data.test_data.targets])
    rows = sorted(map(tuple, torch.cat([raw.flatten(1), labels[:, None].float()], dim=1).tolist()))
    assert rows == sorted(map(tuple, np.column_stack([bunch.data, bunch.target]).tolist()))
    shares = torch.bincount(data.test_data.targets) / torch.as_tensor(np.bincount(bunch.target))
    assert (shares - 0.2).abs().max() < 0.01
    inputs, _ = data.train_data.batch(torch.arange(len(data.train_data)))
    assert inputs.shape[1:] == (1, 8, 8)
    assert abs(float(inputs.mean())) < 0.01
    assert abs(float(inputs.std()) - 1) < 0.01


def test_the_same_samples_are_held_out_whatever_the_seed():
    one, two = ready(Digits(seed=1, val_fraction=0.1)), ready(Digits(seed=2, val_fraction=0.1))
    for part in ("train_data", "val_data", "test_data"):
        assert torch.equal(getattr(one, part).inputs, getattr(two, part).inputs)
    assert (len(one.train_data), len(one.val_data), len(one.test_data)) == (1294, 144, 359)
    assert torch.equal(ready(Digits()).val_data.inputs, one.test_data.inputs)


def test_loaders_shuffle_for_training_only_and_by_the_seed(monkeypatch):
    def labels(loader):
        return torch.cat([y for _, y in loader])

    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    data = ready(Digits(batch_size=100, seed=5))
    assert [len(y) for _, y in data.train_dataloader()][:2] == [100, 100]
    assert sorted(labels(data.train_dataloader()).tolist()) == sorted(data.train_data.targets.tolist())
    assert not torch.equal(labels(data.train_dataloader()), data.train_data.targets)
    assert torch.equal(labels(data.train_dataloader()), labels(ready(Digits(seed=5)).train_dataloader()))
    assert not torch.equal(labels(data.train_dataloader()), labels(ready(Digits(seed=6)).train_dataloader()))
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert torch.equal(labels(loader), data.test_data.targets)
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert torch.equal(labels(ready(Digits()).train_dataloader()), labels(data.train_dataloader()))


def test_the_data_are_loaded_once():
    class Counting(TensorDataModule):
        loads = 0

        def load(self):
            self.loads += 1
            data = TensorData(torch.zeros(4, 1), torch.tensor([0, 1, 2, 0]))
            return data, data

    data = Counting()
    assert data.num_classes == 3
    data.setup("fit")
    data.setup("test")
    assert data.loads == 1


def test_hyper_parameters_are_plain_and_survive_a_checkpoint(tmp_path):
    data = MNIST(root=tmp_path, batch_size=7, train_limit=10)
    hparams = dict(data.hparams)
    assert hparams == {
        "root": str(tmp_path), "download": False, "batch_size": 7, "seed": None, "val_fraction": 0.0,
        "augment": False, "train_limit": 10, "test_limit": None,
    }  # fmt: skip
    torch.save(hparams, tmp_path / "hparams.pt")
    assert torch.load(tmp_path / "hparams.pt", weights_only=True) == hparams
    assert dict(CIFAR100(root=tmp_path).hparams)["augment"] is True


def test_a_trainer_runs_on_a_builtin_datamodule():
    class Linear(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(64, 10)

        def training_step(self, batch):
            return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

        def test_step(self, batch):
            correct = self.layer(batch[0].flatten(1)).argmax(1) == batch[1]
            self.log("accuracy", correct.float().mean(), batch_size=len(correct))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    model, data = Linear(), Digits(batch_size=32, seed=0)
    trainer.fit(model, data)
    assert trainer.test(model, data, verbose=False)[0]["accuracy"] > 0.85


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size"), ({"seed": -1}, "seed"), ({"val_fraction": 1.0}, "val_fraction")],
)
def test_bad_base_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Digits(**options)


def test_too_small_a_validation_fraction_is_refused():
    with pytest.raises(ValueError, match=r"val_fraction=0\.0001 would take 0 of 1438"):
        Digits(val_fraction=0.0001).setup("fit")


def test_hold_out_and_balanced_prefix_against_brute_force():
    targets = np.random.default_rng(0).choice(4, 200, p=[0.5, 0.3, 0.15, 0.05])
    rest, held = hold_out(targets, 0.25, name="size")
    assert sorted([*rest, *held]) == list(range(200))
    assert np.abs(np.bincount(targets[held]) - 0.25 * np.bincount(targets)).max() < 1
    previous: set[int] = set()
    for limit in range(1, 201):
        chosen = balanced_prefix(targets, limit, name="limit").tolist()
        # Taking one more of whichever class has fewest, if it has any left, gives these counts.
        counts, left = np.zeros(4, dtype=int), np.bincount(targets)
        for _ in range(limit):
            counts[min((c for c in range(4) if counts[c] < left[c]), key=lambda c: counts[c])] += 1
        observed = np.bincount(targets[chosen], minlength=4)
        assert sorted(observed) == sorted(counts)
        for label in range(4):
            members = np.flatnonzero(targets == label)
            assert [i for i in chosen if targets[i] == label] == members[: observed[label]].tolist()
        assert previous < set(chosen)
        previous = set(chosen)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        balanced_prefix(targets, 0, name="limit")


# ---------------------------------------------------------------- MNIST and Fashion-MNIST


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST])
def test_idx_files(tmp_path, cls):
    images = {"train": random_images(12, 28, 28), "t10k": random_images(5, 28, 28, seed=1)}
    labels = {"train": np.arange(12, dtype=np.uint8) % 10, "t10k": np.arange(5, dtype=np.uint8)}
    for part in images:
        write_idx(tmp_path / cls.__name__ / "raw" / f"{part}-images-idx3-ubyte", images[part])
        write_idx(tmp_path / cls.__name__ / "raw" / f"{part}-labels-idx1-ubyte", labels[part])
    data = ready(cls(tmp_path, augment=True))
    assert data.num_classes == 10
    assert np.array_equal(data.train_data.inputs.numpy(), images["train"][:, None])
    assert np.array_equal(data.test_data.inputs.numpy(), images["t10k"][:, None])
    assert data.train_data.targets.tolist() == labels["train"].tolist()
    assert data.train_data.inputs.dtype == torch.uint8
    assert data.train_data.augment.flip is (cls is FashionMNIST)
    inputs, _ = next(iter(data.test_dataloader()))
    mean, std = {"MNIST": (0.1307, 0.3081), "FashionMNIST": (0.286, 0.353)}[cls.__name__]
    expected = (torch.tensor(images["t10k"][:, None]) / 255 - mean) / std
    torch.testing.assert_close(inputs, expected)
    limited = ready(cls(tmp_path, train_limit=4, test_limit=2))
    assert limited.train_data.targets.tolist() == [0, 1, 2, 3]
    assert len(limited.test_data) == 2
    assert limited.train_data.augment is None


def test_real_mnist(shared_data):
    data = ready(MNIST(shared_data))
    expected = torchvision.datasets.MNIST(shared_data, train=False)
    assert (len(data.train_data), len(data.test_data)) == (60_000, 10_000)
    for index in (0, 777, 9_999):
        image, label = expected[index]
        expected_image = tv.normalize(tv.to_tensor(image), [0.1307], [0.3081])
        torch.testing.assert_close(data.test_data[index][0], expected_image)
        assert int(data.test_data[index][1]) == label
    pixels = data.train_data.inputs.double() / 255
    assert abs(float(pixels.mean()) - 0.1307) < 1e-4
    assert abs(float(pixels.std()) - 0.3081) < 1e-4


# ---------------------------------------------------------------- SVHN and CIFAR


@pytest.fixture
def any_checksum(monkeypatch):
    """Let torchvision accept files that are not the published ones."""
    for module in (torchvision.datasets.svhn, torchvision.datasets.cifar):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: True)


def write_svhn(root) -> np.ndarray:
    root.mkdir(exist_ok=True)
    images, labels = random_images(32, 32, 3, 11), (np.arange(11, dtype=np.uint8) % 10 + 1)[:, None]
    for part in ("train", "test"):
        scipy.io.savemat(root / f"{part}_32x32.mat", {"X": images, "y": labels})
    return images


def test_svhn(tmp_path, any_checksum):
    images = write_svhn(tmp_path)
    data = ready(SVHN(tmp_path, augment=True))
    assert np.array_equal(data.train_data.inputs.numpy(), images.transpose(3, 2, 0, 1))
    assert data.train_data.targets.tolist() == [*range(1, 10), 0, 1]  # the file writes the digit 0 as 10
    assert not data.train_data.augment.flip
    inputs, _ = data.test_data.batch(torch.arange(11))
    expected = tv.normalize(
        torch.tensor(images.transpose(3, 2, 0, 1)) / 255, [0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970]
    )
    torch.testing.assert_close(inputs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cls", [CIFAR10, CIFAR100])
def test_cifar(tmp_path, any_checksum, cls):
    published = getattr(torchvision.datasets, cls.__name__)
    folder = tmp_path / published.base_folder
    folder.mkdir()
    rows, labels, key = [], [], "labels" if cls is CIFAR10 else "fine_labels"
    names = [name for name, _ in published.train_list + published.test_list]
    for number, name in enumerate(names):
        rows.append(random_images(4, 3 * 32 * 32, seed=number))
        labels.append([number, 9, 3, 1])
        (folder / name).write_bytes(pickle.dumps({"data": rows[-1], key: labels[-1]}))
    meta = {published.meta["key"]: [str(number) for number in range(cls._num_classes)]}
    (folder / published.meta["filename"]).write_bytes(pickle.dumps(meta))
    data = ready(cls(tmp_path))
    assert data.num_classes == data.train_data.num_classes == cls._num_classes
    expected = np.concatenate(rows[:-1]).reshape(-1, 3, 32, 32)
    assert np.array_equal(data.train_data.inputs.numpy(), expected)
    assert data.train_data.targets.tolist() == [label for part in labels[:-1] for label in part]
    assert np.array_equal(data.test_data.inputs.numpy(), rows[-1].reshape(-1, 3, 32, 32))
    assert data.train_data.augment.flip
    plain = data.train_data.batch(torch.arange(4))[0]
    augmented = data.train_data.batch(torch.arange(4), generator=torch.Generator().manual_seed(0))[0]
    assert not torch.equal(plain, augmented)


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST, SVHN, CIFAR10, CIFAR100])
def test_missing_files_are_named_with_where_to_get_them_and_nothing_is_downloaded(tmp_path, monkeypatch, cls):
    def refuse(*args, **kwargs):
        raise AssertionError("tried to download")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    data = cls(tmp_path)
    data.prepare_data()
    with pytest.raises(FileNotFoundError) as caught:
        data.setup("fit")
    message = str(caught.value)
    assert message.startswith(f"{cls.__name__}, whole and as published, not found: looked for {tmp_path}")
    assert "http" in message
    assert "download=True" in message
    assert list(tmp_path.iterdir()) == []


def test_download_is_done_in_prepare_data_only_if_asked(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        torchvision.datasets, "SVHN", lambda root, split, download: calls.append((str(root), split, download))
    )
    SVHN(tmp_path).prepare_data()
    assert calls == []
    SVHN(tmp_path, download=True).prepare_data()
    assert calls == [(str(tmp_path), "train", True), (str(tmp_path), "test", True)]


def test_files_with_wrong_checksums_are_refused(tmp_path):
    write_svhn(tmp_path)
    with pytest.raises(FileNotFoundError, match="SVHN, whole and as published, not found"):
        SVHN(tmp_path).setup("fit")


# ---------------------------------------------------------------- image folders


def write_folder(root, sizes=((10, 10),)) -> None:
    for part in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            for number in range(3):
                path = root / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = random_images(*sizes[number % len(sizes)], 3, seed=label * 10 + number)
                Image.fromarray(image).save(path)


def test_image_folder(tmp_path):
    write_folder(tmp_path)
    data = ready(ImageFolder(tmp_path))
    reference = torchvision.datasets.ImageFolder(tmp_path / "train", transform=tv.pil_to_tensor)
    assert torch.equal(data.train_data.inputs, torch.stack([image for image, _ in reference]))
    assert data.train_data.targets.tolist() == reference.targets == [0, 0, 0, 1, 1, 1]
    assert data.num_classes == 2
    assert data.train_data.attributes["file"].tolist() == [
        "cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png", "dog/2.png",
    ]  # fmt: skip
    inputs, _ = data.train_data.batch(torch.arange(6))
    torch.testing.assert_close(inputs, data.train_data.inputs / 127.5 - 1)
    limited = ready(ImageFolder(str(tmp_path), train_limit=2, augment=True))
    assert limited.train_data.targets.tolist() == [0, 1]
    assert limited.train_data.augment is not None


def test_image_folder_cuts_the_centre_and_resizes(tmp_path):
    write_folder(tmp_path, sizes=((8, 12), (12, 8), (9, 9)))
    with pytest.raises(ValueError, match=r"images differ in size.*set image_size"):
        ready(ImageFolder(tmp_path))
    data = ready(ImageFolder(tmp_path, image_size=8))
    assert data.train_data.inputs.shape == (6, 3, 8, 8)
    wide = torch.as_tensor(random_images(8, 12, 3, seed=0)).permute(2, 0, 1)
    assert torch.equal(data.train_data.inputs[0], tv.center_crop(wide, [8, 8]))


def test_unusable_image_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"looked for .*/train\. .*one subfolder a class"):
        ready(ImageFolder(tmp_path))
    write_folder(tmp_path)
    (tmp_path / "test" / "dog" / "1.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"test/dog/1\.png cannot be decoded"):
        ready(ImageFolder(tmp_path))
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "wolf")
    with pytest.raises(ValueError, match="only one of them has dog, wolf"):
        ready(ImageFolder(tmp_path))
    with pytest.raises(ValueError, match="image_size must be"):
        ImageFolder(tmp_path, image_size=0)


def test_training_and_test_images_of_different_size_are_refused(tmp_path):
    write_folder(tmp_path)
    for path in (tmp_path / "test").rglob("*.png"):
        Image.fromarray(random_images(6, 6, 3)).save(path)
    with pytest.raises(ValueError, match=r"training and test images are \(10, 10\) and \(6, 6\)"):
        ready(ImageFolder(tmp_path))


# ---------------------------------------------------------------- arrays


def write_npz(path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [
        (random_images(10, 6, 6, 3), (3, 6, 6)),
        (random_images(10, 3, 6, 6), (3, 6, 6)),
        (random_images(10, 6, 6, 1), (1, 6, 6)),
        (random_images(10, 6, 6), (1, 6, 6)),
    ],
)
def test_image_arrays(tmp_path, inputs, shape):
    test = {"x_test": inputs[:4], "y_test": LABELS[:4] + 3}
    path = write_npz(tmp_path / "a.npz", x_train=inputs, y_train=LABELS, **test)
    data = ready(Arrays(path, augment=True))
    assert data.num_classes == data.train_data.num_classes == data.test_data.num_classes == 6
    assert data.train_data.inputs.shape[1:] == shape
    assert data.train_data.inputs.dtype == torch.uint8
    channels_last = inputs.ndim == 4 and inputs.shape[1] == 6
    channels_first = inputs.transpose(0, 3, 1, 2) if channels_last else inputs
    expected = torch.tensor(channels_first.reshape(10, *shape)) / 127.5 - 1
    torch.testing.assert_close(data.train_data.batch(torch.arange(10))[0], expected)
    own = ready(Arrays(path, mean=(0.25,), std=(0.5,)))
    torch.testing.assert_close(own.train_data.batch(torch.arange(10))[0], expected + 0.5)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8, np.bool_])
def test_tables_keep_their_values(tmp_path, dtype):
    table = np.random.default_rng(0).integers(0, 2, (10, 4)).astype(dtype)
    path = write_npz(tmp_path / "a.npz", x=table, y=LABELS.astype(np.uint8), id=np.arange(100, 110))
    data = ready(Arrays(path, test_fraction=0.3))
    assert (len(data.train_data), len(data.test_data), data.num_classes) == (7, 3, 3)
    for part in (data.train_data, data.test_data):
        rows = part.attributes["id"] - 100
        inputs, targets = part.batch(torch.arange(len(part)))
        assert inputs.dtype == torch.float32
        assert np.array_equal(inputs.numpy(), table[rows].astype(np.float32))
        assert targets.tolist() == LABELS[rows].tolist()
    std = (0.5, 0.5, 0.5, 0.25)
    normalised = ready(Arrays(path, test_fraction=0.3, mean=(0.5, 0.5, 0.5, 0.5), std=std))
    inputs, _ = normalised.train_data.batch(torch.arange(7))
    expected = (table[normalised.train_data.attributes["id"] - 100].astype(np.float32) - 0.5) / std
    np.testing.assert_allclose(inputs.numpy(), expected)


def test_attributes_of_divided_files(tmp_path):
    path = write_npz(
        tmp_path / "a.npz",
        x_train=np.zeros((10, 2)),
        y_train=LABELS,
        user_train=np.array(list("abcdefghij")),
        x_test=np.zeros((3, 2)),
        y_test=LABELS[:3],
        user_test=np.array(list("xyz")),
    )
    data = ready(Arrays(path))
    assert data.train_data.attributes["user"].tolist() == list("abcdefghij")
    assert data.test_data.attributes["user"].tolist() == list("xyz")


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"features": LABELS}, {}, r"holds \['features'\]; it must hold x_train"),
        ({"x": np.zeros((10, 2)), "y": LABELS / 2}, {}, "y must be class indices"),
        ({"x": np.zeros((10, 2)), "y": LABELS[:5]}, {}, "one entry per sample"),
        ({"x": np.zeros((10, 2)), "y": LABELS - 1}, {}, "from -1 to 1"),
        ({"x": np.zeros((10, 2)), "y": LABELS, "id": LABELS[:3]}, {}, r"attributes\['id'\]"),
        ({"x": np.zeros((10, 2)), "y": LABELS}, {"augment": True}, "augment=True needs images"),
        ({"x": np.array([{}] * 10), "y": LABELS}, {}, "plain arrays"),
        (
            {"x_train": LABELS[:, None], "y_train": LABELS, "x_test": LABELS[:, None], "y_test": LABELS},
            {"test_fraction": 0.1},
            "test_fraction=0.1 is for files with x and y only",
        ),
        ({"x": np.zeros((10, 2)), "y": LABELS}, {"mean": (0.5,)}, "mean and std go together"),
        ({"x": np.zeros((10, 2)), "y": LABELS}, {"test_fraction": 1.0}, "test_fraction must lie in"),
    ],
)
def test_unusable_array_files_are_refused(tmp_path, arrays, options, message):
    path = write_npz(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        Arrays(path, **options).setup("fit")


def test_missing_and_damaged_array_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"looked for .*absent\.npz.*numpy\.savez"):
        Arrays(tmp_path / "absent.npz").setup("fit")
    path = tmp_path / "a.npz"
    write_npz(path, x=np.zeros((10, 2)), y=LABELS)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a\.npz cannot be read"):
        Arrays(path).setup("fit")
