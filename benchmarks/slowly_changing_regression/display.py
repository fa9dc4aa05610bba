"""What the table and picture of Slowly-Changing Regression show."""

from __future__ import annotations

from ..display import OPTIMIZERS, Display, Metric
from .settings import Settings


def _about(settings: Settings) -> str:
    change = "are redrawn" if settings.variant == "redraw" else "change, one bit at a time,"
    return (
        f"Tracking a target of 100 threshold units with 5 hidden units ({settings.activation}); 15 of 20 input bits "
        f"{change} every {settings.flip_every:,} steps ({OPTIMIZERS[settings.optimizer]})"
    )


# smooth: the difficulty of the current slow bits affects all methods alike and hides the trend in single bins
DISPLAY = Display(
    x="step",
    main=Metric("squared_error", "Squared error before each update"),
    higher_is_better=False,
    about=_about,
    asked="Does the error grow?",
    others=(),
    smooth=5,
)
