"""What the table and picture of class-incremental CIFAR show."""

from __future__ import annotations

from ..display import DEAD, DORMANT, RANK, WEIGHTS, Display, Metric
from .settings import Settings

_NAMES = {"fashion": "Fashion-MNIST", "cifar100": "CIFAR-100"}


def _about(settings: Settings) -> str:
    reset = {"nothing": "", "head": "; its head is reset each time", "network": "; it is reset each time"}
    return (
        f"{settings.step} more classes of {_NAMES[settings.source]} in every stage of {settings.epochs} epochs for the "
        f"same ResNet-18 of width {settings.width}{reset[settings.reset]}"
    )


DISPLAY = Display(
    main=Metric("test_accuracy", "Accuracy on test images of all classes so far", percent=True),
    about=_about,
    asked="Are more classes still learned?",
    others=(DEAD, DORMANT, RANK, WEIGHTS),
)
