"""The images of class-incremental CIFAR."""

from __future__ import annotations

from ..datasets import Splits, cifar100, fashion_mnist, idx_folder
from ..errors import CannotRun
from .images import ImageSplits, split
from .schedule import class_order
from .settings import Settings


def load_images(settings: Settings, seed: int) -> ImageSplits:
    """The images that the settings ask for, with the classes in this seed's order.

    Raises:
        CannotRun: the data are missing, or have too few images.
    """
    data = _find(settings)
    order = class_order(int(data.train.labels.max()) + 1, seed)
    return split(data, order, settings.train, settings.validation, settings.test, settings.shrink)


def _find(settings: Settings) -> Splits:
    if settings.source == "fashion":
        return idx_folder(settings.data) if settings.data else fashion_mnist()
    if not settings.data:
        raise CannotRun(
            "The published setting needs CIFAR-100: --data FOLDER, torchvision's download folder, or one that "
            "contains cifar-100-python. Without it: --size quick."
        )
    return cifar100(settings.data)
