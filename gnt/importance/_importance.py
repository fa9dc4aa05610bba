"""Importance: a running estimate of what each unit is worth, apart from replacement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

import torch
from torch.optim import Optimizer

from gnt._utils.dynamo import not_compiled
from gnt._utils.generators import new_generator
from gnt._utils.settings import checked_settings
from gnt._utils.state_dicts import Kind, check_entries, check_saved_state, counter, equal_to, random_state, sequence
from gnt._utils.validation import check_flags, check_kernels, to_float
from gnt.distributed.process_group import Processes, check_process_group, resolve_process_group
from gnt.importance._across_processes import check_shards
from gnt.importance._feature_batch import FeatureBatch, Features
from gnt.importance._gradient_scale import check_grad_scaler
from gnt.importance._measure_registry import find_measure
from gnt.importance._optimizer_step import AfterOptimizerStep
from gnt.importance._running_averages import RunningAverages
from gnt.importance._running_importance import RunningImportance
from gnt.names import Average, Utility
from gnt.units import Layers, StructureCheck, UnitGroup, groups_for_engine

AVERAGES = get_args(Average)
STATE_VERSION = 1

_REMEDY = "build a new Importance with the layers as they are now"
_ADVICE = {
    "groups": "build the Importance from the same layers, in the same order, on every rank",
    "settings": "give the Importance the same settings on every rank",
    "ages": "load the same checkpoint, and begin tasks at the same updates, on every rank",
}


@checked_settings(fixed=("measure", "average", "decay_rate"))
class Importance(RunningImportance):
    """A running estimate of the importance of each unit of some groups.

    It measures what `GnT` measures, with the same recording of features, and replaces nothing. Several of them, and
    engines, may read one network: the features of a forward are recorded once for all.

    With y the measure of a unit in one update, and a the number of updates since the unit started:

        "ema"        u <- d u + (1 - d) y;  importance u / (1 - d^a)
        "task_mean"  mean of y over the a updates since `begin_task`
        "latest"     y

    Args:
        layers: what `GnT` takes: a Sequential, a list of layers, a model with ``.layers``, or unit groups.
        measure: name of a measure (`gnt.importance.measures`), or of one registered with `gnt.register_utility`.
        average: "ema" (exponential moving average with age correction, as in `GnT`), "task_mean" or "latest".
        decay_rate: d, in [0, 1); also of the mean features f^, which some measures subtract.
        generator: for measures that draw random numbers. None makes one, seeded from torch's global generator.
        record: record features by hooks. With False, pass them to `update`.
        process_group: same as for `GnT`: means are over the samples of all processes.
        kernels: same as for `GnT`.
        grad_scaler: same as for `GnT`.

    Attributes:
        groups: tuple of `UnitGroup`, in order, of this object's own; ``group.state`` holds ages and running averages.
        values: the importance of each unit, (num_units,) for each group; 0 before its first update.
        updates: number of updates so far.

    Raises:
        ValueError: a setting outside its range, an unknown name, or layers that cannot be walked (`WalkError`).

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    >>> importance = gnt.importance.Importance(net, "contribution", average="task_mean")
    >>> for _ in range(5):
    ...     optimizer.zero_grad()
    ...     net(torch.randn(8, 4)).square().mean().backward()
    ...     optimizer.step()
    ...     importance.update()
    >>> importance.updates, importance.values[0].shape
    (5, torch.Size([3]))
    """

    def __init__(
        self,
        layers: Layers | Iterable[UnitGroup],
        measure: Utility = "contribution",
        *,
        average: Average = "ema",
        decay_rate: float = 0.99,
        generator: torch.Generator | None = None,
        record: bool = True,
        process_group: Any = None,
        kernels: bool | None = None,
        grad_scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        found = find_measure(measure, "measure")
        if average not in AVERAGES:
            raise ValueError(f"average must be one of {', '.join(AVERAGES)}, got {average!r}")
        if not 0.0 <= to_float(decay_rate) < 1.0:
            raise ValueError(f"decay_rate must be a number in [0, 1), got {decay_rate!r}")
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
        check_flags(record=record)
        check_process_group(process_group)
        check_kernels(kernels)
        check_grad_scaler(grad_scaler)
        self.average, self.decay_rate, self.process_group = average, float(decay_rate), process_group
        groups = groups_for_engine(layers, None, frozen=True)
        for group in groups:
            group.state = RunningAverages(
                group.num_units,
                decay_rate=self.decay_rate,
                averaged=average == "ema",
                corrected=found.corrected,
                like=group.incoming[0].weight,
                taps=len(group.taps),
                over_task=average == "task_mean",
            )
        generator = new_generator(groups[0].incoming[0].weight.device) if generator is None else generator
        super().__init__(groups, measure, generator, record=record, kernels=kernels, grad_scaler=grad_scaler)
        self.updates = 0
        self._structure: StructureCheck | None = StructureCheck(groups, _REMEDY, replaces=False)
        self._processes: Processes | None = None
        self._after_step: AfterOptimizerStep | None = None

    @not_compiled
    @torch.no_grad()
    def update(self, features: Features | None = None) -> None:
        """Measure the units of this step; call it after each optimizer step, and before `GnT.step`.

        Args:
            features: for each group what its consumer read before the optimizer's step, samples first: a tensor, or a
                list of tensors from several forwards. None takes what was recorded since the last update.

        A group without samples takes no part: it does not age.

        Raises:
            RuntimeError: nothing was recorded, no backward was seen and nothing was recorded for some groups, the
                network has changed, or `close` was called.
            ValueError: wrong number, shape, device or dtype of features.
            FloatingPointError: features or weights of a group are not finite (checked on the CPU only; on other devices
                the group keeps its averages and ``state.nonfinite`` counts). Nothing is changed.
        """
        processes = self._join_processes()
        batch = self._checked(features, none_is_error=processes is None)
        if not self._update_with(batch, processes):
            batch.check_recorded()

    @torch.no_grad()
    def update_recorded(self) -> None:
        """`update` with what was recorded; does nothing without features."""
        processes = self._join_processes()
        batch = self._checked(None, none_is_error=False)
        if batch.recorded_nothing is None or processes is not None:
            self._update_with(batch, processes)

    def _update_with(self, batch: FeatureBatch, processes: Processes | None) -> bool:
        updated = self.update_with(batch, processes)
        self.updates += updated
        return updated

    def _checked(self, features: Features | None, *, none_is_error: bool) -> FeatureBatch:
        if self._structure is None:  # in a copy
            self._structure = StructureCheck(self.groups, _REMEDY, replaces=False)
        elif not self._structure.is_current:
            self._structure.check(None)
        return self.take(features, none_is_error=none_is_error)

    def _join_processes(self) -> Processes | None:
        group = resolve_process_group(self.process_group)
        if group is None:
            if self.updates == 0:
                check_shards(self.groups, 1)
            return None
        if self._processes is None or self._processes.group is not group:
            self._processes = Processes(group)
            check_shards(self.groups, self._processes.size)
            described = {
                "groups": "; ".join(f"{group.name} ({group.num_units} units)" for group in self.groups),
                "settings": repr(self),
                "ages": str([(state.updates, state.born.tolist()) for state in self._states]),
            }
            device = self.groups[0].incoming[0].weight.device
            self._processes.synchronize(described, _ADVICE, (), (self.generator,), device)
        return self._processes

    @property
    def _states(self) -> list[RunningAverages]:
        return [group.state for group in self.groups]

    def begin_task(self) -> None:
        """Restart all units: ages 0, averages 0. With "task_mean" the importance is that of the new task."""
        for state in self._states:
            state.restart(torch.arange(state.num_units, device=state.born.device))

    def attach(self, optimizer: Optimizer) -> Importance:
        """Update after each step of ``optimizer``, before engines that are attached to it; returns this object.

        A step that a GradScaler skips, and one without a forward before it, is no update. Features of a forward whose
        gradients are abandoned are dropped. The state is not saved with the optimizer's: use `state_dict`.

        Raises:
            TypeError: not a torch optimizer.
            RuntimeError: it is attached already, or closed.
            ValueError: it does not record features.
        """
        self.feature_buffer.check_recording()
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        if self._after_step is not None:
            raise RuntimeError(f"this Importance is attached already, to {type(self._after_step.optimizer).__name__}")
        self._after_step = AfterOptimizerStep(self, optimizer)
        return self

    @property
    def waiting(self) -> bool:
        """True if any forward was recorded since the last update."""
        return self.feature_buffer.waiting

    def close(self) -> None:
        """Remove the hooks. The object can be read and saved afterwards, but not updated."""
        if self._after_step is not None:
            self._after_step.remove()
            self._after_step = None
        self.feature_buffer.close()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume exactly. Loads with ``torch.load(weights_only=True)``."""
        return {
            "version": STATE_VERSION,
            "measure": self.name,
            "average": self.average,
            "updates": self.updates,
            "generator": self.generator.get_state(),
            "groups": [{"name": g.name, "num_units": g.num_units, **g.state.state_dict()} for g in self.groups],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a saved state. ``decay_rate`` is a setting and is not saved.

        Raises:
            ValueError: not the result of `state_dict`, of another measure, average or network, or damaged. Nothing is
                changed.
        """
        self.load_checked(self.checked_state(state_dict))

    def checked_state(self, state_dict: Any) -> dict[str, Any]:
        """Check a saved state without loading it; the result is for `load_checked`.

        Raises:
            ValueError: as `load_state_dict`.
        """
        self.follow_network()
        kinds: dict[str, Kind] = {
            "measure": self._same("measure", self.name),
            "average": self._same("average", self.average),
            "updates": counter(),
            "generator": random_state(self.generator),
            "groups": sequence([_group_kind(group) for group in self.groups], f"{len(self.groups)} groups"),
        }
        return check_saved_state(state_dict, "Importance.state_dict()", kinds, STATE_VERSION)

    def load_checked(self, checked: dict[str, Any]) -> None:
        """Load what `checked_state` returned."""
        for state, saved in zip(self._states, checked["groups"], strict=True):
            state.load_checked(saved)
        self.generator.set_state(checked["generator"])
        self.updates = checked["updates"]
        self._processes = None
        self.discard()

    @staticmethod
    def _same(name: str, own: str) -> Kind:
        return equal_to(own, lambda saved: f"state_dict is of {name} {saved}, this Importance has {name} {own!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_structure": None, "_processes": None, "_after_step": None}

    def __repr__(self) -> str:
        units = sum(group.num_units for group in self.groups)
        settings = f"measure={self.name!r}, average={self.average!r}, decay_rate={self.decay_rate!r}"
        return f"Importance({len(self.groups)} groups, {units} units, {settings})"


def _group_kind(group: UnitGroup) -> Kind:
    """The saved state of one group."""

    def check(entry: Any, value: Any) -> dict[str, Any]:
        where = f" for group {group.name!r}"
        message = "state_dict is of another architecture: it has {} in place of {!r}" + where
        named = {
            "name": equal_to(group.name, lambda saved: message.format(saved, group.name)),
            "num_units": equal_to(group.num_units, lambda saved: message.format(f"{saved} units", group.num_units)),
        }
        check_entries(value, named, where)
        checked: dict[str, Any] = group.state.checked_state(value, where)
        return checked

    return check
