"""What the table and picture of the flights show."""

from __future__ import annotations

from ..display import DEAD, OPTIMIZERS, RANK, Display, Metric
from .settings import Settings


def _about(settings: Settings) -> str:
    passes = "once" if settings.epochs == 1 else f"for {settings.epochs} passes"
    return (
        f"Flights from New York, {settings.days} days of 2013: each day it is predicted which ones arrive more than "
        f"{settings.late} minutes late, then the day is learned {passes} ({OPTIMIZERS[settings.optimizer]})"
    )


DISPLAY = Display(
    main=Metric("auc", "Area under the ROC curve of the day, before it is learned"),
    about=_about,
    asked="Is a slowly changing stream still learned?",
    x="day",
    others=(Metric("log_loss", "Log loss of the day, before it is learned"), DEAD, RANK),
    chance=0.5,
    smooth=31,
)
