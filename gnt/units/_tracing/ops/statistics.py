"""Norms written by hand: statistics over all units, such as the mean of their magnitudes in GRN, that scale each unit.

Only modules with parameters for each unit are taken for norms (see `unit_parameters`). The units are coupled, as by a
LayerNorm. A statistic that is used in another way mixes the units, which are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnt.units._tracing.graph import Node
from gnt.units._tracing.labels import Labels, distinct_units, expand
from gnt.units._tracing.ops.elementwise import is_elementwise
from gnt.units._tracing.ops.movement import MOVES
from gnt.units._tracing.ops.refusal import describe_operation, refuse_mixing, refuse_operands
from gnt.units._tracing.ops.unit_parameters import unit_parameters
from gnt.units._tracing.state import PropagationState

_REDUCTIONS = ("mean", "sum", "norm", "linalg_vector_norm", "var", "std")
_NORMALIZING = ("mul", "div", "true_divide", "sub")
_KEPT = (*MOVES, "_to_copy", "to", "alias", "clone", "contiguous", "type_as")


@dataclass(frozen=True)
class Statistic:
    """A value computed from all units of a norm: the distinct units, and the operation that combines them."""

    units: Tensor
    origin: Node


def reduce_over_units(state: PropagationState, node: Node, labels: Tensor, dims: Sequence[int]) -> Labels:
    """Record a reduction over the units of a norm as a statistic; refuse them if it is anything else."""
    if node.op not in _REDUCTIONS or unit_parameters(state, node.module) is None:
        return refuse_mixing(state, node)
    sizes = node.args[0].shape
    whole = expand(labels, [sizes[d] if d in dims else n for d, n in enumerate(labels.shape)])
    if not bool((whole > 0).all()):
        reason = f"they are normalized together with other values by {describe_operation(node)}"
        return refuse_operands(state, node, reason)
    state.statistics[node] = Statistic(distinct_units(labels), node)
    return None


def refuse_statistics(state: PropagationState, node: Node) -> None:
    """Refuse the units of the statistics that an operation reads, or that a node is."""
    for other in (node, *node.inputs()):
        found = state.statistics.get(other)
        if found is not None:
            state.refuse(found.units, f"they are mixed by {describe_operation(found.origin)}")


def apply_statistics(state: PropagationState, node: Node) -> Labels:
    """Labels of an operation that reads statistics: it computes another one, or normalizes their units."""
    read = list(node.inputs())
    found = [state.statistics[other] for other in read if other in state.statistics]
    labelled = [other for other in read if state.labels_of(other) is not None]
    others = [other for other in read if other not in state.statistics and other not in labelled]
    units, module = found[0].units, node.module
    if (
        all(torch.equal(each.units, units) and each.origin.module == module for each in found)
        and not any(other.from_input or other.from_parameter for other in others)
        and isinstance(node.value, Tensor)
    ):
        if not labelled and (is_elementwise(node) or (node.op in _KEPT and len(read) == 1)):
            state.statistics[node] = found[0]
            return None
        if len(labelled) == 1 and node.op in _NORMALIZING and node.shape == labelled[0].shape:
            labels = state.labels_of(labelled[0])
            if labels is not None and torch.equal(distinct_units(labels), units):
                owner = state.owners.module_at(module)
                state.add_coupling(f"{state.owners.path(owner)} {type(owner).__name__}", units)
                return labels
    refuse_statistics(state, node)
    return refuse_operands(state, node, f"they are mixed by {describe_operation(found[0].origin)}")
