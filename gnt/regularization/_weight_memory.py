"""`WeightMemory`: importance A and anchor mu of each weight, which follow replaced units, grow, and are saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnt._utils.parameters import ModuleOrParameters, check_parameter, select_parameters
from gnt._utils.state_dicts import Entry, Kind, check_saved_state, counter, sequence, tensor
from gnt.distributed import dtensor
from gnt.units import copy_slices, fill_slices

STATE_VERSION = 1


class WeightMemory:
    """Importance A >= 0 and anchor mu of each element of some parameters; base class of `MemoryPenalty`."""

    def __init__(self, params: ModuleOrParameters) -> None:
        self.names, self.parameters = select_parameters(params, type(self).__name__)
        for name, parameter in zip(self.names, self.parameters, strict=True):
            _refuse_sharded(name, parameter, type(self).__name__)
        self._of_module = isinstance(params, nn.Module)
        self._importance = [_zeros(parameter) for parameter in self.parameters]
        self._anchors = [parameter.detach().clone() for parameter in self.parameters]
        self._active = [False] * len(self.parameters)  # whether any importance of the parameter is not 0
        self.tasks = 0

    @property
    def anchors(self) -> list[Tensor]:
        """The anchor mu of each parameter."""
        self._refresh()
        return self._anchors

    def importance(self, param: Tensor) -> Tensor:
        """Return the importance A >= 0 of each element of a parameter, in its shape.

        Raises:
            ValueError: the parameter is not one of this object.
        """
        self._refresh()
        return self._importance[self._position(param)]

    def extend(self, params: ModuleOrParameters) -> list[str]:
        """Take in parameters that were added to the network since, such as a new head, with importance 0.

        Their anchors are their present values. Importance, anchors and settings of all others are kept. From now on
        this object is as one built from the grown network: its saved states are, too. If it is attached to an
        optimizer, add the parameters there first (``optimizer.add_param_group``).

        Args:
            params: the grown module, if this object was built from a module; else a list of the new parameters.

        Returns:
            The names of the new parameters.

        Raises:
            TypeError: a list in place of a module or the other way round; a sharded parameter.
            ValueError: the module lacks a parameter of this object; a list that is empty or has a parameter that is
                known, repeated, frozen, lazy or not real; the optimizer lacks a new one. Nothing is changed.

        >>> import torch, gnt
        >>> net = torch.nn.ModuleDict({"trunk": torch.nn.Linear(4, 8), "first": torch.nn.Linear(8, 2)})
        >>> ewc = gnt.EWC(net, strength=100.0)
        >>> net["second"] = torch.nn.Linear(8, 2)
        >>> ewc.extend(net)
        ['second.weight', 'second.bias']
        """
        self._refresh()
        named = self._grown(params)
        known = {id(parameter): i for i, parameter in enumerate(self.parameters)}
        new = [(name, parameter) for name, parameter in named if id(parameter) not in known]
        for name, parameter in new:
            check_parameter(name, parameter, type(self).__name__)
            _refuse_sharded(name, parameter, type(self).__name__)
        self._check_new([name for name, _ in new], [parameter for _, parameter in new])
        self._arrange(named, [known.get(id(parameter)) for _, parameter in named])
        return [name for name, _ in new]

    def _position(self, param: Tensor) -> int:
        for i, own in enumerate(self.parameters):
            if own is param:
                return i
        raise ValueError(
            f"param must be one of the {len(self.parameters)} parameters of this {type(self).__name__}, got "
            f"a {type(param).__name__} of shape {tuple(getattr(param, 'shape', ()))} that is not"
        )

    def _grown(self, params: ModuleOrParameters) -> list[tuple[str, Any]]:
        """Names and parameters of this object after `extend`."""
        method = type(self).__name__
        if isinstance(params, nn.Module) != self._of_module:
            wanted = "the module that it was built from" if self._of_module else "a list of the new parameters"
            raise TypeError(f"extend of this {method} takes {wanted}, got {type(params).__name__}")
        own = {id(parameter) for parameter in self.parameters}
        if isinstance(params, nn.Module):
            named = [(name, p) for name, p in params.named_parameters() if p.requires_grad or id(p) in own]
            found = {id(p) for _, p in named}
            for name, parameter in zip(self.names, self.parameters, strict=True):
                if id(parameter) not in found:
                    raise ValueError(
                        f"the module does not have parameter {name} of this {method}: it must be the same network, and "
                        "parameters that have grown must be tensors of their own beside the earlier ones"
                    )
            return named
        _, new = select_parameters(params, method)
        for position, parameter in enumerate(new):
            if id(parameter) in own:
                raise ValueError(f"extend got a parameter, number {position}, that this {method} has already")
        start = len(self.parameters)
        return [*zip(self.names, self.parameters, strict=True), *((str(start + i), p) for i, p in enumerate(new))]

    def _check_new(self, names: Sequence[str], parameters: Sequence[Tensor]) -> None:
        """Refuse new parameters, before anything is changed."""

    def _arrange(self, named: Sequence[tuple[str, Tensor]], positions: Sequence[int | None]) -> None:
        """Put parameters into a new order; ``positions`` are the earlier ones, None for a new parameter."""
        pairs = [(parameter, position) for (_, parameter), position in zip(named, positions, strict=True)]
        self._importance = [_zeros(p) if i is None else self._importance[i] for p, i in pairs]
        self._anchors = [p.detach().clone() if i is None else self._anchors[i] for p, i in pairs]
        self._active = [i is not None and self._active[i] for _, i in pairs]
        self.names, self.parameters = [name for name, _ in named], [parameter for _, parameter in named]

    @torch.no_grad()
    def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
        """Set A of slices to 0 and mu to the present values of the parameter; other parameters are ignored.

        Args:
            param: the parameter.
            dim, index, groups: the slices, as for `gnt.replacement.Follower`.
        """
        self._refresh()
        for own, weights, anchor in zip(self.parameters, self._importance, self._anchors, strict=True):
            if own is param:
                fill_slices(weights, dim, index, 0.0, groups)
                copy_slices(anchor, param, dim, index, groups)

    @torch.no_grad()
    def move_bias(self, bias: Tensor, change: Tensor) -> None:
        """Add a change of a bias to its mu; A is kept."""
        self._refresh()
        for own, anchor in zip(self.parameters, self._anchors, strict=True):
            if own is bias:
                anchor.add_(change)

    def _refresh(self) -> None:
        """Move the state to the device and dtype of the parameters.

        Raises:
            ValueError: a parameter has another shape than before.
        """
        for i, (parameter, anchor) in enumerate(zip(self.parameters, self._anchors, strict=True)):
            if anchor.shape != parameter.shape:
                raise ValueError(
                    f"parameter {self.names[i]} had shape {tuple(anchor.shape)} when this {type(self).__name__} was "
                    f"built, and now has {tuple(parameter.shape)}: build a new {type(self).__name__}"
                )
            if anchor.device != parameter.device or anchor.dtype != parameter.dtype:
                with torch.inference_mode(False), torch.no_grad():  # the moved state is changed in place later
                    self._move(i, parameter)

    def _move(self, i: int, parameter: Tensor) -> None:
        self._anchors[i] = self._anchors[i].to(parameter.device, parameter.dtype)
        self._importance[i] = self._importance[i].to(parameter.device, _zeros(parameter).dtype)

    def _set(self, importance: list[Tensor], anchors: list[Tensor], tasks: int) -> None:
        """Take checked values."""
        self._importance, self._anchors, self.tasks = importance, anchors, tasks
        self._active = [bool(each.any()) for each in importance]

    def _kinds(self) -> dict[str, Kind]:
        return {
            "tasks": counter(),
            "names": _names(self.names),
            "importance": sequence(
                [_nonnegative(each) for each in self._importance], "one importance for each parameter"
            ),
            "anchors": sequence([tensor(each) for each in self._anchors], "one anchor for each parameter"),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of importance and anchors, and the number of tasks. Settings are not saved."""
        return {
            "version": STATE_VERSION,
            "tasks": self.tasks,
            "names": list(self.names),
            "importance": [each.clone() for each in self._importance],
            "anchors": [each.clone() for each in self._anchors],
        }

    def checked_state(self, state_dict: Any) -> Any:
        """Check a saved state; the result is for `load_checked_state`. Nothing is changed.

        Raises:
            ValueError: not the result of `state_dict`, or of another network, or with values that are not finite.
        """
        self._refresh()
        return check_saved_state(state_dict, f"{type(self).__name__}.state_dict()", self._kinds(), STATE_VERSION)

    def load_checked_state(self, state: Any) -> None:
        """Load the result of `checked_state`."""
        self._set(state["importance"], state["anchors"], state["tasks"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load importance and anchors, so that a resumed run goes on as the original one.

        Raises:
            ValueError: not the result of `state_dict`, or of another network, or with values that are not finite.
                Nothing is changed.
        """
        self.load_checked_state(self.checked_state(state_dict))


def _zeros(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter.detach(), dtype=torch.promote_types(parameter.dtype, torch.float32))


def _refuse_sharded(name: str, parameter: Tensor, method: str) -> None:
    if dtensor.is_dtensor(parameter):
        raise TypeError(f"parameter {name} is a DTensor; {method} takes whole parameters, so build it without FSDP2")


def _nonnegative(like: Tensor) -> Kind:
    own = tensor(like)

    def check(entry: Entry, value: Any) -> Tensor:
        loaded: Tensor = own(entry, value)
        if loaded.numel() and loaded.min() < 0:
            raise entry.wrong_tensor(value, f"with a value of {float(loaded.min()):g}", ">= 0")
        return loaded

    return check


def _names(names: list[str]) -> Kind:
    def check(entry: Entry, value: Any) -> list[str]:
        if not isinstance(value, list) or value != names:
            raise ValueError(
                f"state_dict is of other parameters: it must hold those of {names[:3]}..., got {value!r:.80}"
            )
        return value

    return check
