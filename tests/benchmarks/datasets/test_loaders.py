"""Each loader on files of its format, and on missing or damaged files."""

import gzip
import hashlib
import os
import pickle
import sys

import numpy as np
import pytest
import torch

from benchmarks import datasets
from benchmarks.datasets import idx_files
from benchmarks.errors import CannotRun
from tests.benchmarks.datasets import raw_files


def digest(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]


def test_mnist_digits_have_not_changed():
    images, digits = datasets.mnist_digits()
    assert (images.shape, images.dtype, digits.dtype) == ((5000, 784), torch.float32, torch.int64)
    assert digest(images) == "4bfcb11bc0773f99"
    assert torch.equal(digits, torch.arange(10).repeat_interleave(500))
    assert digest(datasets.fixed_digits()) == "62ae4cdd3df97bc8"


def test_small_digits_have_the_documented_format():
    small = datasets.small_digits()
    assert small.images.shape == (1797, 1, 8, 8)
    assert small.in_unit_range().max() == 1
    assert set(torch.bincount(small.labels).tolist()) <= set(range(170, 190))
    # the first image is the zero in scikit-learn's documentation
    assert small.images[0, 0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert small.labels[0] == 0


@pytest.mark.parametrize("compress", [True, False])
def test_idx_files_are_read(compress, tmp_path):
    checksums = raw_files.write_idx_folder(tmp_path, compress=compress)
    train, test = datasets.idx_folder(tmp_path, checksums)
    images, labels = raw_files.alternating_digits(40)
    assert torch.equal(torch.cat([train.images, test.images])[:, 0], images)
    assert torch.equal(torch.cat([train.labels, test.labels]), labels)
    assert len(train) == 300
    assert torch.equal(train.of_class(4).images[:, 0], images[4:300:10])


def test_checksums_are_those_of_the_uncompressed_files(tmp_path):
    checksums = raw_files.write_idx_folder(tmp_path)
    other = tmp_path / "t10k-labels-idx1-ubyte.gz"
    other.write_bytes(gzip.compress(gzip.decompress(other.read_bytes()), compresslevel=1, mtime=5))
    assert len(datasets.idx_folder(tmp_path, checksums).test) == 100
    labels = bytearray(gzip.decompress(other.read_bytes()))
    labels[20] ^= 1
    other.write_bytes(gzip.compress(labels))
    with pytest.raises(CannotRun, match=r"t10k-labels-idx1-ubyte\.gz is not the published file: the SHA-256 of its"):
        idx_files.read_idx(other, checksums["t10k-labels-idx1-ubyte"])


def test_fashion_mnist_is_read_from_debians_package_or_an_error_says_how_to_install_it(monkeypatch, tmp_path):
    # Debian's files are read where the package is installed; the rest holds everywhere.
    if idx_files.DEBIAN.is_dir():
        train, test = datasets.fashion_mnist()
        assert torch.bincount(train.labels).tolist() == [6000] * 10
        assert torch.bincount(test.labels).tolist() == [1000] * 10
    monkeypatch.setattr(idx_files, "DEBIAN", tmp_path / "nothing")
    with pytest.raises(CannotRun, match="apt install dataset-fashion-mnist"):
        datasets.fashion_mnist()
    raw_files.write_idx_folder(tmp_path / "digits")
    monkeypatch.setattr(idx_files, "DEBIAN", tmp_path / "digits")  # files with the same names, but other content
    with pytest.raises(CannotRun, match=r"train-images-idx3-ubyte\.gz is not the published file"):
        datasets.fashion_mnist()


HEADER = bytes([0, 0, 8, 1, 0, 0, 0, 5])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(HEADER + b"12345")[:-6], "Cannot read .*Compressed file ended.*Copy it there again"),
        (gzip.compress(HEADER + b"1234"), "should have 5 bytes after its header, but has 4"),
        (gzip.compress(b"\x00\x00\x0d\x01" + HEADER[4:] + b"1" * 20), "not an IDX file of unsigned bytes.*00 00 0d 01"),
        (gzip.compress(b""), "not an IDX file of unsigned bytes: it begins with nothing"),
        (b"<html>not found</html>", "Cannot read .*Not a gzipped file"),
    ],
)
def test_a_damaged_idx_file_is_reported(content, message, tmp_path):
    file = tmp_path / "train-labels-idx1-ubyte.gz"
    file.write_bytes(content)
    with pytest.raises(CannotRun, match=message):
        idx_files.read_idx(file)


def test_missing_idx_files_are_reported(tmp_path):
    raw_files.write_idx_folder(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(
        CannotRun, match=r"must contain t10k-images-idx3-ubyte or t10k-images-idx3-ubyte\.gz.*has neither"
    ):
        datasets.idx_folder(tmp_path)


def test_idx_files_of_different_lengths_are_reported(tmp_path):
    raw_files.write_idx_folder(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(HEADER + b"\1\2\3\4\5"))
    with pytest.raises(
        CannotRun, match=r"must have shapes \(N, height, width\) and \(N,\), got \(300, 28, 28\) and \(5,\)"
    ):
        datasets.idx_folder(tmp_path)


def test_class_arrays_are_read(tmp_path):
    raw_files.write_class_folder(tmp_path)
    classes = datasets.ClassFolder(tmp_path, train=12, test=4)
    assert len(classes) == 10
    images, labels = raw_files.alternating_digits(16)
    for label in (3, 8):
        train, test = classes.splits(label)
        assert (train.images.shape, test.images.shape) == ((12, 3, 32, 32), (4, 3, 32, 32))
        expected = torch.from_numpy(raw_files.coloured(images[labels == label]).transpose(0, 3, 1, 2).copy())
        assert torch.equal(torch.cat([train.images, test.images]), expected)
        assert torch.cat([train.labels, test.labels]).unique().tolist() == [label]


def test_classes_are_ordered_by_number_then_by_name(tmp_path):
    for name in ("10", "9", "b", "a"):
        np.save(tmp_path / f"{name}.npy", np.zeros((1, 4, 4, 3), np.uint8))
    assert [file.stem for file in datasets.ClassFolder(tmp_path).files] == ["9", "10", "a", "b"]


def test_a_folder_without_class_arrays_is_reported(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(CannotRun, match=r"one \.npy file per class, each uint8 of \(700, 32, 32, 3\)"):
            datasets.ClassFolder(folder)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((16, 32, 32, 3)), r"got float64 of \(16, 32, 32, 3\)"),
        (np.zeros((15, 32, 32, 3), np.uint8), r"16 or more.*got uint8 of \(15, 32, 32, 3\)"),
        (np.zeros((16, 32, 32), np.uint8), r"got uint8 of \(16, 32, 32\)"),
        (np.array([None]), "Cannot read .*Object arrays cannot be loaded"),
    ],
)
def test_a_class_array_of_another_format_is_reported(array, message, tmp_path):
    np.save(tmp_path / "0.npy", array)
    with pytest.raises(CannotRun, match=message):
        datasets.ClassFolder(tmp_path, train=12, test=4).splits(0)


def test_class_arrays_are_verified_when_they_are_read(tmp_path):
    raw_files.write_class_folder(tmp_path, classes=2)
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in tmp_path.glob("*.npy")]
    (tmp_path / "SHA256SUMS").write_text("\n".join(lines))
    classes = datasets.ClassFolder(tmp_path, train=12, test=4)
    content = bytearray((tmp_path / "1.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "1.npy").write_bytes(content)
    classes.splits(0)
    with pytest.raises(CannotRun, match=r"1\.npy does not have the checksum in SHA256SUMS"):
        classes.splits(1)


def test_cifar100_is_read_without_torchvision(tmp_path):
    checksums = raw_files.write_cifar100(tmp_path)
    images, labels = raw_files.alternating_digits(8)
    expected = torch.from_numpy(raw_files.coloured(images).transpose(0, 3, 1, 2).copy())
    for folder in (tmp_path, tmp_path / "cifar-100-python"):
        train, test = datasets.cifar100(folder, checksums)
        assert torch.equal(torch.cat([train.images, test.images]), expected)
        assert torch.equal(torch.cat([train.labels, test.labels]), labels)
    with pytest.raises(CannotRun, match="train is not the published file: its MD5 is"):
        datasets.cifar100(tmp_path)
    with pytest.raises(CannotRun, match=r"no CIFAR-100 in .*pip install torchvision; python -c .*CIFAR100"):
        datasets.cifar100(tmp_path / "nothing")


class Harmful:
    def __reduce__(self):
        return os.system, ("echo called > called",)


def test_a_cifar_file_cannot_call_functions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checksums = raw_files.write_cifar100(tmp_path)
    content = pickle.dumps({"data": Harmful(), "fine_labels": []})
    (tmp_path / "cifar-100-python" / "train").write_bytes(content)
    checksums["train"] = hashlib.md5(content).hexdigest()
    with pytest.raises(CannotRun, match=r"refers to (posix|nt)\.system, which is not allowed"):
        datasets.cifar100(tmp_path, checksums)
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise ModuleNotFoundError(\"No module named 'torchvision'\", name='torchvision')", "pip install torchvision"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "the one built for torch"),
    ],
)
def test_a_missing_or_broken_torchvision_is_reported(source, message, tmp_path, monkeypatch):
    (tmp_path / "torchvision.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(CannotRun, match=message):
        datasets.torchvision_images("MNIST", ".")


def test_an_unknown_data_set_of_torchvision_is_reported():
    with pytest.raises(CannotRun, match=r"unknown data set 'MNITS' of torchvision\. Known: MNIST, FashionMNIST"):
        datasets.torchvision_images("MNITS", ".")


def test_images_and_labels_of_another_format_are_refused():
    with pytest.raises(ValueError, match=r"images must be uint8 of .* got torch.float32 of \(2, 1, 4, 4\)"):
        datasets.LabelledImages(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels must be int64 of \(2,\), one per image, got torch.int64 of \(3,\)"):
        datasets.LabelledImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
