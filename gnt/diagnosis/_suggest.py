"""`suggest`: settings of replacement for a network and a stream, or what given settings mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from gnt._utils.plain_numbers import plain
from gnt._utils.tables import align_columns
from gnt._utils.validation import check_positive, finite_number, to_float
from gnt.replacement import EngineSettings, GnT, lifetime, replaced_per_update
from gnt.units import Layers, UnitGroup, groups_for_engine, unwrap

RENEW = 0.5  # share of the units that a task renews
USUAL_DECAY = 0.99
SHORTEST, LONGEST = 100, 1000  # maturity thresholds, in updates
HIGHEST_RATE = 0.01
_OFTEN = 10.0  # renewals of each unit within a task that are too many


@dataclass(frozen=True)
class GroupRenewal:
    """How fast settings renew one group.

    Attributes:
        name: its name.
        units: number of units; of all members together if the engine is that of an ensemble.
        first_due: number of updates until the first unit is due, in each member.
        updates_between: number of updates between two replacements in the long run, in any member; infinity: none.
        per_task: number of units replaced per task in the long run; None: the length of a task is not known.
        per_hour: number of units replaced per hour; None: the speed is not known.
    """

    name: str
    units: int
    first_due: float
    updates_between: float
    per_task: float | None
    per_hour: float | None


@dataclass(frozen=True)
class Suggestion:
    """Settings of replacement with the reasons; prints as text.

    Attributes:
        replacement_rate, maturity_threshold, decay_rate: the settings.
        renewed: share of the units that a task renews in the long run; above 1, units are renewed more than once.
            None: the length of a task is not known.
        lifetime: mean number of updates from a unit's start to its replacement.
        groups: the pace of each group.
        reasons: why these settings, and what they mean.
        warnings: what is wrong with them; empty if nothing is.
    """

    replacement_rate: float
    maturity_threshold: int
    decay_rate: float
    renewed: float | None
    lifetime: float
    groups: tuple[GroupRenewal, ...]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def settings(self) -> dict[str, float | int]:
        """The settings as keywords: ``gnt.GnT(net, optimizer, **suggestion.settings).attach()``."""
        return {
            "replacement_rate": self.replacement_rate,
            "maturity_threshold": self.maturity_threshold,
            "decay_rate": self.decay_rate,
        }

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value:g}" for name, value in self.settings.items())
        rows: list[tuple[str, ...]] = [("group", "units", "first due", "one every", "per task", "per hour")]
        for group in self.groups:
            optional = ("-" if each is None else plain(each) for each in (group.per_task, group.per_hour))
            times = ("never" if math.isinf(each) else plain(each) for each in (group.first_due, group.updates_between))
            rows.append((group.name, str(group.units), *times, *optional))
        lines = [settings, *(f"- {reason}" for reason in self.reasons), *align_columns(rows)]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def suggest(
    model: GnT | Layers | Iterable[UnitGroup],
    batch_size: int | None = None,
    *,
    steps_per_task: int | None = None,
    steps_per_second: float | None = None,
    renew: float = RENEW,
    replacement_rate: float | None = None,
    maturity_threshold: int | None = None,
    decay_rate: float | None = None,
) -> Suggestion:
    """Choose replacement rate, maturity threshold and decay rate, or check given ones, with the reasons in words.

    With T updates per task, m the maturity threshold and r the replacement rate, a unit lives m + 1/r updates on
    average, so that a task renews the share T / (m + 1/r) of the units. The rules::

        m = T / 50, but from 100 to 1,000, and at most T / 10
        r = renew / (T - renew * m), at most 0.01
        decay rate = 0.99; below m = 100: 1 - 1/m, so that the average is not longer than the time to maturity

    They follow published settings: 0.9 renewals of a unit per task in Continual ImageNet, 1 in Slowly-Changing
    Regression and 0.06 in Online Permuted MNIST (Dohare et al., Nature 632, 2024), and maturity thresholds from 10 to
    10,000. docs/choosing_settings.md lists them. They are a start for a search by factors of 10, not an optimum.

    Args:
        model: an engine, whose settings are checked; layers or unit groups as for `gnt.GnT`: `gnt.trace(model, x)`.
        batch_size: samples per update.
        steps_per_task: number of updates until the data change, T. Needed unless all three settings are given.
        steps_per_second: updates per second, for figures per hour.
        renew: share of the units that a task should renew.
        replacement_rate, maturity_threshold, decay_rate: settings to be checked in place of suggested ones.

    Raises:
        TypeError: a model of another kind; neither settings nor ``steps_per_task``; settings beside an engine.
        ValueError: values out of range.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(20, 200), torch.nn.ReLU(), torch.nn.Linear(200, 5))
    >>> found = gnt.suggest(net, batch_size=32, steps_per_task=10_000)
    >>> found.maturity_threshold, round(found.replacement_rate, 7), found.decay_rate
    (200, 5.05e-05, 0.99)
    >>> engine = gnt.GnT(net, **found.settings)
    >>> print(gnt.suggest(engine, steps_per_task=10_000).warnings)
    ()
    """
    if steps_per_task is not None:
        check_positive(steps_per_task=steps_per_task)
    if batch_size is not None:
        check_positive(batch_size=batch_size)
    if steps_per_second is not None:
        steps_per_second = finite_number("steps_per_second", steps_per_second, exclusive=True)
    renew = finite_number("renew", renew, exclusive=True)
    given: dict[str, Any] = {
        "replacement_rate": replacement_rate,
        "maturity_threshold": maturity_threshold,
        "decay_rate": decay_rate,
    }
    EngineSettings(**{name: value for name, value in given.items() if value is not None})
    names_and_units, members, at_most_one = _groups(model), 1, False
    if isinstance(model, GnT):
        if named := [name for name, value in given.items() if value is not None]:
            raise TypeError(f"{', '.join(named)} would be ignored: the engine has settings of its own")
        if model.soft is not None:
            raise ValueError("model must be an engine that replaces units, got one with soft replacement")
        given = {name: getattr(model, name) for name in given}
        members, at_most_one = model.members, model.accumulate == "one"
    missing = [name for name, value in given.items() if value is None]
    if missing and steps_per_task is None:
        raise TypeError(f"steps_per_task is needed to suggest {', '.join(missing)}: the number of updates per task")
    settings, reasons = _filled(given, steps_per_task, renew)
    rate, threshold = to_float(settings["replacement_rate"]), int(settings["maturity_threshold"])
    lives = lifetime(rate, threshold)
    groups = tuple(
        _renewal(name, units, members, rate, threshold, at_most_one, steps_per_task, steps_per_second)
        for name, units in names_and_units
    )
    total = sum(units for _, units in names_and_units)
    replaced = [0.0 if math.isinf(group.updates_between) else 1.0 / group.updates_between for group in groups]
    renewed = None if steps_per_task is None else steps_per_task * math.fsum(replaced) / max(total, 1)
    reasons += _meaning(lives, threshold, renewed, steps_per_task, batch_size, to_float(settings["decay_rate"]))
    return Suggestion(
        replacement_rate=rate,
        maturity_threshold=threshold,
        decay_rate=to_float(settings["decay_rate"]),
        renewed=renewed,
        lifetime=lives,
        groups=groups,
        reasons=tuple(reasons),
        warnings=tuple(_warnings(rate, threshold, renewed, groups, steps_per_task)),
    )


def _groups(model: Any) -> list[tuple[str, int]]:
    """Names and numbers of units that can be replaced."""
    if isinstance(model, GnT):
        return [(group.name, group.num_units - group.state.num_protected) for group in model.groups]
    layers = unwrap(model) if isinstance(model, nn.Module) else model
    return [(group.name, group.num_units) for group in groups_for_engine(layers, None)]


def _filled(given: dict[str, Any], task: int | None, renew: float) -> tuple[dict[str, Any], list[str]]:
    """The settings, with suggestions for those that are None, and the reasons."""
    settings, reasons = dict(given), []
    if settings["maturity_threshold"] is None:
        assert task is not None
        threshold = max(1, min(max(SHORTEST, min(LONGEST, task // 50)), task // 10))
        settings["maturity_threshold"] = threshold
        reasons.append(
            f"maturity_threshold={threshold}: a new unit learns for {threshold / task:.1%} of a task of {task:,} "
            "updates, and is compared with others then"
        )
    if settings["replacement_rate"] is None:
        assert task is not None
        left = task - renew * to_float(settings["maturity_threshold"])
        wanted = renew / left if left > 0 else math.inf
        settings["replacement_rate"] = float(f"{min(HIGHEST_RATE, wanted):.3g}")
        reasons.append(
            f"replacement_rate={HIGHEST_RATE:g}: the highest rate that is suggested; a task renews less than "
            f"{renew:.0%} of the units"
            if wanted > HIGHEST_RATE
            else f"replacement_rate={settings['replacement_rate']:g}: a task then renews {renew:.0%} of the units"
        )
    if settings["decay_rate"] is None:
        threshold = int(settings["maturity_threshold"])
        decay = USUAL_DECAY if threshold >= SHORTEST else 1.0 - 1.0 / max(threshold, 1)
        settings["decay_rate"] = decay
        reasons.append(
            f"decay_rate={decay:.3g}: utilities are averages over about {plain(1 / (1 - decay))} updates, not longer "
            "than the time to maturity"
        )
    return settings, reasons


def _renewal(
    name: str,
    units: int,
    members: int,
    rate: float,
    threshold: int,
    at_most_one: bool,
    task: int | None,
    speed: float | None,
) -> GroupRenewal:
    of_one = units // members  # each member of an ensemble counts what is due among its own units
    pace = members * replaced_per_update(of_one, rate, threshold, at_most_one=at_most_one)
    return GroupRenewal(
        name,
        units,
        first_due=to_float(threshold) + (math.ceil(1.0 / (rate * of_one)) if rate * of_one else math.inf),
        updates_between=1.0 / pace if pace else math.inf,
        per_task=None if task is None else pace * task,
        per_hour=None if speed is None else pace * speed * 3600.0,
    )


def _meaning(
    lives: float, threshold: int, renewed: float | None, task: int | None, batch_size: int | None, decay: float
) -> list[str]:
    if math.isinf(lives):
        return []
    tasks = "" if task is None else f", {plain(lives / task)} tasks"
    young = to_float(threshold) / lives
    found = [f"a unit lives about {plain(lives)} updates{tasks}; for {young:.0%} of them it is too young"]
    if renewed is not None:
        found.append(f"a task renews {100 * renewed:.3g}% of the units in the long run")
    if batch_size is not None:
        found.append(f"utilities are averages over about {plain(batch_size / (1.0 - decay))} samples")
    return found


def _warnings(
    rate: float, threshold: int, renewed: float | None, groups: Sequence[GroupRenewal], task: int | None
) -> list[str]:
    found = []
    never = [group.name for group in groups if math.isinf(group.updates_between)]
    if never:
        why = f"replacement_rate={rate:g} and maturity_threshold={threshold}" if rate else "replacement_rate=0"
        found.append(f"no unit of {', '.join(never)} is ever replaced: {why}, or all are protected")
    elif task is not None:
        late = [group for group in groups if group.first_due > task]
        if late:
            first = ", ".join(f"{group.name} after {plain(group.first_due)}" for group in late[:3])
            found.append(
                f"within the {task:,} updates of the first task no unit is replaced: the first is due in {first}"
            )
    if renewed is not None and renewed > _OFTEN:
        found.append(
            f"everything is replaced {plain(renewed)} times within a task, and what a unit has learned does not last: "
            "take a smaller replacement_rate"
        )
    if rate * to_float(threshold) > 1.0:
        found.append(
            f"more than half of the units are too young at any time, for 1 / replacement_rate = {plain(1 / rate)} is "
            f"below maturity_threshold={threshold}: nearly every unit is replaced soon after it is old enough"
        )
    return found
