"""Changes of the settings of a running engine: checked as at construction, and in force from the next step on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from gnt.importance import RunningImportance
from gnt.initialization import Init, SlotInit, find_slot_init
from gnt.replacement._config import ENGINE_SETTINGS, EngineSettings
from gnt.replacement._protection import Protection
from gnt.units import UnitGroup

READ_ONLY = {
    "utility": "its running averages are those of {old!r}; build a new GnT with utility={new!r}",
    "activation": "it is part of the unit groups; build a new GnT with activation={new!r}",
    "measure_every": "its running averages count every {old!r}. update; build a new GnT with measure_every={new!r}",
}


class ChangeableSettings(EngineSettings):
    """The settings of an engine with groups: assigning one checks the value and carries the change out everywhere.

    Changes of ``utility``, ``activation`` and ``measure_every`` are refused.

    Attributes:
        groups, members, slot_inits, importance, host_generator, protection, selected: those of `EngineCore`.
    """

    groups: tuple[UnitGroup, ...]
    members: int
    slot_inits: list[list[SlotInit]]
    importance: RunningImportance
    host_generator: torch.Generator
    protection: Protection
    selected: list[Tensor]
    _processes: Any

    def change_setting(self, name: str, value: Any) -> None:
        """Assign a setting.

        Raises:
            AttributeError: a setting that cannot be changed.
            TypeError, ValueError: as at construction. Nothing is changed.
        """
        old = vars(self)[name]
        if value is old or (isinstance(value, (bool, int, float, str)) and type(value) is type(old) and value == old):
            return
        if name in READ_ONLY:
            raise AttributeError(f"{name} of an engine cannot be changed: {READ_ONLY[name].format(old=old, new=value)}")
        kept = {each: vars(self)[each] for each in ENGINE_SETTINGS if each != "generator"}
        value = vars(EngineSettings(**{**kept, name: value}))[name]
        carry_out: dict[str, Callable[[Any], None]] = {
            "maturity_threshold": self._change_maturity_threshold,
            "decay_rate": self._change_decay_rate,
            "init": lambda init: self.choose_inits(init, self.bias_init),
            "bias_init": lambda bias_init: self.choose_inits(self.init, bias_init),
            "accumulate": self._change_accumulate,
            "kernels": self._change_kernels,
            "generator": self._change_generator,
            "process_group": self._change_process_group,
            "protect": self._change_protect,
            "grad_scaler": self._change_grad_scaler,
        }
        if name in carry_out:
            carry_out[name](value)
        vars(self)[name] = value

    def _change_maturity_threshold(self, threshold: int) -> None:
        for group in self.groups:
            vars(group.state)["maturity_threshold"] = threshold
            group.state.recount_eligible()

    @torch.no_grad()
    def _change_decay_rate(self, decay_rate: float) -> None:
        """Corrected averages stay the same at the change."""
        for state in (group.state for group in self.groups):
            before, features_before = state.correction(state.measured_age), state.correction(state.feature_age)
            vars(state)["decay_rate"] = decay_rate
            state.mean_features.mul_(state.correction(state.feature_age) / features_before)
            if state.corrected:
                state.utility.mul_(state.correction(state.measured_age) / before)
        self.importance.rebuild()

    def choose_inits(self, init: Init, bias_init: str) -> None:
        """Choose the initial distributions of new units, "auto" and "initial" by present values."""
        self.slot_inits = [self.new_inits(group, init, bias_init) for group in self.groups]

    def new_inits(self, group: UnitGroup, init: Init, bias_init: str) -> list[SlotInit]:
        """The initial distributions at each slot of a group that is drawn."""
        return [find_slot_init(group, slot, init, bias_init, self.members) for slot in group.drawn]

    def _change_accumulate(self, accumulate: bool | str) -> None:
        for group in self.groups:
            vars(group.state)["strict"] = accumulate == "one"
            if accumulate != "one":  # what was carried over beyond one unit is dropped
                group.state.accumulated = min(group.state.accumulated, 1.0)

    def _change_kernels(self, kernels: bool | None) -> None:
        self.importance.set_kernels(kernels)

    def _change_generator(self, generator: torch.Generator | None) -> None:
        if generator is None or not isinstance(self.generator, torch.Generator):
            wanted = "cannot be changed: it has one for each member" if generator else "must be a torch.Generator"
            raise TypeError(f"generator of a running engine {wanted}, got {generator!r}")
        self.host_generator = self.importance.generator = generator
        if generator.device.type != "cpu":
            self.host_generator = torch.Generator().manual_seed(generator.initial_seed())
        self._processes = None  # before the next step all processes get the state of the first one's

    def _change_process_group(self, process_group: Any) -> None:
        self._processes = None  # before the next step the processes of the new group compare what they have

    def _change_grad_scaler(self, grad_scaler: torch.amp.GradScaler | None) -> None:
        self.importance.feature_buffer.grad_scaler = grad_scaler

    def new_protection(self, protect: Any, groups: Sequence[UnitGroup]) -> Protection:
        """The protection of these groups by ``protect``, not read yet."""
        self.check_protect(protect)
        return Protection(protect, groups)

    def check_protect(self, protect: Any) -> None:
        """Raise an error for what this kind of engine does not take as ``protect``."""

    def _change_protect(self, protect: Any) -> None:
        protection = self.new_protection(protect, self.groups)
        self.check_can_slow(protection)
        protection.read()
        self.protection, self.selected = protection, []
        self.protection_changed()

    def check_can_slow(self, protection: Protection) -> None:
        """Raise an error if units are to be slowed, and the engine has no optimizer."""

    def protection_changed(self) -> None:
        """Called when other objects protect units."""

    def read_protection(self) -> None:
        """Ask the objects that protect units. What has changed is in force from then on; it ends a selection.

        Raises:
            TypeError, ValueError: what an object returns cannot be used. The engine has changed nothing.
        """
        if self.protect is not None and self.protection.read():
            self.selected = []


class SettingOfEngine:
    """Descriptor of one setting of an engine. Reading finds the value in the instance, as without a descriptor."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __set__(self, engine: ChangeableSettings, value: Any) -> None:
        engine.change_setting(self._name, value)

    def __delete__(self, engine: ChangeableSettings) -> None:
        raise AttributeError(f"{self._name} of an engine cannot be deleted")


class SettingOfState:
    """Descriptor of an attribute of a group's state that follows a setting of the engine."""

    def __init__(self, name: str, setting: str) -> None:
        self._name, self._setting = name, setting

    def __set__(self, state: object, value: Any) -> None:
        if self._name in vars(state):
            raise AttributeError(f"{self._name} of a group's state is set by its engine: assign engine.{self._setting}")
        vars(state)[self._name] = value  # at construction


Engine = TypeVar("Engine", bound=type[ChangeableSettings])
State = TypeVar("State", bound=type[Any])


def check_changes_of_settings(kind: Engine) -> Engine:
    """Decorate a class of engines, so that assigning a setting calls `ChangeableSettings.change_setting`."""
    for name in ENGINE_SETTINGS:
        setattr(kind, name, SettingOfEngine(name))
    return kind


def set_by_engine(**settings: str) -> Callable[[State], State]:
    """Decorate a class of states, whose attributes follow settings of the engine: attribute -> setting."""

    def decorate(kind: State) -> State:
        for name, setting in settings.items():
            setattr(kind, name, SettingOfState(name, setting))
        return kind

    return decorate
