"""Base class of the penalties against forgetting: importance A and anchor mu of each weight."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt._utils.optimizer_attachment import OptimizerAttachment, require_parameters
from gnt._utils.state_dicts import Entry, Kind, check_saved_state, counter, sequence, tensor
from gnt._utils.validation import finite_number
from gnt.distributed import dtensor
from gnt.regularization._parameters import ModuleOrParameters, accumulation_dtype, select_parameters
from gnt.regularization._quadratic import _dense_grad
from gnt.regularization._unit_costs import UnitCosts
from gnt.regularization._weighted_penalty import add_penalty_gradient, weighted_penalty
from gnt.units import UnitGroup, copy_slices, fill_slices

STATE_VERSION = 1
Self = TypeVar("Self", bound="MemoryPenalty")


class MemoryPenalty:
    """factor * sum of A (theta - mu)^2 over all elements of all parameters; base class of `EWC`, `SI` and `MAS`.

    Importance A and anchor mu are two numbers for each weight, for any number of tasks. Both are changed at the end of
    a task. Before that A is 0 and the penalty is 0.

    Attributes:
        strength: may be changed at any time.
        parameters: the parameters.
        names: names of the parameters; their positions if a list was given.
        tasks: how many tasks have been consolidated.
        protection: how strongly `protected` weighs the cost of forgetting a unit, >= 0; 10 at first.
    """

    _half = 1.0  # 0.5 for a penalty with a factor 1/2

    def __init__(self, params: ModuleOrParameters, strength: float) -> None:
        self._strength = finite_number("strength", strength)
        self.names, self.parameters = select_parameters(params, type(self).__name__)
        for name, parameter in zip(self.names, self.parameters, strict=True):
            _refuse_sharded(name, parameter, type(self).__name__)
        self._of_module = isinstance(params, torch.nn.Module)
        self._importance = [_zeros(parameter) for parameter in self.parameters]
        self._anchors = [parameter.detach().clone() for parameter in self.parameters]
        self._active = [False] * len(self.parameters)  # whether any importance of the parameter is not 0
        self.tasks = 0
        self._unit_costs = UnitCosts()
        self._attachment: OptimizerAttachment | None = None
        self._in_loss = False  # a backward pass has gone through the penalty since the last step

    @property
    def strength(self) -> float:
        """Factor of the penalty."""
        return self._strength

    @strength.setter
    def strength(self, strength: float) -> None:
        self._strength = finite_number("strength", strength)

    @property
    def protection(self) -> float:
        """Weight of the relative cost of a unit in `protected`."""
        return self._unit_costs.weight

    @protection.setter
    def protection(self, protection: float) -> None:
        self._unit_costs = UnitCosts(finite_number("protection", protection))

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

    def _position(self, param: Tensor) -> int:
        for i, own in enumerate(self.parameters):
            if own is param:
                return i
        raise ValueError(
            f"param must be one of the {len(self.parameters)} parameters of this {type(self).__name__}, got "
            f"a {type(param).__name__} of shape {tuple(getattr(param, 'shape', ()))} that is not"
        )

    @property
    def _factor(self) -> float:
        return self._strength * self._half

    def _selection(self) -> list[int]:
        """The parameters on which the penalty acts now."""
        self._refresh()
        if not self._strength:
            return []
        return [
            i
            for i, (active, p) in enumerate(zip(self._active, self.parameters, strict=True))
            if active and p.requires_grad
        ]

    def penalty(self) -> Tensor:
        """Return the penalty as a scalar, in float32 or wider, to be added to the loss.

        Parameters without importance, such as the head of a task to come, get no gradient from it, and neither do
        frozen ones. With strength 0 and before the first task has ended it is 0 without a gradient.
        """
        chosen = self._selection()
        if not chosen:
            return torch.zeros((), dtype=accumulation_dtype(self.parameters), device=self.parameters[0].device)
        lists = [[each[i] for i in chosen] for each in (self.parameters, self._importance, self._anchors)]
        return weighted_penalty(lists[0], lists[1], lists[2], self._factor, self._note_backward)

    def __call__(self) -> Tensor:
        """Return `penalty()`."""
        return self.penalty()

    def _note_backward(self) -> None:
        self._in_loss = True

    def backward(self) -> None:
        """Add the gradient of the penalty to ``.grad`` of each parameter.

        Up to rounding this equals ``penalty().backward()``, in less time. It does not scale the gradient: with a
        GradScaler, call it after ``scaler.unscale_(optimizer)``.
        """
        self._add_gradient(None)

    def _add_gradient(self, scale: Tensor | None) -> None:
        chosen = self._selection()
        if chosen:
            lists = [[each[i] for i in chosen] for each in (self.parameters, self._importance, self._anchors)]
            grads = [_dense_grad(each) for each in lists[0]]
            add_penalty_gradient(grads, lists[0], lists[1], lists[2], self._factor, scale)

    def attach(self: Self, optimizer: Optimizer) -> Self:
        """Add the gradient of the penalty before each step of an optimizer; return this object.

        Nothing but the end of a task is then needed in the training loop. The state is saved and loaded with the
        optimizer's, as "gnt_memory". Do not add the penalty to the loss, too.

        Raises:
            TypeError: not a torch.optim.Optimizer.
            ValueError: the optimizer lacks a parameter of this object.
            RuntimeError: this object is attached already.
        """
        name = type(self).__name__
        if self._attachment is not None:
            raise RuntimeError(f"this {name} is attached to a {type(self._attachment.optimizer).__name__}: detach() it")
        if isinstance(optimizer, Optimizer):
            require_parameters(optimizer, self.parameters, self.names, name)
        self._attachment = OptimizerAttachment(self, optimizer)
        self._in_loss = False
        return self

    def detach(self) -> None:
        """Remove the hooks of `attach`, if there are any."""
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment = None

    def before_optimizer_step(self, scale: Tensor | None) -> None:
        """Hook of `attach`: add the gradient of the penalty.

        Raises:
            RuntimeError: the penalty was part of the loss, too.
        """
        if self._in_loss:
            self._in_loss = False
            raise RuntimeError(
                f"this {type(self).__name__} is attached to the optimizer and its penalty was added to the loss: it "
                "would count twice. Do one of the two"
            )
        self._add_gradient(scale)

    def after_optimizer_step(self, skipped: bool) -> None:
        """Hook of `attach`."""

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

    def protected(self, group: UnitGroup) -> Tensor | None:
        """How much each unit of a group is protected from replacement: p in [0, 1), (num_units,).

            c_i = 1/2 sum over outgoing weights w of unit i of A_w mu_w^2
            p_i = r_i / (1 + r_i),  r_i = protection * c_i / mean over k of c_k

        c_i is what the penalty (of strength 1, with factor 1/2) says that removing the unit costs the earlier tasks.
        `gnt.GnT` ranks units by u / (1 - p), with u the utility, that is by u (1 + protection * c_i / mean c). Use:
        ``GnT(net, protect=ewc, follow=[ewc])``. The same tensor is returned until something changes.

        Returns:
            None if no outgoing weight has importance: before the first task has ended, or with ``protection = 0``.
        """
        self._refresh()
        held = {id(each): i for i, each in enumerate(self.parameters)}
        slots = [(slot, held[id(slot.weight)]) for slot in group.outgoing if id(slot.weight) in held]
        return self._unit_costs.of(group, [(slot, self._importance[i], self._anchors[i]) for slot, i in slots])

    def report(self) -> dict[str, float]:
        """Return figures of the present importance, by name.

        ``tasks``; ``mean_importance`` and ``max_importance`` over all elements; ``sgd_limit``: the step size above
        which steps of plain SGD on the penalty diverge, 2 / (largest second derivative of the penalty).
        """
        self._refresh()
        largest = max((float(each.max()) for each in self._importance if each.numel()), default=0.0)
        total = sum(float(each.sum(dtype=torch.float64)) for each in self._importance)
        curvature = 2.0 * self._factor * largest
        return {
            "tasks": self.tasks,
            "mean_importance": total / max(1, sum(each.numel() for each in self._importance)),
            "max_importance": largest,
            "sgd_limit": 2.0 / curvature if curvature else float("inf"),
        }

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

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_attachment": None}  # a copy is not attached

    def __repr__(self) -> str:
        elements = sum(p.numel() for p in self.parameters)
        return (
            f"{type(self).__name__}({len(self.parameters)} parameters, {elements} elements, "
            f"strength={self.strength:g}, tasks={self.tasks})"
        )


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
