"""BoundGroups: the unit groups that an engine is bound to, their network and optimizer, and the other processes.

Before each step the engine checks that these are still what it was built for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnt.distributed.process_group import Processes, is_initialized, resolve_process_group
from gnt.importance import FeatureBatch, Features, Measure, check_shards
from gnt.replacement import _process_agreement
from gnt.replacement._protection import Protection
from gnt.replacement._rebinding import carry_state, find_kept
from gnt.replacement._setting_changes import ChangeableSettings
from gnt.replacement._slowed_learning import SlowedLearning
from gnt.replacement.eligibility import UnitState
from gnt.replacement.optimizer_state import OptimizerStateReset
from gnt.units import StructureCheck, UnitGroup


class BoundGroups(ChangeableSettings):
    """The groups of an engine with their states, and the checks that come before a step.

    Attributes:
        groups, optimizer_state, importance, updates, loaded, replaced, selected: those of `EngineCore`.
    """

    optimizer_state: OptimizerStateReset | None
    updates: int
    loaded: bool
    replaced: list[Tensor]
    selected: list[Tensor]
    generator: torch.Generator
    _structure: StructureCheck | None
    _processes: Processes | None
    _slowing: SlowedLearning | None

    def check_can_slow(self, protection: Protection) -> None:
        """Raise ValueError if held units are to learn more slowly, and the engine has no optimizer to slow."""
        if self.optimizer_state is None and protection.top_units is not None and protection.top_units.slow < 1:
            raise ValueError(
                f"protect={protection.top_units!r} slows the steps of an optimizer, and the engine has none: pass it, "
                "GnT(layers, optimizer, ...), or set slow=1"
            )

    def protection_changed(self) -> None:
        """Let the hooks that slow the optimizer's steps on held units fit the protection and the optimizer."""
        top_units = self.protection.top_units
        slows = self.optimizer_state is not None and top_units is not None and top_units.slow < 1
        optimizer = self.optimizer_state.optimizer if slows and self.optimizer_state is not None else None
        if self._slowing is not None and self._slowing.optimizer is optimizer:
            self._slowing.bind(self.protection, self.groups)
            return
        if self._slowing is not None:
            self._slowing.remove()
        self._slowing = None if optimizer is None else SlowedLearning(optimizer, self.protection, self.groups)

    def read_protection(self) -> None:
        """Ask the objects that protect units, as `ChangeableSettings.read_protection`."""
        self.check_can_slow(self.protection)
        super().read_protection()

    def new_state(self, group: UnitGroup, measure: Measure) -> UnitState:
        """A state of new units for a group, with running averages as the measure asks for."""
        return UnitState(
            group.num_units,
            decay_rate=self.decay_rate,
            maturity_threshold=self.maturity_threshold,
            averaged=measure.averaged,
            like=group.incoming[0].weight,
            taps=len(group.taps),
            corrected=measure.corrected,
            strict=self.accumulate == "one",
            measure_every=self.measure_every,
        )

    def bind(self, groups: tuple[UnitGroup, ...], optimizer_state: OptimizerStateReset | None) -> None:
        """Take checked groups in place of those before; units that stay keep their ages, averages and counters."""
        structure = self._structure or StructureCheck(self.groups)
        kept = [find_kept(group, self.groups, structure.weight_before) for group in groups]
        earlier = dict(zip(map(id, self.groups), self.slot_inits, strict=True))
        slot_inits, states = [], []
        protection = self.new_protection(self.protect, groups)
        protected = protection.ask()
        for group, stays in zip(groups, kept, strict=True):
            state = self.new_state(group, self.importance.measure)
            state.hold_by_importance(protection.top_units is not None)
            if stays is not None:
                carry_state(state, stays, group)
            else:
                state.start_at(self.updates)
            states.append(state)
            if stays is not None and stays.all:
                slot_inits.append(earlier[id(stays.group)])
            else:
                slot_inits.append(self.new_inits(group, self.init, self.bias_init))
        for group, state in zip(groups, states, strict=True):
            group.state = state
        protection.apply(protected)
        self.protection = protection
        self.importance.rebind(groups)
        self.groups, self.slot_inits, self.optimizer_state = groups, slot_inits, optimizer_state
        self._structure = StructureCheck(groups)
        self.selected, self.replaced, self._processes = [], self.no_units(), None
        self.captured_absent: frozenset[int] | None = None
        self.protection_changed()

    def no_units(self) -> list[Tensor]:
        """Empty indices for each group."""
        return [group.state.no_units for group in self.groups]

    def take_features(self, features: Features | None = None) -> FeatureBatch:
        """Check the recorded (or given) features and take them; a learner does so before the optimizer's step.

        With several processes it is no error that this one has none: the others may have.
        """
        self.check_structure()
        return self.take(features, none_is_error=not self.has_other_processes)

    def take(self, features: Features | None = None, *, none_is_error: bool) -> FeatureBatch:
        """`FeatureBuffer.take` without the features of frozen groups, after `check_structure`."""
        batch = self.importance.take(features, none_is_error=none_is_error)
        if frozen := self.frozen:
            batch.leave_out(frozen)
        return batch

    def check_features(self) -> None:
        """Check the recorded features, as `take_features` does, without taking them."""
        self.check_structure()
        self.importance.check_features()

    @property
    def has_other_processes(self) -> bool:
        """True if several processes may train this network."""
        return self.process_group is not False and is_initialized()

    def check_structure(self) -> None:
        """Check that the network is still the one that the engine was built for.

        Raises:
            RuntimeError: a layer or parameter was replaced, or a layer inserted. Nothing is changed.
        """
        structure = self._structure
        if not isinstance(
            self.groups[0].state, UnitState
        ):  # a learner captures a graph: the network holds other tensors
            return
        if structure is None:  # in a copy
            structure = self._structure = StructureCheck(self.groups)
        elif structure.is_current:
            return
        structure.check(self.optimizer_state.optimizer if self.optimizer_state is not None else None)
        self.structure_changed()

    @property
    def frozen(self) -> frozenset[int]:
        """Numbers of the groups with a frozen weight, which take no part in a step."""
        return frozenset() if self._structure is None else self._structure.frozen

    def structure_changed(self) -> None:
        """Called after a change of the network that was found to be no obstacle."""

    def follow_network(self) -> None:
        """Move the engine's state to the network's device and dtype."""
        self.importance.follow_network()

    def join_processes(self, further_settings: str = "") -> Processes | None:
        """The processes that train this network, after a check that they agree; None if there is only one.

        Args:
            further_settings: settings that must be the same in all processes, besides those of the engine.
        """
        first = self.updates == 0 or self.loaded
        if not first and not self.has_other_processes:
            return None
        group = resolve_process_group(self.process_group)
        if group is None:
            if first:
                check_shards(self.groups, 1)
            return None
        if self._processes is None or self._processes.group is not group:
            self._processes = Processes(group)
        if first:
            check_shards(self.groups, self._processes.size)
        if not self._processes.synchronized:
            settings = f"{self!r}, activation={self.activation!r}, kernels={self.kernels!r}{further_settings}"
            if self.protection.top_units is not None:
                settings += f", {self.protection.top_units!r}"
            _process_agreement.synchronize(
                self._processes, self.groups, settings, self.slot_inits, (self.generator, self.host_generator)
            )
        return self._processes
