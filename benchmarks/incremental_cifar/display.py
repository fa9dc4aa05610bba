"""What is shown of class-incremental CIFAR."""

from __future__ import annotations

from benchmarks.display import DEAD, DORMANT, RANK, WEIGHTS, Display, Metric
from benchmarks.incremental_cifar.settings import Settings

_NAMES = {"fashion": "Fashion-MNIST", "cifar100": "CIFAR-100"}


def _about(settings: Settings) -> str:
    begin = {"nothing": "", "head": "; its head begins anew each time", "network": "; it begins anew each time"}
    return (
        f"{settings.step} more classes of {_NAMES[settings.source]} in every stage of {settings.epochs} passes for the "
        f"same ResNet-18 of width {settings.width}{begin[settings.reset]}"
    )


DISPLAY = Display(
    main=Metric("test_accuracy", "Right on test images of all classes so far", percent=True),
    about=_about,
    others=(DEAD, DORMANT, RANK, WEIGHTS),
)
