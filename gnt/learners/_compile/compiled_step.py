"""CompiledStep: the compiled graph of one kind of step, and how it is run."""

from __future__ import annotations

from torch import Tensor

from gnt.learners._compile.compiler import CompiledGraph, compile_graph
from gnt.learners._compile.guards import check_compilable
from gnt.learners._compile.inputs import (
    NONFINITE_GROUP,
    NONFINITE_LOSS,
    STATUS_OK,
    EagerEffects,
    GraphInputs,
    StaleInputsError,
)
from gnt.learners._compile.step_key import StepContext
from gnt.learners._training_step import Step, TrainingStep


class CompiledStep:
    """One compiled kind of step.

    Raises:
        RuntimeError, TypeError: the step cannot be captured as a graph, or the compiler failed.
    """

    def __init__(self, step: TrainingStep, context: StepContext, effects: EagerEffects, x: Tensor, y: Tensor) -> None:
        from gnt.learners._compile.capture import capture_step  # slow to import: it loads sympy

        self._update = context.update
        check_compilable(step, context.slots.modules, self._update)
        self._inputs = GraphInputs(context.slots, step.optimizer, context.functional_optimizer, self._update, effects)
        generator_state, drawn = self._draw()
        inputs = self._inputs.collect(x, y, step.optimizer, drawn)
        graph, examples = capture_step(step, self._inputs, inputs)
        self._graph: CompiledGraph = compile_graph(graph, examples)
        self._layouts = [(e.shape, e.stride(), e.dtype, e.device) for e in examples]
        self._checked_pointers: list[int] = []
        self._restore_generator(generator_state)

    def run(self, step: TrainingStep, x: Tensor, y: Tensor) -> Step:
        """One step.

        Raises:
            StaleInputsError: a tensor has another layout than the graph was compiled for. Nothing was changed.
            FloatingPointError: as in the eager step.
        """
        generator_state, drawn = self._draw()
        inputs = self._inputs.collect(x, y, step.optimizer, drawn)
        self._check_layouts(inputs)
        loss, output, status, *_ = self._graph(*inputs)
        if self._inputs.checks_finite and (code := int(status.item())) != STATUS_OK:
            self._restore_generator(generator_state)
            raise FloatingPointError(
                step.nonfinite_loss_message(loss)
                if code == NONFINITE_LOSS
                else self._nonfinite_group_message(code - NONFINITE_GROUP)
            )
        step.optimizer._opt_called = True  # type: ignore[attr-defined]  # learning rate schedulers check it
        if self._update is None:
            return Step(loss, output, [])
        self._inputs.count_update()
        return Step(loss, output, self._update.finish())

    def _check_layouts(self, inputs: list[Tensor]) -> None:
        """Compare layouts with those of the compiled graph; skipped while all tensors are where they were."""
        pointers = [t.data_ptr() for t in inputs[2:]]
        if pointers != self._checked_pointers:
            for tensor, layout in zip(inputs, self._layouts, strict=True):
                if (tensor.shape, tensor.stride(), tensor.dtype, tensor.device) != layout:
                    raise StaleInputsError
            self._checked_pointers = pointers

    def _draw(self) -> tuple[Tensor | None, list[Tensor]]:
        """The generator's state and the utilities drawn for this step, if the measure is random."""
        if self._update is None or self._update.engine.measure.reads:
            return None, []
        state = self._update.engine.generator.get_state()
        return state, self._update.draw()

    def _restore_generator(self, state: Tensor | None) -> None:
        if state is not None and self._update is not None:
            self._update.engine.generator.set_state(state)

    def _nonfinite_group_message(self, number: int) -> str:
        assert self._update is not None
        return (
            f"features or weights of group {self._update.engine.groups[number].name!r} are not finite, so its units "
            "cannot be compared; nothing was changed"
        )
