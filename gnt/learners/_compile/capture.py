"""Capture of a whole training step as a graph of torch operations."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from gnt._utils.autocast import no_autocast_cache
from gnt.learners._compile.decompositions import DECOMPOSITIONS
from gnt.learners._compile.functional_optimizers import ParameterStep
from gnt.learners._compile.inputs import NONFINITE_GROUP, NONFINITE_LOSS, STATUS_OK, GraphInputs, UnpackedInputs
from gnt.learners._compile.norm_statistics import NormStatistics
from gnt.learners._compile.python_state import PythonState
from gnt.learners._compile.recorded_features import RecordedFeatures
from gnt.learners._compile.repeated_values import return_repeated_values
from gnt.learners._compile.tensor_slots import attributes, changed_attributes, restore_attributes
from gnt.learners._training_step import TrainingStep

Writes = list[tuple[Tensor, Tensor]]  # a tensor, and the value that is written to it

ADVICE = "leave compile=False for this network"


class _Traced(NamedTuple):
    """What `_backward` returns: traced tensors, and what is written to buffers and to tensors of penalties.

    ``gradients`` are those of the trained parameters; None where the loss does not depend on one.
    """

    output: Tensor
    features: Sequence[Tensor] | None
    loss: Tensor
    gradients: list[Tensor | None]
    writes: Writes


def capture_step(
    step: TrainingStep,
    inputs: GraphInputs,
    values: Sequence[Tensor],
    python_state: PythonState,
    of_others: RecordedFeatures,
) -> tuple[GraphModule, list[Tensor]]:
    """The graph of one step, and fake tensors with the layouts of its inputs.

    The graph returns loss, output, status, and the features that are recorded outside the graph; then, if the optimizer
    steps after it, the features that the forward returned, and the gradients of parameters. A feature is followed by
    its gradient if that is kept.

    Raises:
        RuntimeError: the network does something that a graph would leave out, or turn into a constant.
    """
    if python_state.refused:
        raise RuntimeError(
            f"compile=True: forward, loss or measure read {', '.join(python_state.refused)}, and compiled code would "
            f"not notice a change: read it from a buffer, or {ADVICE}"
        )
    with FakeTensorMode() as mode:
        fakes = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in values]
    modules = inputs.slots.modules
    before, random_states = attributes(modules), (random.getstate(), np.random.get_state())
    step.captured = True
    try:
        with mode, torch.compiler.set_stance("force_eager"), no_autocast_cache(), of_others.captured():
            traced_step = _traced_step if inputs.functional_optimizer.in_graph else _traced_gradients
            graph = make_fx(
                lambda *traced: traced_step(step, inputs, inputs.unpack(traced), of_others), DECOMPOSITIONS
            )(*fakes)
    except Exception as error:
        raise RuntimeError(_explanation(step, error)) from error
    finally:
        step.captured = False
        step.discard_features()
        changed = changed_attributes(before, attributes(modules))
        restore_attributes(modules, before)
        changed_values = python_state.undo_capture()
        drew = str(random_states) != str((random.getstate(), np.random.get_state()))
        random.setstate(random_states[0])
        np.random.set_state(random_states[1])
    if changed:
        raise RuntimeError(
            f"compile=True: the forward of {type(step.network).__name__} sets {', '.join(changed)}, and compiled code "
            f"would not: make it a buffer that the forward changes in place, or {ADVICE}"
        )
    if changed_values:
        raise RuntimeError(
            f"compile=True: forward, loss or measure change {', '.join(changed_values)}, "
            f"and compiled code would not: keep what changes in a buffer, or {ADVICE}"
        )
    if _has_generator(graph):
        raise RuntimeError(_own_generator(step))
    if drew:
        raise RuntimeError(
            f"compile=True: the forward of {type(step.network).__name__} draws from Python's or NumPy's random "
            f"numbers, which compiled code would repeat in every step: draw from torch's, or {ADVICE}"
        )
    return_repeated_values(graph)
    return graph, fakes


def _has_generator(graph: GraphModule) -> bool:
    return any(node.kwargs.get("generator") is not None for node in graph.graph.nodes)  # keyword-only in torch


def _traced_step(
    step: TrainingStep, inputs: GraphInputs, at: UnpackedInputs, of_others: RecordedFeatures
) -> tuple[Tensor, ...]:
    """`TrainingStep.run` on traced tensors. All writes come at the end, and happen only if the loss is finite."""
    slots, update = inputs.slots, inputs.update
    traced_states = update.traced_states(at.unit_states, at.updates) if update is not None else contextlib.nullcontext()
    with torch.enable_grad(), slots.restored_afterwards(), traced_states, step.noise_given(at.noise):
        output, features, loss, grads, writes = _backward(step, inputs, at)
        batches = step.after_backward(step.take_features(features))
        recorded = of_others.recorded()
        with torch.no_grad():
            finite_loss = torch.isfinite(loss).all() if inputs.checks_finite else None
            writes += _optimizer_writes(inputs, at, [grad for grad in grads if grad is not None])  # there is no None
            writes = _only_if(finite_loss, writes)
            new_values = {id(to): value for to, value in writes}
            slots.fill([new_values.get(id(value), value) for value in at.values])
            for each, grad in zip(inputs.trained, grads, strict=True):  # a measure may read it
                new_values[id(at.values[each.index])].grad = grad
            status = _status(finite_loss, None)
            if update is not None:
                unit_states, finite_groups, inputs.participation = update.update(batches, at.drawn, finite_loss)
                status = _status(finite_loss, finite_groups)
                counted = 1 if finite_loss is None else (status == STATUS_OK)
                takes_part = [number not in inputs.participation.absent for number in range(len(at.updates))]
                updates = torch.stack(
                    [n + counted if own else n for n, own in zip(at.updates, takes_part, strict=True)]
                )
                writes += [*zip(at.unit_states, unit_states, strict=True), (at.updates, updates)]
    _write(writes)
    return loss.detach(), output.detach(), status, *recorded


def _traced_gradients(
    step: TrainingStep, inputs: GraphInputs, at: UnpackedInputs, of_others: RecordedFeatures
) -> tuple[Tensor, ...]:
    """The part of a step before the optimizer's, on traced tensors."""
    with torch.enable_grad(), inputs.slots.restored_afterwards(), step.noise_given(at.noise):
        output, features, loss, grads, writes = _backward(step, inputs, at)
        recorded = of_others.recorded()
    with torch.no_grad():
        finite_loss = torch.isfinite(loss).all() if inputs.checks_finite else None
        _write(_only_if(finite_loss, writes))
        pairs = [(each.detach(), each.grad if each.is_leaf or each.retains_grad else None) for each in features or ()]
        inputs.note_returned(None if features is None else [grad is not None for _, grad in pairs], grads)
        given = [each for pair in pairs for each in pair if each is not None]
        # each parameter gets memory of its own for its gradient, in its layout: it may be changed in place
        own = [
            torch.empty_like(at.values[each.index]).copy_(grad)
            for each, grad in zip(inputs.trained, grads, strict=True)
            if grad is not None
        ]
    return loss.detach(), output.detach(), _status(finite_loss, None), *recorded, *given, *own


def _backward(step: TrainingStep, inputs: GraphInputs, at: UnpackedInputs) -> _Traced:
    """Forward, loss and backward on traced tensors, which remain in the slots."""
    slots = inputs.slots
    local = [_leaf(own, value) for own, value in zip(slots.tensors(), at.values, strict=True)]
    for each in inputs.trained:
        local[each.index] = at.values[each.index].detach().requires_grad_()
    slots.fill(local)
    with NormStatistics() as statistics:
        output, features = step.forward(at.x)
    loss = step.compute_loss(output, at.y)
    total = loss if loss.ndim == 0 else loss.sum()
    writes = _buffer_writes(inputs, at.values, local, statistics.written)
    for penalty, changed in inputs.penalties.evaluate(local, at.penalty_tensors, at.penalty_numbers):
        total = total + penalty
        writes += changed
    trained = [local[each.index] for each in inputs.trained]
    grads = torch.autograd.grad(total, trained, allow_unused=not inputs.functional_optimizer.in_graph)
    return _Traced(output, features, loss, [grad if grad is None else grad.detach() for grad in grads], writes)


def _only_if(condition: Tensor | None, writes: Writes) -> Writes:
    """Writes that change nothing unless the condition is true; None: it always is."""
    return writes if condition is None else [(to, torch.where(condition, value, to)) for to, value in writes]


def _write(writes: Writes) -> None:
    with torch.no_grad():
        for to, value in writes:
            if value is not to:
                to.copy_(value)


def _leaf(own: Tensor, value: Tensor) -> Tensor:
    """What the forward reads for a tensor; a copy for a buffer, which the forward may change."""
    return value.detach() if isinstance(own, torch.nn.Parameter) else value.detach().clone()


def _buffer_writes(
    inputs: GraphInputs, values: Sequence[Tensor], local: Sequence[Tensor], statistics: Collection[int]
) -> Writes:
    """The buffers that the forward changed.

    Not all writes increase a tensor's version, so norms' statistics and the effects of an eager step count too.
    """
    changed = inputs.effects.changed_buffers
    return [
        (value, copy)
        for own, value, copy in zip(inputs.slots.tensors(), values, local, strict=True)
        if not isinstance(own, torch.nn.Parameter)
        and (copy._version > 0 or id(own) in changed or id(copy) in statistics)
    ]


def _optimizer_writes(inputs: GraphInputs, at: UnpackedInputs, grads: Sequence[Tensor]) -> Writes:
    """The new parameters and optimizer states."""
    writes: Writes = []
    for each, grad, state, reset_steps in zip(inputs.trained, grads, at.optimizer_states, at.reset_steps, strict=True):
        param = at.values[each.index]
        new = inputs.functional_optimizer.step(
            ParameterStep(param, grad.detach(), state, reset_steps, each.flags, at.hyperparameters[each.group])
        )
        writes.append((param, new.param.to(param.dtype)))
        writes += [(old, value.to(old.dtype)) for old, value in zip(state, new.state, strict=True)]
    return writes


def _status(finite_loss: Tensor | None, finite_groups: Tensor | None) -> Tensor:
    """0-d int64: STATUS_OK, NONFINITE_LOSS, or NONFINITE_GROUP + the index of the first group that is not finite."""
    if finite_loss is None:
        return torch.zeros((), dtype=torch.int64, device="cpu")
    status = torch.zeros_like(finite_loss, dtype=torch.int64)
    if finite_groups is not None:
        first = (~finite_groups).to(torch.int64).argmax()
        status = torch.where(finite_groups.all(), status, first + NONFINITE_GROUP)
    return torch.where(finite_loss, status, torch.full_like(status, NONFINITE_LOSS))


def _own_generator(step: TrainingStep) -> str:
    return (
        f"compile=True: the forward of {type(step.network).__name__} draws from a generator of its own, which "
        f"compiled code cannot: draw from torch's global generator, or {ADVICE}"
    )


def _explanation(step: TrainingStep, error: Exception) -> str:
    if "torch._C.Generator" in str(error):  # make_fx of older versions of torch refuses it, and newer ones record it
        return _own_generator(step)
    kind, text = type(error).__name__, " ".join(str(error).split("\n")[:2])[:400]
    if "DataDependent" in kind:
        text = "it decides by the values of tensors, which are known only when it runs"
    elif "convert all Tensors to FakeTensors" in str(error):
        text = "it reads a tensor that is neither a parameter nor a buffer of the network: register it as a buffer"
    return f"compile=True: {type(step.network).__name__} cannot be traced as one graph: {text} ({kind}); {ADVICE}"
