"""Weight operations: consumers of the units that they read, and producers of new units."""

from __future__ import annotations

import torch
from torch import Tensor

from gnt.units._tracing.graph import Node
from gnt.units._tracing.labels import Labels, compact, expand, occurrences_of, varies, with_occurrence
from gnt.units._tracing.ownership import WeightLayer
from gnt.units._tracing.state import PropagationState
from gnt.units._tracing.weight_ops import WeightOp

ABSORBED = ""  # reason of refusal that is not shown: these channels belong to the units that they read


def apply_weights(state: PropagationState, op: WeightOp) -> Labels:
    """Record a weight operation as consumer and producer; returns the labels of its outputs."""
    layer = state.owners.weight_layer(op)
    for operand in op.node.inputs():
        if operand is not op.read:
            reason = f"they are used as weights of {op.node.op!r} in {op.node.module!r}"
            state.refuse(state.labels_of(operand), reason)
    if not op.weight.from_parameter and not op.is_depthwise:
        reason = f"they are mixed by {op.node.op!r} with a constant weight, in {op.node.module!r}"
        state.refuse(state.labels_of(op.read), reason)
        return None
    return _produce(state, op, layer, passed=_consume(state, op, layer))


def _consume(state: PropagationState, op: WeightOp, layer: WeightLayer) -> Labels:
    """Record the units that the operation reads; returns labels that it passes on instead of consuming them."""
    labels = state.labels_of(op.read)
    if labels is None:
        return None
    channel = len(op.read.shape) - 1 - op.spatial
    by_channel = expand(labels, [op.read.shape[d] if d == channel else n for d, n in enumerate(labels.shape)])
    is_separate = op.node.name in state.separate
    if not varies(labels, [dim for dim in range(labels.ndim) if dim != channel]):
        by_channel = by_channel.flatten()
        if op.is_depthwise and not is_separate:
            return _pass_channels_on(state, op, layer, by_channel)
        _add_consumer(state, op, layer, by_channel)
    elif op.spatial == 0 and not varies(labels, [channel]) and not is_separate:
        state.passed_through.append((op.node.name, labels))
        return labels  # a layer over tokens or pixels, which mixes values within each unit
    else:
        state.refuse(labels, f"they are mixed by {layer.name!r}, along a dimension other than the units'")
    return None


def _add_consumer(state: PropagationState, op: WeightOp, layer: WeightLayer, labels: Tensor) -> None:
    module = layer.module
    fault = layer.fault or (state.owners.recording_fault(op, module) if module is not None else None)
    if module is None or fault is not None:
        state.refuse(labels, f"they are read by {layer.name!r}, which {fault}")
        return
    read = _module_input(op.read, op.node.module)
    state.add_consumer(layer.name, module, 1 - op.out_dim, op.groups, labels, read)


def _pass_channels_on(state: PropagationState, op: WeightOp, layer: WeightLayer, labels: Tensor) -> Tensor:
    """A depthwise convolution: each of its channels belongs to the unit that it reads."""
    multiplier = op.weight.shape[0] // len(labels)
    labels = labels.repeat_interleave(multiplier)
    state.passed_through.append((op.node.name, labels))
    if op.weight.from_parameter:
        if layer.module is None or layer.fault is not None:
            state.refuse(labels, f"they pass through {layer.name!r}, which {layer.fault}")
        else:
            state.add_scale(layer.name, layer.module, 0, labels, op.read)
    labels = labels.clone()
    for channel in range(1, multiplier):  # another value of the same unit, so another occurrence
        column = labels.view(-1, multiplier)[:, channel]
        for occurrence in torch.unique(occurrences_of(column)):
            mask = occurrences_of(column) == occurrence
            column[mask] = with_occurrence(column[mask], state.new_occurrence())
    return labels


def _produce(state: PropagationState, op: WeightOp, layer: WeightLayer, passed: Labels) -> Labels:
    """Record the units that the operation computes; returns their labels, or those it passes on."""
    shape = op.node.shape
    channel = len(shape) - 1 - op.spatial
    labels = state.add_producer(layer.name, layer.module, op.out_dim, shape[channel], op.node)
    if layer.fault is not None:
        state.refuse(labels, f"it {layer.fault}")
    elif op.added_bias is not None:
        state.biases.update(op.added_bias[0].inputs())
        state.biases.discard(op.node)
    if passed is not None and passed.ndim > 1:
        state.refuse(labels, "it mixes values within the units of preceding layers")
        return passed
    if not op.weight.from_parameter and passed is None:
        return None
    if passed is not None:
        state.refuse(labels[passed > 0], ABSORBED)
        labels = torch.where(passed > 0, passed, labels)
    return compact(labels.reshape([-1 if d == channel else 1 for d in range(len(shape))]))


def _module_input(node: Node, module: str) -> Node:
    """The value that enters a module which reshapes its input before the weight operation."""
    while node.module == module and node.kind == "op" and isinstance(node.args[0], Node):
        node = node.args[0]
    return node
