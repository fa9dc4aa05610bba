"""Writes raw data files in their published formats from MNIST digits, so that no other data are needed."""

import gzip
import hashlib
import pickle

import numpy as np
import torch

from benchmarks.datasets import mnist_images
from benchmarks.datasets.idx_files import NAMES


def alternating_digits(per_class):
    """The first digits of each class in the order 0, 1, ..., 9, 0, 1, ...: images (N, 28, 28) and labels."""
    digits = mnist_images()
    order = torch.arange(5000).view(10, 500)[:, :per_class].T.reshape(-1)
    return digits.images[order, 0], digits.labels[order]


def idx_bytes(values):
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


def write_idx_folder(folder, train=30, test=10, compress=True):
    """A folder like Debian's, with this number of digits per class. Returns the checksums of the uncompressed files."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = alternating_digits(train + test)
    parts = (images[: 10 * train], labels[: 10 * train], images[10 * train :], labels[10 * train :])
    checksums = {}
    for name, part in zip(NAMES, parts, strict=True):
        content = idx_bytes(part)
        checksums[name] = hashlib.sha256(content).hexdigest()
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / name).write_bytes(content)
    return checksums


def coloured(images):
    """Digits as (N, 32, 32, 3): the channels are the padded digit, its mirror image and its negative."""
    framed = np.pad(images.numpy(), ((0, 0), (2, 2), (2, 2)))
    return np.stack([framed, framed[:, :, ::-1], 255 - framed], axis=-1)


def write_class_folder(folder, train=12, test=4, classes=10):
    """A folder like Continual ImageNet's, with an array per class; that of class 3 has its channels first."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = alternating_digits(train + test)
    for label in range(classes):
        array = coloured(images[labels == label])
        np.save(folder / f"{label}.npy", array.transpose(0, 3, 1, 2) if label == 3 else array)


def write_cifar100(folder, train=6, test=2):
    """A folder ``cifar-100-python`` with the digits as classes. Returns the checksums."""
    subfolder = folder / "cifar-100-python"
    subfolder.mkdir(parents=True)
    images, labels = alternating_digits(train + test)
    flat = coloured(images).transpose(0, 3, 1, 2).reshape(len(images), -1)
    checksums = {}
    for part, chosen in (("train", slice(0, 10 * train)), ("test", slice(10 * train, None))):
        held = {"data": flat[chosen], "fine_labels": labels[chosen].tolist(), "coarse_labels": [], "batch_label": part}
        content = pickle.dumps(held, protocol=2)
        checksums[part] = hashlib.md5(content).hexdigest()
        (subfolder / part).write_bytes(content)
    return checksums
