"""CompiledStep: the compiled graph of one kind of step, and how it is run."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from gnt._utils.own_gradients import own_gradients
from gnt.learners._compile.compiler import CompiledGraph, compile_graph, draws_random_numbers
from gnt.learners._compile.functional_penalties import Penalties
from gnt.learners._compile.guards import check_compilable
from gnt.learners._compile.inputs import (
    NONFINITE_GROUP,
    NONFINITE_LOSS,
    STATUS_OK,
    EagerEffects,
    GraphInputs,
    StaleInputsError,
)
from gnt.learners._compile.python_state import PythonState
from gnt.learners._compile.recorded_features import RecordedFeatures
from gnt.learners._compile.step_key import StepContext
from gnt.learners._evaluated import Differentiated
from gnt.learners._step_result import Step
from gnt.learners._training_step import OPTIMIZER_HAS_STEPPED, TrainingStep

_CAPTURE = threading.Lock()  # torch's tracer patches modules of torch, so that one thread at a time can use it


class CompiledStep:
    """One compiled kind of step.

    Raises:
        RuntimeError, TypeError: the step cannot be captured as a graph, or the compiler failed.
    """

    def __init__(
        self,
        step: TrainingStep,
        context: StepContext,
        effects: EagerEffects,
        python_state: PythonState,
        penalties: Penalties,
        x: Tensor,
        y: Tensor,
    ) -> None:
        from gnt.learners._compile.capture import capture_step  # slow to import: it loads sympy

        self._update = context.update
        check_compilable(step, context.slots.modules)
        self._steps_after = not context.functional_optimizer.in_graph
        self._inputs = GraphInputs(
            context.slots, step.optimizer, context.functional_optimizer, self._update, effects, penalties
        )
        self._features = RecordedFeatures(context.readers.taps)
        self._generators: list[torch.Generator] = []
        if self._update is not None and not self._update.engine.measure.reads:
            self._generators.append(self._update.engine.generator)
        self._drawing_forward = step.noise_generators() if effects.noise_layouts else []
        self._draws = bool(self._generators or effects.noise_layouts)  # before the graph runs
        states = self._generator_states()
        try:
            drawn = self._draw(step)
            inputs = self._inputs.collect(x, y, step.optimizer, penalties, drawn)
            with _CAPTURE:
                graph, examples = capture_step(step, self._inputs, inputs, python_state, self._features)
                self._graph: CompiledGraph = compile_graph(graph, examples)
        finally:
            _restore(states)
        self._num_lasting = len(examples) - len(drawn)  # inputs that may be the same tensors in the next step
        self._checked: list[int] = []  # addresses and sizes of these, when their layouts were last compared
        self._layouts = [(e.shape, e.stride(), e.dtype, e.device) for e in examples[2 : self._num_lasting]]
        if draws_random_numbers(graph):
            self._drawing_forward = [*self._drawing_forward, torch.default_generator]

    def run(self, step: TrainingStep, x: Tensor, y: Tensor, penalties: Penalties) -> Step:
        """One step.

        Raises:
            StaleInputsError: a tensor has another layout than the graph was compiled for. Nothing was changed.
            FloatingPointError: as in the eager step.
        """
        if self._steps_after:
            inputs = self._inputs.collect(x, y, step.optimizer, penalties, ())
            self._check_layouts(inputs)
            return step.run_with(lambda *_: self._differentiate(step, inputs), x, y)
        if self._update is not None and self._update.engine.protect is not None:
            self._update.read_protection()
        states = self._generator_states() if self._generators or self._drawing_forward else []
        drawn = self._draw(step) if self._draws else []
        inputs = self._inputs.collect(x, y, step.optimizer, penalties, drawn)
        try:
            self._check_layouts(inputs)
        except StaleInputsError:
            _restore(states)
            raise
        try:
            loss, output, status, *rest = self._graph(*inputs)
        except BaseException:
            _restore(states)
            step.methods.discard()
            raise
        if self._inputs.checks_finite and (code := int(status.item())) != STATUS_OK:
            if code == NONFINITE_LOSS:
                _restore(states)
                step.methods.discard()
                raise FloatingPointError(step.nonfinite_loss_message(loss))
            _restore(states[: len(self._generators)])
            raise FloatingPointError(self._nonfinite_group_message(code - NONFINITE_GROUP))
        self._features.record(rest)
        self._features.after_backward()
        step.optimizer._opt_called = True  # type: ignore[attr-defined]  # learning rate schedulers check it
        if self._update is None:
            return Step(loss, output, [])
        self._inputs.count_update()
        return Step(loss, output, self._update.finish(self._inputs.participation))

    def _differentiate(self, step: TrainingStep, inputs: list[Tensor]) -> Differentiated:
        """Run a graph that ends before the optimizer's step: gradients and recorded features go where they belong."""
        loss, output, status, *rest = self._graph(*inputs, *(self._draw(step) if self._draws else ()))
        if self._inputs.checks_finite and int(status.item()) != STATUS_OK:
            raise FloatingPointError(step.nonfinite_loss_message(loss))
        have_gradients, parameters = self._inputs.returned
        first = len(rest) - len(parameters)
        self._features.record(rest)
        step.clear_gradients()
        with torch.no_grad():
            for parameter, gradient in zip(parameters, own_gradients(rest[first:]), strict=True):
                _leave_gradient(parameter, gradient)
        self._features.after_backward()
        features = None if have_gradients is None else _with_gradients(rest[:first], have_gradients)
        return Differentiated(output, loss, step.take_features(features))

    def _check_layouts(self, inputs: list[Tensor]) -> None:
        """Compare layouts with those of the compiled graph; skipped while all tensors are where they were.

        The layouts of x and y are part of the step's key, and those of drawn tensors are always the same.
        """
        lasting = inputs[2 : self._num_lasting]
        found = [*map(Tensor.data_ptr, lasting), *map(Tensor.numel, lasting)]
        if found != self._checked:
            for tensor, layout in zip(lasting, self._layouts, strict=True):
                if (tensor.shape, tensor.stride(), tensor.dtype, tensor.device) != layout:
                    raise StaleInputsError
            self._checked = found

    def _draw(self, step: TrainingStep) -> list[Tensor]:
        """What is drawn for this step before the graph runs: noise, and the utilities of a random measure."""
        noise = step.draw_noise(self._inputs.effects.noise_layouts)
        return noise + self._update.draw(self._inputs.participation) if self._update is not None else noise

    def _generator_states(self) -> list[GeneratorState]:
        """The generators that a step draws from, with their states: the engine's, then those of the forward."""
        return [(each, each.get_state()) for each in (*self._generators, *self._drawing_forward)]

    def _nonfinite_group_message(self, number: int) -> str:
        assert self._update is not None
        return (
            f"features or weights of group {self._update.engine.groups[number].name!r} are not finite, so its units "
            f"cannot be compared; {OPTIMIZER_HAS_STEPPED}"
        )


GeneratorState = tuple[torch.Generator, Tensor]


def _with_gradients(returned: Sequence[Tensor], have_gradients: Sequence[bool]) -> list[Tensor]:
    """The features at the end of what a graph has returned, with their gradients in ``.grad``."""
    rest = iter(returned[len(returned) - len(have_gradients) - sum(have_gradients) :])
    features = []
    for has_gradient in have_gradients:
        feature = next(rest)
        feature.grad = next(rest) if has_gradient else None
        features.append(feature)
    return features


def _leave_gradient(parameter: Tensor, gradient: Tensor) -> None:
    """Store a gradient in ``.grad`` and run the parameter's hooks, as a backward does."""
    for hook in tuple((parameter._backward_hooks or {}).values()):
        changed = hook(gradient)
        gradient = gradient if changed is None else changed
    parameter.grad = gradient
    for hook in tuple((parameter._post_accumulate_grad_hooks or {}).values()):
        hook(parameter)


def _restore(states: list[GeneratorState]) -> None:
    for generator, state in states:
        generator.set_state(state)
