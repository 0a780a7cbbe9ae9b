"""Purchase and Location in their published formats."""

import gzip
import io
import tarfile

import numpy as np
import pytest
import torch

from lightning_unlearn.data.builtin.tabular import Location, Purchase, kmeans_classes, read_binary_table

FEATURES = np.random.default_rng(0).integers(0, 2, (60, 12))
LABELS = np.repeat([3, 1, 2], 20)


def csv(features=FEATURES, labels=None, quote: str = "") -> str:
    rows = [",".join(map(str, row)) for row in features.tolist()]
    if labels is not None:
        rows = [f"{quote}{label}{quote},{row}" for label, row in zip(labels.tolist(), rows, strict=True)]
    return "\n".join(rows) + "\n"


def write_tgz(path, name: str, text: str) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for entry, content in ((f"./._{name}", b"resource fork"), (name, text.encode())):
            info = tarfile.TarInfo(entry)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def rows_of(part, labels) -> list[tuple[int, ...]]:
    inputs, targets = part.batch(torch.arange(len(part)))
    assert inputs.dtype == torch.float32
    return [(int(labels[y]), *map(int, x)) for x, y in zip(inputs.tolist(), targets.tolist(), strict=True)]


@pytest.mark.parametrize("kind", ["plain", "csv", "gz", "tgz", "file"])
def test_purchase_with_labels(tmp_path, kind):
    text, root = csv(labels=LABELS), tmp_path
    if kind == "plain":
        (tmp_path / "dataset_purchase").write_text(text)
    elif kind == "csv":
        (tmp_path / "dataset_purchase.csv").write_text(text)
    elif kind == "gz":
        (tmp_path / "dataset_purchase.gz").write_bytes(gzip.compress(text.encode()))
    elif kind == "tgz":
        write_tgz(tmp_path / "dataset_purchase.tgz", "dataset_purchase", text)
    else:
        root = tmp_path / "other name"
        root.write_text(text)
    data = Purchase(root, test_size=15)
    assert data.num_classes == 3
    assert (len(data.train_data), len(data.test_data)) == (45, 15)
    everything = rows_of(data.train_data, [1, 2, 3]) + rows_of(data.test_data, [1, 2, 3])
    assert sorted(everything) == sorted(map(tuple, np.column_stack([LABELS, FEATURES]).tolist()))
    assert torch.bincount(data.test_data.targets).tolist() == [5, 5, 5]


def test_sizes(tmp_path):
    (tmp_path / "dataset_purchase").write_text(csv(labels=LABELS))
    whole, part = Purchase(tmp_path, test_size=0.25), Purchase(tmp_path, test_size=0.25, train_size=30)
    whole.setup("fit")
    part.setup("fit")
    assert torch.equal(whole.test_data.inputs, part.test_data.inputs)
    assert torch.bincount(part.train_data.targets).tolist() == [10, 10, 10]
    known = set(rows_of(whole.train_data, [1, 2, 3]))
    assert set(rows_of(part.train_data, [1, 2, 3])) <= known
    everything = Purchase(tmp_path, test_size=0.25, train_size=45)
    everything.setup("fit")
    assert torch.equal(everything.train_data.inputs, whole.train_data.inputs)
    with pytest.raises(ValueError, match="train_size=46 would take 46 of 45"):
        Purchase(tmp_path, test_size=0.25, train_size=46).setup("fit")
    with pytest.raises(ValueError, match="test_size=60 would take 60 of 60"):
        Purchase(tmp_path, test_size=60).setup("fit")


def blobs(groups: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows around centres that are far apart, so that any sound k-means finds the groups."""
    rng = np.random.default_rng(1)
    centres = np.kron(np.eye(groups, dtype=int), np.ones(12, dtype=int))
    truth = rng.permutation(np.repeat(np.arange(groups), each))
    return centres[truth] ^ (rng.random((len(truth), centres.shape[1])) < 0.02), truth


def test_kmeans_finds_groups_that_are_there():
    features, truth = blobs(groups=5, each=40)
    labels = kmeans_classes(features, 5)
    pairs = set(zip(labels.tolist(), truth.tolist(), strict=True))
    assert len(pairs) == 5
    assert np.array_equal(labels, kmeans_classes(features, 5))
    with pytest.raises(ValueError, match="classes=11 is too many for the 10 rows"):
        kmeans_classes(features[:10], 11)
    with pytest.raises(ValueError, match="classes=3 is too many"):
        kmeans_classes(np.zeros((50, 4)), 3)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("labels", [None, "in the file"])
def test_classes_replace_the_labels_of_the_file(tmp_path, labels):
    features, _ = blobs(groups=10, each=20)
    text = csv(features, labels=None if labels is None else np.arange(200) % 7 + 1)
    (tmp_path / "dataset_purchase").write_text(text)
    data = Purchase(tmp_path, classes=10)
    assert data.num_classes == 10
    assert data.train_data.inputs.shape == (160, 120)
    assert torch.bincount(data.train_data.targets).tolist() == [16] * 10


def test_purchase_without_labels_gets_a_hundred_classes(tmp_path):
    features = np.random.default_rng(0).integers(0, 2, (400, 12))
    (tmp_path / "dataset_purchase").write_text(csv(features))
    assert Purchase(tmp_path).num_classes == 100


def test_location_with_quoted_labels(tmp_path):
    (tmp_path / "bangkok").write_text(csv(labels=LABELS, quote='"'))
    plain = Location(tmp_path)
    plain.setup("fit")
    everything = rows_of(plain.train_data, [1, 2, 3]) + rows_of(plain.test_data, [1, 2, 3])
    assert sorted(everything) == sorted(map(tuple, np.column_stack([LABELS, FEATURES]).tolist()))
    (tmp_path / "archive").mkdir()
    write_tgz(tmp_path / "archive" / "dataset_location.tgz", "bangkok", csv(labels=LABELS, quote='"'))
    archived = Location(tmp_path / "archive")
    archived.setup("fit")
    assert torch.equal(archived.train_data.inputs, plain.train_data.inputs)


def test_real_location(shared_data):
    data = Location(shared_data)
    data.setup("fit")
    assert (len(data.train_data), len(data.test_data), data.num_classes) == (4008, 1002, 30)
    with np.load(shared_data / "location30.npz") as archive:
        expected = sorted(map(tuple, np.column_stack([archive["y"], archive["x"]]).tolist()))
    everything = rows_of(data.train_data, range(30)) + rows_of(data.test_data, range(30))
    assert sorted(everything) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,0,1\n2,0,x\n", "cannot be read as rows of integers"),
        ("1,0,1\n2,0\n", "cannot be read as rows of integers"),
        ("1,0,1\n2,0,3\n", "features of 0 and 1"),
        ("1,0,1\n2,0,-1\n", "features of 0 and 1"),
        ("3\n4\n", "no features"),
    ],
)
def test_damaged_tables_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "dataset_purchase"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"dataset_purchase .*{message}"):
        read_binary_table(path)


@pytest.mark.parametrize("name", ["dataset_purchase.gz", "dataset_purchase.tgz", "dataset_purchase.npz"])
def test_damaged_archives_are_refused_by_name(tmp_path, name):
    path = tmp_path / name
    for content in (b"nothing of the kind", gzip.compress(csv().encode())[:-20]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} cannot be read"):
            read_binary_table(path)


@pytest.mark.filterwarnings("ignore:loadtxt")
def test_empty_tables_are_refused(tmp_path):
    path = tmp_path / "dataset_purchase"
    path.write_text("")
    with pytest.raises(ValueError, match="no features"):
        read_binary_table(path)


def test_npz_tables_are_checked(tmp_path):
    path = tmp_path / "location30.npz"
    np.savez(path, x=FEATURES, y=LABELS[:7])
    with pytest.raises(ValueError, match="60 rows and labels of shape"):
        read_binary_table(path)
    np.savez(path, features=FEATURES)
    with pytest.raises(ValueError, match=r"holds \['features'\]"):
        read_binary_table(path)
    np.savez(path, x=FEATURES)
    features, labels = read_binary_table(path)
    assert np.array_equal(features, FEATURES)
    assert labels is None


def test_missing_files_and_bad_arguments(tmp_path):
    for cls, name in ((Purchase, "dataset_purchase"), (Location, "bangkok")):
        message = rf"{cls.__name__} not found: looked for .*{name}.*privacytrustlab"
        with pytest.raises(FileNotFoundError, match=message):
            cls(tmp_path).setup("fit")
    with pytest.raises(ValueError, match="classes must be at least 2"):
        Purchase(tmp_path, classes=1)
