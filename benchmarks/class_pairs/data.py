"""The image classes of class pairs."""

from __future__ import annotations

from ..datasets import ClassFolder, InMemoryClasses, fashion_mnist, idx_folder
from ..datasets.classes import ClassSource
from ..errors import CannotRun
from .settings import Settings


def load_classes(settings: Settings) -> ClassSource:
    """The classes that the settings ask for.

    Raises:
        CannotRun: the data are missing, or there are fewer than three classes.
    """
    classes: ClassSource
    if settings.source == "imagenet":
        if not settings.data:
            raise CannotRun(
                "The published setting needs ImageNet's images, which no package contains: --data FOLDER, a folder "
                "with one .npy array per class, uint8 of (700, 32, 32, 3) or (700, 3, 32, 32). Without it: --size "
                "fashion."
            )
        classes = ClassFolder(settings.data, train=settings.train, test=settings.test)
    else:
        classes = InMemoryClasses(idx_folder(settings.data) if settings.data else fashion_mnist())
    if len(classes) < 3:
        raise CannotRun(
            f"{settings.data} has {len(classes)} classes; pairs that change from task to task need at least 3."
        )
    return classes
