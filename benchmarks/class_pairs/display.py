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


_DIVERGENCE = (
    "Why continual backprop diverges with most seeds at a learning rate of 0.05, and backprop with one: the step of "
    "SGD with momentum 0.9 is too large for this network, with either method. At the start of a task, the curvature "
    "of the output layer reaches up to 4.9 times the limit of stability with backprop, and 1.8 times with continual "
    "backprop (seed 2, 12 and 8 tasks). Whether a task then explodes depends on disturbances, and replacements are "
    "some: when task 9 is learned again from the same state with the same order of images, the loss overflows as "
    "before, but stays below 0.7 without replacement, and also with half of the learning rate. The size of new "
    "weights is not the reason: with torch's default instead of Kaiming's the loss overflows, too. With other orders "
    "of the images (four were tried) nothing explodes. Use a smaller step: with a learning rate of 0.03 each method "
    "diverges with one seed of five, with the published 0.01 with none. `python scripts/class_pairs_divergence.py "
    "--first-seed 2 --seeds 1 --tasks 12` prints such figures."
)

DISPLAY = Display(
    main=Metric("test_accuracy", "Test accuracy at the end of the task", percent=True),
    about=_about,
    asked="Are new pairs still learned?",
    chance=0.5,
    notes=(_DIVERGENCE,),
    smooth=5,  # some pairs are harder than others
)
