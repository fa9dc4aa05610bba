"""Base class of the penalties against forgetting: their value, gradient, attachment and protection of units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt._utils.optimizer_attachment import OptimizerAttachment, require_parameters
from gnt._utils.parameters import ModuleOrParameters, accumulation_dtype
from gnt._utils.validation import finite_number
from gnt.regularization._functional_penalty import FunctionalPenalty
from gnt.regularization._quadratic import _dense_grad
from gnt.regularization._strength import WithStrength
from gnt.regularization._unit_costs import UnitCosts
from gnt.regularization._weight_memory import WeightMemory
from gnt.regularization._weighted_penalty import add_penalty_gradient, functional_value, weighted_penalty
from gnt.units import UnitGroup

Self = TypeVar("Self", bound="MemoryPenalty")


class MemoryPenalty(WithStrength, WeightMemory):
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
        self.strength = strength
        super().__init__(params)
        self._unit_costs = UnitCosts()
        self._attachment: OptimizerAttachment | None = None
        self._in_loss = False  # a backward pass has gone through the penalty since the last step

    @property
    def protection(self) -> float:
        """Weight of the relative cost of a unit in `protected`."""
        return self._unit_costs.weight

    @protection.setter
    def protection(self, protection: float) -> None:
        self._unit_costs = UnitCosts(finite_number("protection", protection))

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

    def _tensors_of(self, chosen: Iterable[int]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The chosen parameters, their importance and their anchors."""
        parameters, importance, anchors = self.parameters, self._importance, self._anchors
        return [parameters[i] for i in chosen], [importance[i] for i in chosen], [anchors[i] for i in chosen]

    def penalty(self) -> Tensor:
        """Return the penalty as a scalar, in float32 or wider, to be added to the loss.

        Parameters without importance, such as the head of a task to come, get no gradient from it, and neither do
        frozen ones. With strength 0 and before the first task has ended it is 0 without a gradient.
        """
        chosen = self._selection()
        if not chosen:
            return torch.zeros((), dtype=accumulation_dtype(self.parameters), device=self.parameters[0].device)
        return weighted_penalty(*self._tensors_of(chosen), self._factor, self._note_backward)

    def __call__(self) -> Tensor:
        """Return `penalty()`."""
        return self.penalty()

    def _note_backward(self, gradient: Tensor | None) -> None:
        """Called in the backward pass of the penalty, with the gradient of the loss for it; None if it is compiled."""
        self._in_loss = True

    def backward(self) -> None:
        """Add the gradient of the penalty to ``.grad`` of each parameter.

        Up to rounding this equals ``penalty().backward()``, in less time. It does not scale the gradient: with a
        GradScaler, call it after ``scaler.unscale_(optimizer)``.
        """
        self._add_gradient(None)

    def penalty_backward(self) -> None:
        """Hook of learners, which call it in place of `penalty`: `backward`.

        Raises:
            RuntimeError: this object is attached to an optimizer, too.
        """
        if self._attachment is not None:
            raise RuntimeError(
                f"this {type(self).__name__} is attached to the optimizer and a method of a learner: it would count "
                "twice. Do one of the two"
            )
        self.backward()

    def functional_penalty(self) -> FunctionalPenalty | None:
        """Hook of learners with ``compile=True``: the penalty of parameters with importance; None if there are none."""
        chosen = self._selection()
        if not chosen:
            return None
        parameters, importance, anchors = self._tensors_of(chosen)
        return FunctionalPenalty(functional_value, parameters, [*importance, *anchors], [self._factor])

    def _add_gradient(self, scale: Tensor | None, only: Iterable[int] | None = None) -> None:
        chosen = self._selection() if only is None else sorted(only)
        if chosen:
            parameters, importance, anchors = self._tensors_of(chosen)
            grads = [_dense_grad(each) for each in parameters]
            add_penalty_gradient(grads, parameters, importance, anchors, self._factor, scale)

    def attach(self: Self, optimizer: Optimizer) -> Self:
        """Add the gradient of the penalty before each step of an optimizer; return this object.

        Nothing but the end of a task is then needed in the training loop. The state is saved and loaded with the
        optimizer's, as "gnt_memory". Do not add the penalty to the loss, too. With an optimizer whose step compares
        losses (LBFGS with a line search) add it to the loss instead: the loss of a closure does not contain it here.

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

    def _check_new(self, names: Sequence[str], parameters: Sequence[Tensor]) -> None:
        if self._attachment is not None:
            require_parameters(self._attachment.optimizer, parameters, names, type(self).__name__)

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

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_attachment": None}  # a copy is not attached

    def __repr__(self) -> str:
        elements = sum(p.numel() for p in self.parameters)
        return (
            f"{type(self).__name__}({len(self.parameters)} parameters, {elements} elements, "
            f"strength={self.strength:g}, tasks={self.tasks})"
        )
