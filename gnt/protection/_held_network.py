"""`HeldNetwork`: a gated network whose weights are held in each optimizer step as far as earlier tasks need them."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils.stack_level import user_level
from gnt.protection._conditioning import Conditioning, conditioned
from gnt.protection._coverage import Coverage
from gnt.protection._gate_kernel import GateKernel
from gnt.protection._gated_network import GatedNetwork
from gnt.protection._hat_optimizer import Closure, HATOptimizer
from gnt.protection._hat_processes import average_gradient, averaging_closure
from gnt.protection._hat_settings import HATSettings, check_uncovered
from gnt.protection._rates import EarlierTasks
from gnt.protection._sparsity import SparsityTerm
from gnt.protection._trained_parameters import TrainedParameters
from gnt.protection._unit_protection import UnitProtection
from gnt.replacement import unwrap_optimizer
from gnt.units import UnitGroup


class HeldNetwork(GatedNetwork):
    """Base class of `HAT`: what happens around each optimizer step.

    Args:
        model, groups, settings: as for `GatedNetwork`.
        generator: for random rates.
        process_group: the processes whose gradients of e are averaged; None: all; False: this one alone.

    Attributes:
        cumulative: c, (units,).
        counts: M, the number of tasks that use each unit, (units,).
    """

    cumulative: Tensor
    counts: Tensor

    def __init__(
        self,
        model: nn.Module,
        groups: tuple[UnitGroup, ...],
        settings: HATSettings,
        generator: torch.Generator | None,
        process_group: Any,
    ) -> None:
        super().__init__(model, groups, settings)
        self.generator, self.process_group = generator, process_group
        zeros = self.embedding.detach().clone()
        self.register_buffer("cumulative", zeros, persistent=False)
        self.register_buffer("counts", zeros.clone(), persistent=False)
        self._optimizers: list[HATOptimizer] = []
        self._conditioning: Conditioning | None = None
        self._coverage = self._find_coverage()
        self._trained = TrainedParameters(self._coverage.parameters, self._is_training)
        self._protection = UnitProtection(self.layout)
        self._hang()

    def _can_train(self) -> bool:
        return bool(self._optimizers) and self._optimizers[-1].active

    def _find_coverage(self) -> Coverage:
        coverage = Coverage(self.model, self.layout, self)
        if self.settings.uncovered == "refuse":
            check_uncovered(coverage.parameters)
        return coverage

    def _earlier(self) -> EarlierTasks:
        numbers = self.cumulative, self.counts, len(self.tasks)
        return EarlierTasks(*numbers, self._trained.earlier, self._unit_importance())

    def _unit_importance(self) -> Tensor | None:
        """I of each unit that the open task, or the next one, must take into account, (units,)."""
        return None

    def _start(self) -> None:
        """Compute what is fixed during the open task, and the gates of the present step."""
        if self._conditioning is not None:
            self._conditioning.remove()
        rates = self.settings.protection
        measures = rates.measures(self._earlier(), self._coverage)
        groups = self._coverage.group_numbers(self.embedding.device)
        self._sparsity = SparsityTerm(
            self.cumulative, self.layout, self.settings.sparsity_mode, self.settings.min_free, self.settings.sparsity
        )
        self._conditioning = Conditioning(
            conditioned(self._coverage.parameters, measures, groups),
            rates,
            self.settings.apply,
            lambda: rates.factors(self._sparsity.by_group(self._gates.values.detach())),
            self.generator,
        )
        self._protection.forget()
        self._gate_kernel = GateKernel(self._places, self.settings, self._sparsity)
        self._refresh_gates()

    def _hang_on_optimizer(self, optimizer: Optimizer, *, active: bool = True) -> None:
        self._leave_optimizer(unwrap_optimizer(optimizer))
        new = HATOptimizer(optimizer, self._before_optimizer_step, self._after_optimizer_step, active=active)
        self._optimizers.append(new)

    def _leave_optimizer(self, optimizer: Optimizer) -> None:
        """Remove the hooks on an optimizer without wrappers."""
        for each in self._optimizers:
            if each.optimizer is optimizer:
                each.remove()
        self._optimizers = [each for each in self._optimizers if each.optimizer not in (optimizer, None)]

    def _before_optimizer_step(self, closure: Closure) -> Closure:
        assert self._conditioning is not None
        if closure is None:
            self._check_penalty()
            average_gradient(self.embedding, self.process_group)
        else:  # it computes loss and gradients: the penalty is looked for after the step
            closure = averaging_closure(closure, self.embedding, self.process_group)
        self._conditioning.before_step()
        return closure

    def _after_optimizer_step(self, has_closure: bool) -> None:
        assert self._conditioning is not None
        self._conditioning.after_step()
        self._trained.note_gradients()
        try:
            self._after_step(has_closure)
        finally:
            self._progress.step += 1
            self._conditioning.next_step()
            self._refresh_gates(clamp=True)
        self._check_penalty()

    def _check_penalty(self) -> None:
        if self.settings.sparsity and not self._progress.penalty_seen:
            raise RuntimeError(
                f"no step of task {self.task!r} has used penalty(): add hat.penalty() to the loss, or set sparsity=0"
            )

    def _after_step(self, has_closure: bool) -> None:
        """Called after each step that was made, when the weights are final and before the gates of the next step."""

    def _warn_without_capacity(self, task: Any) -> None:
        full = [name for name, part in self.layout.by_group(self.counts).items() if bool((part > 0).all())]
        if full and self.settings.protection.freezes:
            warnings.warn(
                f"no capacity is left in group {', '.join(map(repr, full))}: task {task!r} can learn only through "
                "weights of other groups and through layers that no earlier task has trained",
                stacklevel=user_level(),
            )
