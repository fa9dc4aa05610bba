"""What the tables and pictures of permuted tasks show."""

from __future__ import annotations

from ..display import DEAD_AT_START, OPTIMIZERS, Display, Metric
from ..task_pictures import HEAT_MAPS, TWO_AXES
from .settings import SOURCES, TOLD_THE_TASK, Settings


def _about(settings: Settings) -> str:
    passes = "1 pass" if settings.epochs == 1 else f"{settings.epochs} passes"
    return (
        f"{settings.tasks} tasks with {settings.train:,} {SOURCES[settings.source]} each, a new permutation of the "
        f'pixels in every task, {passes} (784-{settings.hidden}-10, {OPTIMIZERS[settings.optimizer]}). "Own heads", '
        "HAT and its variants have an output layer for each task, and are told which task is tested"
    )


DISPLAY = Display(
    main=Metric("accuracy", "Mean accuracy on all tasks so far", percent=True),
    about=_about,
    asked="Are tasks learned and remembered?",
    others=(
        Metric("new_task", "Accuracy on the newest task", percent=True),
        Metric("old_tasks", "Accuracy on all earlier tasks", percent=True),
        Metric("online_accuracy", "Accuracy before each update", percent=True),
        Metric("backward_transfer", "Backward transfer", percent=True),
        Metric("one_step_backward_transfer", "Backward transfer in one step", percent=True),
        DEAD_AT_START,
    ),
    chance=0.1,
    plasticity=False,
    further=(TWO_AXES, HEAT_MAPS),
    pairs=(
        ("continual_backprop", "backprop"),
        ("ewc_cbp", "ewc"),
        ("ewc_cbp_protected", "ewc_cbp"),
        ("l2_init_ewc", "ewc"),
        ("er_cbp", "continual_backprop"),
        ("er_cbp", "er"),
        ("cbp_top", "continual_backprop"),
        ("upgd", "backprop"),
        ("upgd", "continual_backprop"),
        ("hat_cbp", "hat"),
        ("ada_hat", "hat"),
        ("fg_ada_hat", "ada_hat"),
        ("hat", "backprop_heads"),
        ("ada_hat", "backprop_heads"),
    ),
    compared=("accuracy", "new_task", "old_tasks"),
    axes=("new_task", "old_tasks"),
    told_the_task=TOLD_THE_TASK,
)
