"""Image data that can be installed with pip or apt, or read from a folder. If they are missing, an error names the
package or the folder; there are no substitutes.

All data have the form `LabelledImages`: images as uint8 of (N, channels, height, width) and int64 labels of (N,);
``in_unit_range()`` converts them to float32 in [0, 1]. Only `mnist_digits` and `fixed_digits` return flat floats, for
multilayer perceptrons.

Data that take long to read are prepared once and cached (`benchmarks.datasets.cache`).
"""

from .cifar import cifar100
from .class_folder import ClassFolder
from .classes import InMemoryClasses
from .digits import fixed_digits, mnist_digits, mnist_images, small_digits
from .idx_files import fashion_mnist, idx_folder
from .labelled_images import LabelledImages, Splits
from .mnist_sources import mnist_or_fashion
from .torchvision_loader import torchvision_images

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
    "mnist_or_fashion",
    "small_digits",
    "torchvision_images",
]
