"""CompiledSteps: the compiled graphs of one learner, one for each kind of step."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from gnt.learners._compile.compiled_step import CompiledStep
from gnt.learners._compile.compiler import check_compiler
from gnt.learners._compile.functional_optimizers import functional_optimizer
from gnt.learners._compile.guards import check_compilable
from gnt.learners._compile.inputs import EagerEffects, StaleInputsError
from gnt.learners._compile.step_key import StepContext
from gnt.learners._training_step import Step, TrainingStep

MAX_KINDS = 16  # steps of further kinds run eagerly


class CompiledSteps:
    """The compiled graphs of one learner, by kind of step.

    Two steps are of one kind if x and y have the same layout, the network is in the same mode, the same options of the
    optimizer are in use, and so on (`StepContext.key`). The first step of a kind runs eagerly: it raises the usual
    errors, fills the optimizer's state, and shows which parameters have gradients. The second one is compiled.

    A copy starts empty; its graphs equal the original's, so nothing is compiled again.

    Raises:
        TypeError: the optimizer's step cannot be compiled.
        RuntimeError: there is no working compiler.
    """

    def __init__(self, step: TrainingStep | None = None) -> None:
        self._by_key: dict[Any, EagerEffects | CompiledStep] = {}
        self._context: StepContext | None = None
        if step is not None:
            functional_optimizer(step.optimizer)
            check_compiler(next((p.device.type for p in step.network.parameters()), "cpu"))

    def run(self, step: TrainingStep, x: Tensor, y: Tensor) -> Step | None:
        """One step by its graph, or eagerly if it is the first of its kind; None if it must run eagerly.

        Raises:
            FloatingPointError: as in the eager step.
            RuntimeError, TypeError: the learner cannot be compiled. Nothing was changed.
        """
        if not _is_regular_batch(x, y):
            return None
        context = self._current_context(step)
        if context.update is not None:
            engine = context.update.engine
            engine.check_structure()
            if engine.waiting or engine.frozen:
                return None  # features of an earlier forward belong to this update too; frozen groups are left out
        key = context.key(step, x, y)
        known = self._by_key.get(key)
        if known is None:
            return self._run_first(step, context, x, y)
        try:
            compiled = known if isinstance(known, CompiledStep) else CompiledStep(step, context, known, x, y)
            self._by_key[key] = compiled
            return compiled.run(step, x, y)
        except StaleInputsError:
            self._context = None  # rebuilt after an eager step
            return None

    def _current_context(self, step: TrainingStep) -> StepContext:
        context = self._context
        if context is None or not context.is_current(step):
            self._context = context = StepContext(step)
            self._by_key.clear()
        return context

    def _run_first(self, step: TrainingStep, context: StepContext, x: Tensor, y: Tensor) -> Step:
        """The first step of a kind, run eagerly."""
        check_compilable(step, context.slots.modules, context.update)
        buffers = [(b, b.clone()) for b in context.slots.tensors() if not isinstance(b, nn.Parameter)]
        result = step.run(x, y)
        if len(self._by_key) < MAX_KINDS:
            self._by_key[context.key(step, x, y)] = EagerEffects(
                with_gradient={id(p) for p in step.network.parameters() if p.grad is not None},
                changed_buffers={id(b) for b, before in buffers if not torch.equal(b, before)},
                noise_layouts=step.noise_layouts(),
            )
        elif len(self._by_key) == MAX_KINDS:
            warnings.warn(
                f"compile=True: this learner has taken steps of {MAX_KINDS} kinds (shapes of x and y, modes); further "
                "ones are not compiled. Pad batches to a few sizes",
                stacklevel=4,
            )
            self._by_key[None] = EagerEffects(set(), set())  # one entry more, so that the warning is given once
        return result

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return CompiledSteps, ()


def _is_regular_batch(x: Any, y: Any) -> bool:
    """True if a graph can take this step: tensors with at least one sample, no gradients of x and y, grad enabled."""
    return (
        isinstance(x, Tensor)
        and isinstance(y, Tensor)
        and x.ndim > 0
        and len(x) > 0
        and not (x.requires_grad or y.requires_grad)
        and torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and x.layout is torch.strided
    )
