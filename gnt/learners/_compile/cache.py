"""CompiledSteps: the compiled graphs of one learner, one for each kind of step."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gnt.learners._compile.compiled_step import CompiledStep
from gnt.learners._compile.compiler import check_compiler
from gnt.learners._compile.executed_code import ExecutedCode
from gnt.learners._compile.functional_penalties import Penalties, key_of
from gnt.learners._compile.guards import check_compilable
from gnt.learners._compile.inputs import EagerEffects, StaleInputsError
from gnt.learners._compile.integer_ranges import IntegerRanges
from gnt.learners._compile.python_state import PythonState
from gnt.learners._compile.step_key import StepContext
from gnt.learners._step_result import Step
from gnt.learners._training_step import TrainingStep

MAX_KINDS = 16  # steps of further kinds run eagerly


class CompiledSteps:
    """The compiled graphs of one learner, by kind of step.

    Two steps are of one kind if x and y have the same layout, the network is in the same mode, the same options of the
    optimizer are in use, and so on (`StepContext.key`), and the Python values that forward and loss read are the same
    (`PythonState`). The first step of a kind runs eagerly: it raises the usual
    errors, fills the optimizer's state, and shows which parameters have gradients. The second one is compiled.

    A copy starts empty; its graphs equal the original's, so nothing is compiled again.

    Raises:
        RuntimeError: there is no working compiler.
    """

    def __init__(self, step: TrainingStep | None = None) -> None:
        self._by_key: dict[Any, list[_Kind]] = {}
        self._num_kinds = 0
        self._assigned: list[str] = []  # what the forward of the last eager step set
        self._assigns_again = False
        self._context: StepContext | None = None
        self._gradients_left = True  # the step before left gradients in .grad
        if step is not None:
            check_compiler(next((p.device.type for p in step.network.parameters()), "cpu"))

    def run(self, step: TrainingStep, x: Tensor, y: Tensor) -> Step | None:
        """One step by its graph, or eagerly if it is the first of its kind; None if it must run eagerly.

        Raises:
            FloatingPointError: as in the eager step.
            RuntimeError, TypeError: the learner cannot be compiled. Nothing was changed.
        """
        gradients_left, self._gradients_left = self._gradients_left, True
        if not _is_regular_batch(x, y):
            return None
        context = self._current_context(step)
        engine = step.engine
        if engine is not None:
            engine.check_structure()
            if engine.waiting or engine.frozen:
                return None  # features of an earlier forward belong to this update too; frozen groups are left out
        if context.readers.wait:
            return None
        measured = () if context.update is None else context.update.measures_next
        whole_step = context.functional_optimizer.in_graph
        penalties = step.methods.functional_penalties(whole_step=whole_step) if step.methods else []
        key = (context.key(step, x, y), measured, key_of(penalties))
        for kind in self._by_key.get(key, ()):
            if kind.python_state.is_current():
                break
        else:
            return self._run_first(step, context, key[1:], x, y) if self._has_room(key) else None
        if not kind.ranges.hold(x, y):
            result = step.run(x, y)
            kind.ranges.widen(x, y)
            return result
        try:
            result = _graph_of(kind, step, context, penalties, x, y).run(step, x, y, penalties)
        except StaleInputsError:
            self._context = None  # rebuilt after an eager step
            return None
        if whole_step:
            if gradients_left:
                step.clear_gradients()
            self._gradients_left = False
        return result

    def _current_context(self, step: TrainingStep) -> StepContext:
        context = self._context
        if context is None or not context.is_current(step):
            self._context = context = StepContext(step)
            self._by_key, self._num_kinds = {}, 0
        return context

    def _has_room(self, key: Any) -> bool:
        """True while steps of further kinds are compiled."""
        self._num_kinds += 1
        if self._num_kinds == MAX_KINDS + 1:
            changes = [change for kind in self._by_key.get(key, ()) for change in kind.python_state.changes()]
            cause = f". A graph has Python values built in, and these change: {', '.join(sorted(set(changes)))}"
            warnings.warn(
                f"compile=True: this learner has taken steps of {MAX_KINDS} kinds (shapes of x and y, modes, Python "
                "values that forward or loss read); further ones are not compiled. Pad batches to a few sizes; keep "
                f"values that change in buffers{cause if changes else ''}",
                stacklevel=4,
            )
        return self._num_kinds <= MAX_KINDS

    def _run_first(
        self, step: TrainingStep, context: StepContext, further: tuple[Any, ...], x: Tensor, y: Tensor
    ) -> Step:
        """The first step of a kind, run eagerly. ``further``: what is in its key besides `StepContext.key`."""
        slots, update = context.slots, context.update
        check_compilable(step, slots.modules)
        if self._assigns_again:
            raise RuntimeError(
                f"compile=True: the forward of {type(step.network).__name__} sets {', '.join(self._assigned)} in each "
                "step, and compiled code would not: change buffers in place, as in buffer.copy_(value), or leave "
                "compile=False for this network"
            )
        buffers = [(b, b.clone()) for b in slots.tensors() if not isinstance(b, nn.Parameter)]
        code = ExecutedCode()
        with code.recording():
            result = step.run(x, y)
        if assigned := slots.assigned():
            self._context = None  # rebuilt with the new tensors: a forward may build a buffer once
        self._assigned, self._assigns_again = assigned, bool(assigned) and assigned == self._assigned
        effects = EagerEffects(
            with_gradient={id(p) for p in slots.tensors() if isinstance(p, nn.Parameter) and p.grad is not None},
            changed_buffers={id(b) for b, before in buffers if not torch.equal(b, before)},
            noise_layouts=step.noise_layouts(),
        )
        roots = [step.loss] if update is None else [step.loss, update.engine.measure.function]
        ranges = IntegerRanges(inputs=any(isinstance(each, (nn.Embedding, nn.EmbeddingBag)) for each in slots.modules))
        kind = _Kind(PythonState(code, roots, slots.modules, slots.tensors()), effects, ranges)
        kind.ranges.widen(x, y)
        self._by_key.setdefault((context.key(step, x, y), *further), []).append(kind)
        return result

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return CompiledSteps, ()


@dataclass
class _Kind:
    """What is known of one kind of step: the Python values that it read, its effects or, later, its graph, and which
    integers in x and y it has taken.
    """

    python_state: PythonState
    step: EagerEffects | CompiledStep
    ranges: IntegerRanges


def _graph_of(
    kind: _Kind, step: TrainingStep, context: StepContext, penalties: Penalties, x: Tensor, y: Tensor
) -> CompiledStep:
    """The graph of a kind of step, which is compiled the first time; errors as `CompiledSteps.run`."""
    if isinstance(kind.step, EagerEffects):
        try:
            kind.step = CompiledStep(step, context, kind.step, kind.python_state, penalties, x, y)
        except (RuntimeError, TypeError):
            step.methods.discard()
            raise
    return kind.step


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
