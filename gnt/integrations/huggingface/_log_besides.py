"""Log entries of callbacks, beside those of the trainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerControl


def log_besides(trainer: Any, control: TrainerControl, figures: dict[str, float]) -> None:
    """Log figures in an event of a callback.

    Each log entry marks the trainer's own as written (``should_log``), so that it would leave out loss and learning
    rate.
    """
    should_log = control.should_log
    trainer.log(figures)
    control.should_log = should_log
