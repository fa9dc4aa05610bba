"""What is shown of slippery ant."""

from __future__ import annotations

from benchmarks.display import DEAD, RANK, WEIGHTS, Display, Figure
from benchmarks.slippery_ant.settings import Settings


def _about(settings: Settings) -> str:
    changes = f"another friction every {settings.change_every:,} steps" if settings.friction == "changing" else ""
    return ", ".join(filter(None, ["PPO teaches MuJoCo's Ant to run", changes])) + (
        "" if settings.scale >= 1 else f" ({settings.scale:.3g} of the published steps: no test of plasticity)"
    )


DISPLAY = Display(
    x="step",
    main=Figure("mean_return", "Return of an episode"),
    higher_is_better=True,
    about=_about,
    others=(DEAD, RANK, WEIGHTS),
)
