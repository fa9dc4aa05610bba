"""What the table and picture of slippery ant show."""

from __future__ import annotations

from ..display import Display, Metric
from .settings import Settings


def _about(settings: Settings) -> str:
    changes = f"a new friction every {settings.change_every:,} steps" if settings.friction == "changing" else ""
    return ", ".join(filter(None, ["PPO trains MuJoCo's Ant to run", changes])) + (
        "" if settings.scale >= 1 else f" ({settings.scale:.3g} of the published steps, too few to test plasticity)"
    )


DISPLAY = Display(
    x="step",
    main=Metric("mean_return", "Return of an episode"),
    about=_about,
    asked="Does the agent still adapt? (too few steps to tell)",
)
