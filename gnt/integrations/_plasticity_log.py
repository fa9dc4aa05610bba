"""What the callbacks that log plasticity have in common."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from gnt._utils.validation import check_known_settings, check_positive
from gnt.diagnosis import PlasticityCheck, check_data, check_settings, plasticity_check
from gnt.integrations._interval import Interval

_OWN = ("model", "make_optimizer", "data", "loss")
DEFAULTS = {"fresh": "labels", "steps": 100, "seeds": 3, "progress": False}


class PlasticityLog:
    """Runs `gnt.plasticity_check` every so many steps, and keeps the results.

    Attributes:
        every: the interval, in optimizer steps.
        interval: which steps are reached.
        settings: the settings of each check.
        latest: the latest result; None before the first.
        history: the figures of each check (`gnt.PlasticityCheck.to_dict`), by step, counted over all fits.

    Raises:
        TypeError, ValueError: an interval, settings, a loss or data that are not allowed.
    """

    def __init__(self, every: int, settings: dict[str, Any], loss: Any, data: Any) -> None:
        check_positive(every=every)
        if data is not None:
            check_data(data)
        allowed = [name for name in inspect.signature(plasticity_check).parameters if name not in _OWN]
        check_known_settings(settings, "LogPlasticity", ("every", "data", "loss"), allowed)
        check_settings(loss, **settings)  # now, not at the first check
        self.every, self.settings, self.interval = every, {**DEFAULTS, **settings}, Interval()
        self.latest: PlasticityCheck | None = None
        self.history: dict[int, dict[str, float]] = {}

    def is_due(self, step: int) -> bool:
        """True if a multiple of the interval has been reached since the last call."""
        return self.interval.is_due(step, self.every)

    def check(self, model: nn.Module, optimizer: Any, data: Any, loss: Any) -> dict[str, float]:
        """Check now, and return the figures."""
        self.latest = plasticity_check(model, optimizer, data, loss, **self.settings)
        self.history[self.interval.total] = self.latest.to_dict()
        return self.history[self.interval.total]


class PlasticityLogResults:
    """Base of the callbacks: the results of their ``_log``."""

    _log: PlasticityLog

    @property
    def latest(self) -> PlasticityCheck | None:
        """The result of the latest check; None before the first."""
        return self._log.latest

    @property
    def history(self) -> dict[int, dict[str, float]]:
        """The figures of each check by step, counted over all fits."""
        return self._log.history
