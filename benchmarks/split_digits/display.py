"""What the table and picture of split digits show."""

from __future__ import annotations

from ..display import WEIGHTS, Display, Metric
from ..task_pictures import HEAT_MAPS
from .settings import SOURCES, Settings

_ASKED = {
    "task": "the task is known and one of its two classes is asked for",
    "domain": "the task is not known, and first or second class of its task is asked for",
    "class": "the class among all ten is asked for",
}


def _about(settings: Settings) -> str:
    return (
        f"Ten classes of {SOURCES[settings.source]} in five tasks of two, one after the other ({settings.train} images "
        f"and {settings.epochs} epochs each); {_ASKED[settings.scenario]}"
    )


DISPLAY = Display(
    main=Metric("accuracy", "Mean accuracy on all tasks so far", percent=True),
    about=_about,
    asked="Are earlier classes remembered?",
    others=(
        Metric("forgetting", "Forgetting", percent=True),
        Metric("online_accuracy", "Accuracy before each update", percent=True),
        WEIGHTS,
    ),
    last=0.2,
    plasticity=False,
    further=(HEAT_MAPS,),
    pairs=(
        ("continual_backprop", "backprop"),
        ("ewc", "backprop"),
        ("si", "backprop"),
        ("mas", "backprop"),
        ("lwf", "backprop"),
        ("agem", "backprop"),
        ("der", "er"),
        ("der_plus_plus", "er"),
        ("gem", "er"),
        ("generative_replay", "er"),
        ("packnet", "backprop"),
        ("progressive", "backprop"),
        ("er", "joint"),
    ),
    compared=("accuracy", "forgetting"),
    references=("joint",),
    families=False,
)
