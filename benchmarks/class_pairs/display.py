"""What the table and picture of class pairs show."""

from __future__ import annotations

from ..display import Display, Metric
from .settings import Settings

_NAMES = {"fashion": "Fashion-MNIST", "imagenet": "ImageNet"}


def _about(settings: Settings) -> str:
    return (
        f"A new pair of classes of {_NAMES[settings.source]} in every task for the same convolutional network "
        f"({settings.train} images of each, {settings.epochs} epochs, SGD with momentum); its head is reset to zero"
    )


DISPLAY = Display(
    main=Metric("test_accuracy", "Accuracy on test images at the end of the task", percent=True),
    about=_about,
    chance=0.5,
    smooth=5,  # some pairs are harder than others
)
