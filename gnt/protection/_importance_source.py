"""Where FG-AdaHAT's importance of a unit comes from in a step: a measure of the training step, or an attribution."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, get_args

import torch
from torch import Tensor, nn

from gnt.importance import ATTRIBUTIONS, MEASURES, GroupWatches, Importance, check_attribution
from gnt.names import AttributionOf
from gnt.protection._attribution_source import AttributionSource
from gnt.protection._measured_step import Measured
from gnt.units import UnitGroup

OF = get_args(AttributionOf)
_OF_LOSS = "gradient_activation"  # a measure under this name is that of the loss
_NOT_OF_LOSS = ("deeplift", "deeplift_shap", "lrp")  # their rules would have to go through the loss


class ImportanceSource(Protocol):
    """What `FGAdaHAT` asks in each step."""

    def watch(self, parameter: Tensor) -> None:
        """Give the parameter that each backward pass of a step reaches."""

    def observe(self, x: Any, y: Any) -> None:
        """Inputs and targets of a batch of the coming step."""

    def check_ready(self) -> None:
        """Raise RuntimeError if the step could not be measured."""

    def measure(self, gates: Callable[[], contextlib.AbstractContextManager[None]]) -> Measured | None:
        """The step that was made; None: there is nothing to measure.

        Args:
            gates: makes a context in which the network has the gates of the step without gradients.

        Raises:
            FloatingPointError: values that are not finite (on the CPU; see `check_finite`).
        """

    def check_finite(self) -> None:
        """Raise FloatingPointError if some values of the task were not finite; reads the device."""

    def skip(self) -> None:
        """The step that was made is not measured."""

    def begin_task(self) -> None:
        """A task begins."""

    def restart_units(self, number: int, units: Tensor) -> None:
        """Units of a group have been replaced."""

    def state_dict(self) -> dict[str, Any]:
        """What is saved."""

    def checked_state(self, state: Any) -> Any:
        """Check a saved state without loading it."""

    def load_checked(self, checked: Any) -> None:
        """Load a checked state."""

    def close(self) -> None:
        """Remove hooks."""


class MeasureSource:
    """A measure of the registry: from what the training step has computed.

    Args:
        groups: the units.
        name: name of the measure.
        process_group: the processes over whose samples means are taken.
        kernels: use the C kernels on the CPU; None: where there are kernels.
    """

    def __init__(self, groups: Sequence[UnitGroup], name: str, process_group: Any, *, kernels: bool | None) -> None:
        self.reads = MEASURES[name].reads
        generator = torch.Generator(groups[0].incoming[0].weight.device).manual_seed(torch.initial_seed() % 2**63)
        self._nonfinite_before = 0
        self._importance = Importance(
            groups, name, average="latest", generator=generator, process_group=process_group, kernels=kernels
        )
        features = self._importance.feature_buffer
        features.require_backward()
        self._watches = GroupWatches(groups, features.by_group())

    def watch(self, parameter: Tensor) -> None:
        """Parameters of the groups are watched."""

    def observe(self, x: Any, y: Any) -> None:
        """Inputs and targets are not needed."""

    def check_ready(self) -> None:
        """Any step can be measured."""

    def measure(self, gates: Callable[[], contextlib.AbstractContextManager[None]]) -> Measured | None:
        """The values of the step that was made."""
        before = self._importance.updates
        self._watches.drop_abandoned()
        self._importance.update_recorded()
        if self._importance.updates == before:
            return None
        return Measured(self._importance.latest(), self._importance.absent)

    def check_finite(self) -> None:
        """Raise FloatingPointError if some values of the task were not finite."""
        if self._nonfinite() > self._nonfinite_before:
            raise FloatingPointError(f"importance {self._importance.name!r} was not finite in a step of the task")

    def _nonfinite(self) -> int:
        return int(sum(int(group.state.nonfinite) for group in self._importance.groups))

    def skip(self) -> None:
        """Drop the features of the step."""
        self._importance.discard()

    def begin_task(self) -> None:
        """Reset the running averages of features."""
        self._importance.discard()
        self._importance.begin_task()
        self._nonfinite_before = self._nonfinite()

    def restart_units(self, number: int, units: Tensor) -> None:
        """Reset the averages of units."""
        self._importance.restart_units(self._importance.groups[number], units)

    def state_dict(self) -> dict[str, Any]:
        """The state of the running averages."""
        return self._importance.state_dict()

    def checked_state(self, state: Any) -> Any:
        """Check a saved state."""
        return self._importance.checked_state(state)

    def load_checked(self, checked: Any) -> None:
        """Load a checked state."""
        self._importance.load_checked(checked)

    def close(self) -> None:
        """Stop the recording."""
        self._watches.remove()
        self._importance.close()


def source_maker(
    importance: Any, of: Any, settings: dict[str, Any], *, kernels: bool | None
) -> Callable[[nn.Module, Sequence[UnitGroup], Any], MeasureSource | AttributionSource]:
    """Check the name and the settings of an importance; the result makes its source for a network.

    Raises:
        ValueError: an unknown name; a setting that it does not take, lacks, or that is out of range.
    """
    if of not in OF:
        raise ValueError(f"of must be one of {', '.join(map(repr, OF))}, got {of!r}")
    known = [*MEASURES, *(name for name in ATTRIBUTIONS if name not in MEASURES)]
    if not isinstance(importance, str) or importance not in known:
        near = difflib.get_close_matches(str(importance), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"importance must be one of {', '.join(known)}, got {importance!r}{hint}")
    attributed = importance in ATTRIBUTIONS and not (importance == _OF_LOSS and of == "loss")
    given = {name: value for name, value in settings.items() if value is not None}
    if not attributed:
        if of == "loss" and importance != _OF_LOSS:
            raise ValueError(f"of='loss' is for attributions, and importance={importance!r} is a measure")
        if given:
            raise ValueError(f"{', '.join(given)} must not be given for importance={importance!r}, a measure")
        return lambda model, groups, process_group: MeasureSource(groups, importance, process_group, kernels=kernels)
    if of == "loss" and importance in _NOT_OF_LOSS:
        raise ValueError(f"of must be 'target' for importance={importance!r}, which has no rule for a loss")
    if kernels:
        raise ValueError(f"kernels must be None or False for importance={importance!r}, an attribution, which has none")
    check_attribution(importance, **settings)
    return lambda model, groups, process_group: AttributionSource(model, groups, importance, of, process_group, given)
