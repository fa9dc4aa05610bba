"""Where the classes come from."""

from __future__ import annotations

from benchmarks.class_pairs.settings import Settings
from benchmarks.datasets import ClassFolder, InMemoryClasses, fashion_mnist, idx_folder
from benchmarks.datasets.classes import ClassSource
from benchmarks.errors import CannotRun


def load_classes(settings: Settings) -> ClassSource:
    """The classes that the settings ask for.

    Raises:
        CannotRun: the data are not there, or there are fewer than three classes.
    """
    classes: ClassSource
    if settings.source == "imagenet":
        if not settings.data:
            raise CannotRun(
                "The published setting needs ImageNet's images, which come with no package: --data FOLDER, a folder "
                "with one .npy array a class, uint8 of (700, 32, 32, 3) or (700, 3, 32, 32). Without it: --size "
                "fashion."
            )
        classes = ClassFolder(settings.data, train=settings.train, test=settings.test)
    else:
        classes = InMemoryClasses(idx_folder(settings.data) if settings.data else fashion_mnist())
    if len(classes) < 3:
        raise CannotRun(f"{settings.data} has {len(classes)} classes; pairs that change from task to task need 3.")
    return classes
