"""Real data that installs with pip or apt, or lies in a folder that you give. Without it there is a message that
names the package or the path, never a substitute.

One form for all: `LabelledImages`, images as uint8 of (N, channels, height, width) beside int64 labels of (N,);
``in_unit_range()`` makes float32 in [0, 1] of them, which is what networks read. Only `mnist_digits` and
`fixed_digits` give flat floats at once, for the experiments with multilayer perceptrons.

What takes time to read is cached_tensors once and kept in a cache (`benchmarks.datasets.cache`).
"""

from benchmarks.datasets.cifar import cifar100
from benchmarks.datasets.class_folder import ClassFolder
from benchmarks.datasets.classes import InMemoryClasses
from benchmarks.datasets.digits import fixed_digits, mnist_digits, mnist_images, small_digits
from benchmarks.datasets.idx_files import fashion_mnist, idx_folder
from benchmarks.datasets.labelled_images import LabelledImages, Splits
from benchmarks.datasets.torchvision_loader import torchvision_images

__all__ = [
    "ClassFolder",
    "InMemoryClasses",
    "LabelledImages",
    "Splits",
    "cifar100",
    "fashion_mnist",
    "fixed_digits",
    "idx_folder",
    "mnist_digits",
    "mnist_images",
    "small_digits",
    "torchvision_images",
]
