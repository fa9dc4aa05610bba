"""Synaptic intelligence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnt._utils.parameters import ModuleOrParameters
from gnt._utils.settings import above_zero, checked_settings
from gnt._utils.stack_level import user_level
from gnt._utils.state_dicts import Kind, tensors_like
from gnt.regularization._kernel_calls import add_path_integrals, add_penalty_gradients, split_for_kernel
from gnt.regularization._memory import MemoryPenalty
from gnt.regularization._pieces import in_pieces
from gnt.regularization._quadratic import _dense_grad
from gnt.regularization._weight_memory import _zeros
from gnt.regularization._weighted_penalty import add_penalty_gradient
from gnt.units import copy_slices, fill_slices


@checked_settings(damping=above_zero)
class SI(MemoryPenalty):
    """Synaptic intelligence: strength * sum of A (theta - mu)^2, with A from the path that the weights have taken.

    In each step omega <- omega - g d, with g the gradient of the task's loss, without this penalty, and d the change
    of the weight. At the end of a task (`consolidate`)

        A <- max(A + omega / (D^2 + damping), 0),  D = theta - mu,  then mu <- theta, omega <- 0

    Each step needs `backward` before the optimizer's step and `step` after it:

        loss.backward(); si.backward(); optimizer.step(); si.step()

    `attach` does both, and so do learners. If the penalty is added to the loss instead, call `after_backward` in place
    of `backward`: it subtracts the penalty's gradient from ``.grad`` to get g, with the factors that the penalty has in
    the losses of all backward passes of the step. That is exact up to rounding as long as gradients are not clipped or
    divided before. Penalties of other methods in the loss count as part of the task's loss.

    Args:
        params: a module, whose parameters that require a gradient are used, or a list of parameters.
        strength: factor of the penalty, >= 0, without a factor 1/2; mostly below 1 in the paper.
        damping: added to D^2, > 0.

    Raises:
        TypeError: ``params`` is neither a module nor a list of parameters, or has a sharded one.
        ValueError: a setting out of range; no parameters; one that is frozen, lazy, repeated or not real.

    If a GradScaler may skip steps, use `attach`, or call `step` only after steps that were made.

    Source: Zenke, Poole, Ganguli, ICML 2017 (arXiv 1703.04200), Eqs. 3 to 5; the maximum with 0 is that of the
    authors' code.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> si = gnt.SI(net, strength=0.1).attach(optimizer)
    >>> loss = torch.nn.functional.cross_entropy(net(torch.randn(16, 4)), torch.randint(3, (16,)))
    >>> loss.backward()
    >>> optimizer.step()
    >>> si.consolidate()                        # at the end of a task
    >>> si().item(), si.tasks
    (0.0, 1)
    """

    records_gradient = True  # learners let other methods add to the gradient before

    def __init__(self, params: ModuleOrParameters, strength: float, *, damping: float = 0.1) -> None:
        self.damping = damping
        super().__init__(params, strength)
        self._path = [_zeros(parameter) for parameter in self.parameters]
        self._gradients: list[Tensor] = []  # of the task, and weights, from before the step
        self._before: list[Tensor] = []
        self._recorded: list[int] | None = None
        self._factor_in_loss: Tensor | None = None  # of the penalty, summed over the backward passes of the step
        self._last_pass = -1  # the number of the last of these backward passes
        self._factor_checked = False  # without a scale the factor must be 1, in the first step that has one
        self._recorded_by_hook = False  # `penalty_backward` has done what `after_backward` would do

    @property
    def path(self) -> list[Tensor]:
        """The omega of each parameter in the present task."""
        self._refresh()
        return self._path

    def backward(self) -> None:
        """Record the gradients as those of the task, then add the penalty's to ``.grad`` of each parameter.

        Raises:
            RuntimeError: the penalty is in the loss already.
        """
        self._record_and_add(None)

    def penalty_backward(self) -> None:
        """Hook of learners, which call it in place of `penalty`: `backward`.

        Raises:
            RuntimeError: this object is attached to an optimizer, too.
        """
        super().penalty_backward()
        self._recorded_by_hook = True

    def _record_and_add(self, scale: Tensor | None) -> None:
        if self._in_loss:
            self._in_loss = False
            raise RuntimeError(
                "the penalty of this SI was added to the loss and would count twice: leave it out of the loss, or call "
                "after_backward() instead of backward()"
            )
        self._record(scale, add=True)

    def _note_backward(self, gradient: Tensor | None) -> None:
        super()._note_backward(gradient)
        number = torch._C._current_graph_task_id()
        if number != self._last_pass and all(self.parameters[i].grad is None for i in self._selection()):
            self._factor_in_loss = None  # no step followed the passes before, and their gradients were dropped
        self._last_pass = number
        if gradient is not None:
            factor = gradient.detach()
            self._factor_in_loss = factor if self._factor_in_loss is None else self._factor_in_loss + factor

    def after_backward(self, scale: float | Tensor | None = None) -> None:
        """Record the gradients of the task: ``.grad`` without the gradient of the penalty, if that was in the loss.

        In a learner `penalty_backward` has done so already.

        Args:
            scale: by what ``.grad`` was divided since the backward passes: ``scaler.get_scale()`` after
                ``scaler.unscale_(optimizer)`` of a GradScaler, 1.0 if it was not divided. It may be left out if the
                losses have the penalty once, with the factor 1.

        Raises:
            ValueError: no scale, and in the first step the factor of the penalty is not 1. Nothing is changed.
        """
        if self._recorded_by_hook:
            self._recorded_by_hook = False
            return
        if scale is None and not self._factor_checked and self._factor_in_loss is not None:
            if (found := float(self._factor_in_loss)) != 1.0:  # once: later steps do not wait for the device
                raise ValueError(
                    f"scale must be given where the penalty has the factor {found:g} in the losses: "
                    "scale=scaler.get_scale() if a GradScaler has unscaled the gradients, otherwise scale=1.0"
                )
            self._factor_checked = True
        in_loss, factor = self._in_loss, self._factor_in_loss
        self._in_loss, self._factor_in_loss = False, None
        self._record(None)
        chosen = [i for i in self._selection() if i in set(self._recorded or ())] if in_loss else []
        if chosen:
            lists = self._tensors_of(chosen)
            with torch.no_grad():
                factor = None if factor is None else factor / (1.0 if scale is None else scale)
                for grads, thetas, weights, mus in in_pieces([self._gradients[i] for i in chosen], *lists):
                    terms = torch._foreach_mul(weights, torch._foreach_sub(thetas, mus))
                    if factor is not None:  # else a compiled loss, which has it once
                        torch._foreach_mul_(terms, factor.to(terms[0].device))
                    torch._foreach_sub_(grads, terms, alpha=2.0 * self._factor)

    @torch.no_grad()
    def _record(self, scale: Tensor | None, add: bool = False) -> None:
        """Keep gradients and weights; with ``add`` also add the penalty's gradient, while they are in the cache."""
        self._refresh()
        if not self._before:
            self._before = [torch.empty_like(each.detach()) for each in self.parameters]
            self._gradients = [torch.empty_like(each.detach()) for each in self.parameters]
        recorded = [i for i, each in enumerate(self.parameters) if each.requires_grad and each.grad is not None]
        penalized = set(self._selection() if add else ())
        for chosen, acts in ((penalized.intersection(recorded), True), (set(recorded) - penalized, False)):
            own = [self._gradients, self._before, self.parameters, self._importance, self._anchors]
            lists = [[each[i] for i in sorted(chosen)] for each in own]
            lists.append([_dense_grad(each) for each in lists[2]])
            if scale is None:
                (copies, olds, thetas, weights, mus, grads), lists = split_for_kernel(*lists)
                penalty = {"importance": weights, "anchors": mus} if acts else {}
                add_penalty_gradients(grads, thetas, 2.0 * self._factor, copies=(copies, olds), **penalty)
            for copies, olds, thetas, weights, mus, grads in in_pieces(*lists):
                torch._foreach_copy_(copies, grads)
                torch._foreach_copy_(olds, thetas)
                if scale is not None:
                    torch._foreach_div_(copies, scale.to(copies[0].device))
                if acts:
                    add_penalty_gradient(grads, thetas, weights, mus, self._factor, scale)
        self._add_gradient(scale, penalized.difference(recorded))
        self._recorded = recorded

    @torch.no_grad()
    def step(self) -> None:
        """Add the step that the optimizer has made to omega.

        Raises:
            RuntimeError: `backward` or `after_backward` was not called before the optimizer's step.
        """
        if self._recorded is None:
            raise RuntimeError("SI.step() needs SI.backward() (or after_backward()) before the optimizer's step")
        recorded, self._recorded, self._in_loss, self._factor_in_loss = self._recorded, None, False, None
        self._refresh()
        lists = [[each[i] for i in recorded] for each in (self.parameters, self._before, self._gradients, self._path)]
        taken, lists = split_for_kernel(*lists)
        add_path_integrals(*taken)
        for thetas, olds, grads, paths in in_pieces(*lists):
            torch._foreach_sub_(olds, thetas)  # minus the step; the weights before it are not needed any more
            torch._foreach_addcmul_(paths, olds, grads) if paths[0].dtype == olds[0].dtype else (
                torch._foreach_add_(paths, torch._foreach_mul([each.to(paths[0].dtype) for each in olds], grads))
            )

    def after_step(self) -> None:
        """Hook of learners: `step`."""
        if self._recorded is not None:
            self.step()

    def discard(self) -> None:
        """Drop what was recorded for a step that was not made."""
        self._recorded, self._in_loss, self._recorded_by_hook, self._factor_in_loss = None, False, False, None

    def before_optimizer_step(self, scale: Tensor | None) -> None:
        """Hook of `attach`: `backward`."""
        self._record_and_add(scale)

    def after_optimizer_step(self, skipped: bool) -> None:
        """Hook of `attach`: `step`, unless a GradScaler has skipped it."""
        self.discard() if skipped else self.after_step()

    @torch.inference_mode(False)  # the new state is changed in place later
    @torch.no_grad()
    def consolidate(self) -> None:
        """Add the importance of a task to A, and take the present weights as anchors.

        There is a warning if no step of the task was recorded, so that its importance is 0.

        Raises:
            FloatingPointError: omega or a weight is not finite. Nothing is changed.
        """
        self._refresh()
        importance = []
        for name, *tensors in zip(
            self.names, self.parameters, self._anchors, self._path, self._importance, strict=True
        ):
            theta, anchor, path, old = tensors
            moved = (theta - anchor).to(path.dtype)
            new = (old + path / (moved.square() + self.damping)).clamp(min=0.0)
            if not torch.isfinite(new).all() or not torch.isfinite(path).all():
                raise FloatingPointError(f"the importance of parameter {name} is not finite; nothing was changed")
            importance.append(new)
        if not any(path.any() for path in self._path):
            warnings.warn(
                "SI has recorded no step of this task, so the task has importance 0: call attach(optimizer) once, or "
                "in each step backward() (or after_backward()) before the optimizer's step, and step() after it",
                stacklevel=user_level(),
            )
        self._set(importance, [each.detach().clone() for each in self.parameters], self.tasks + 1)
        torch._foreach_zero_(self._path)

    def end_task(self) -> None:
        """Hook of learners: `consolidate`."""
        self.consolidate()

    @torch.no_grad()
    def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
        """Set A and omega of slices to 0, and mu to the present values of the parameter.

        Args:
            param: the parameter; one that this object does not have is ignored.
            dim, index, groups: the slices, as for `gnt.replacement.Follower`.
        """
        super().reset_units(param, dim, index, groups)
        for i, own in enumerate(self.parameters):
            if own is param:
                fill_slices(self._path[i], dim, index, 0.0, groups)
                if self._before:
                    copy_slices(self._before[i], param, dim, index, groups)

    @torch.no_grad()
    def move_bias(self, bias: Tensor, change: Tensor) -> None:
        """Add a change of a bias to its mu and to its value before the step; A and omega are kept."""
        super().move_bias(bias, change)
        for i, own in enumerate(self.parameters):
            if own is bias and self._before:
                self._before[i].add_(change)

    def _check_new(self, names: Sequence[str], parameters: Sequence[Tensor]) -> None:
        if self._recorded is not None:
            raise RuntimeError("extend must be called between steps, not between backward() and step() of this SI")
        super()._check_new(names, parameters)

    def _arrange(self, named: Sequence[tuple[str, Tensor]], positions: Sequence[int | None]) -> None:
        pairs = zip(named, positions, strict=True)
        self._path = [_zeros(parameter) if i is None else self._path[i] for (_, parameter), i in pairs]
        self._before, self._gradients = [], []
        super()._arrange(named, positions)

    def _move(self, i: int, parameter: Tensor) -> None:
        super()._move(i, parameter)
        self._path[i] = self._path[i].to(parameter.device, _zeros(parameter).dtype)
        self._before, self._gradients, self._recorded = [], [], None

    def _kinds(self) -> dict[str, Kind]:
        return {**super()._kinds(), "path": tensors_like(self._path, self.names)}

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of importance, anchors and omega, and the number of tasks; to be called between steps."""
        return {**super().state_dict(), "path": [each.clone() for each in self._path]}

    def load_checked_state(self, state: Any) -> None:
        """Load the result of `checked_state`."""
        super().load_checked_state(state)
        self._path = state["path"]
        self.discard()
