"""Weights that no weight operation reads: stacked experts, products with a bare parameter, layers in ``torch.cond``."""

from __future__ import annotations

from collections.abc import Collection

from gnt.units._layer_types import is_transposed_linear, is_weight_layer
from gnt.units._trace_result import Refused
from gnt.units._tracing.ops.dispatch import ACTIVATION_PRODUCTS
from gnt.units._tracing.stacked import stacked_weights
from gnt.units._tracing.state import PropagationState
from gnt.units._tracing.weight_ops import uses, weight_op


def parameters_without_layer(state: PropagationState, refused: Collection[str]) -> list[Refused]:
    """Refusals for these weights, except those of modules in ``refused``."""
    found = []
    for node in state.graph.nodes:
        if node.kind != "parameter" or len(node.shape) < 2 or node.name in refused:
            continue
        ops = [use.op for use in uses(node) if weight_op(use) is None]
        module, _ = state.owners.owner(node)
        path = state.owners.path(module)
        if path in refused or not ops:
            continue
        if is_weight_layer(module):
            reason = f"read inside {ops[0]!r}, which gnt cannot trace (data-dependent routing, or a product)"
            found.append(Refused(path, node.shape[1 if is_transposed_linear(module) else 0], reason))
        elif len(node.shape) > 2 and any(_reads_stack(op) for op in ops):
            found.append(Refused(node.name, None, stacked_weights(node, next(filter(_reads_stack, ops)))))
        elif any(_is_product(op) for op in ops):
            reason = f"a bare parameter, read by {ops[0]!r}, not by a weight layer (or by data-dependent routing)"
            found.append(Refused(node.name, None, reason))
    return found


def _is_product(op: str) -> bool:
    return "mm" in op or op in ACTIVATION_PRODUCTS


def _reads_stack(op: str) -> bool:
    return "mm" in op or op.startswith("index")
