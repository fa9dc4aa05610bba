"""Elementwise operations: each element of the result is computed from the elements at the same place."""

from __future__ import annotations

import torch

from gnt.units._tracing.graph import Node

# names of elementwise operations, some of which torch does not tag as such
ELEMENTWISE = (
    "relu", "relu6", "selu", "celu", "elu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "softplus",
    "softsign", "log_sigmoid", "log_sigmoid_forward", "leaky_relu", "rrelu", "rrelu_with_noise", "threshold", "sigmoid",
    "tanh", "square", "clamp", "clamp_min", "clamp_max", "rrelu_with_noise_functional", "tanhshrink", "hardshrink",
    "softshrink", "add", "sub", "rsub", "mul", "div", "where", "masked_fill", "true_divide", "erf", "erfc",
)  # fmt: skip


def is_elementwise(node: Node) -> bool:
    """True for an operation of a name listed here, or that torch tags as pointwise."""
    return node.kind == "op" and (node.op in ELEMENTWISE or torch.Tag.pointwise in getattr(node.call, "tags", ()))
