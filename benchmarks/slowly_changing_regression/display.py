"""What is shown of Slowly-Changing Regression."""

from __future__ import annotations

from benchmarks.display import OPTIMIZERS, Display, Metric
from benchmarks.slowly_changing_regression.settings import Settings


def _about(settings: Settings) -> str:
    change = "are redrawn" if settings.variant == "redraw" else "change, one bit at a time,"
    return (
        f"Following a target of 100 threshold units with 5 hidden units ({settings.activation}); 15 of 20 input bits "
        f"{change} every {settings.flip_every:,} steps ({OPTIMIZERS[settings.optimizer]})"
    )


# How hard the current slow bits are moves all methods alike, so single bins hide what lasts.
DISPLAY = Display(
    x="step",
    main=Metric("squared_error", "Squared error before each update"),
    higher_is_better=False,
    about=_about,
    others=(),
    smooth=5,
)
