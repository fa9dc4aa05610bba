"""What the table and picture of nightly retraining show."""

from __future__ import annotations

from ..display import DEAD, RANK, Display, Metric
from .settings import SOURCES, Settings


def _about(settings: Settings) -> str:
    return (
        f"{settings.images:,} more {SOURCES[settings.source]} every night, and training on all so far until "
        f"{settings.until:.0%} are right (784-{settings.hidden}-10, Adam, at most {settings.epochs} passes); a cold "
        "start with a new network, all others with last night's"
    )


DISPLAY = Display(
    main=Metric("test_accuracy", "Accuracy on test images after the night", percent=True),
    about=_about,
    asked="Is last night's network as good as a new one?",
    x="night",
    others=(Metric("passes", "Passes over the images"), DEAD, RANK),
    seconds=True,
    plasticity=False,
)
