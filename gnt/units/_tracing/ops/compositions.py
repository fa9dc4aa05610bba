"""The function that several elementwise operations compute of a unit's value, and the known activation that it is.

The operations are run on a grid of numbers in place of the value, so an activation is recognised however it is written.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gnt.units._activations import GAINS, Activation
from gnt.units._tracing.graph import Node, substitute
from gnt.units._tracing.ops.elementwise import is_elementwise
from gnt.units._tracing.state import PropagationState

_GRID = torch.linspace(-8, 8, 641, dtype=torch.float64, device="cpu")
_TOLERANCE = 0.03  # x * sigmoid(1.702 * x) differs from gelu by 0.02, and sigmoid from hardsigmoid by 0.06
_CASTS = (
    "_to_copy",
    "to",
    "type_as",
    "alias",
    "clone",
    "contiguous",
    "detach",
    "lift_fresh_copy",
    "lift_fresh",
    "lift",
)
_MOST_OPERATIONS = 64
# smooth relatives of relu by the function that multiplies x in them, such as x * sigmoid(1.5 * x)
_SMOOTH = {"sigmoid": "silu", "tanh": "gelu", "erf": "gelu", "softplus": "mish", "hardsigmoid": "hardswish"}


@dataclass(frozen=True)
class UnitFunction:
    """Values of a function of one number on a grid.

    Attributes:
        values: the values, float64.
        operations: the operations that compute it.
    """

    values: Tensor
    operations: tuple[Node, ...]

    @property
    def is_affine(self) -> bool:
        """True for ``a * x + b``."""
        bends = self.values.diff().diff()
        return bool((bends.abs() < 1e-6 * (1 + self.values.abs().max())).all())

    def activation(self) -> Activation | None:
        """The known activation that the function is; None if there is none."""
        if not bool(self.values.isfinite().all()):
            return None
        slope = self._negative_slope()
        if slope is not None:
            return ("relu", None) if slope == 0 else ("leaky_relu", slope)
        distances = {name: float((self.values - known).abs().max()) for name, known in _known_values().items()}
        name = min(distances, key=lambda name: distances[name])
        if distances[name] <= _TOLERANCE:
            return name, None
        if abs(float(self.values[-1]) / 8 - 1) < 0.1 and abs(float(self.values[0])) < 0.5:
            return next(((_SMOOTH[node.op], None) for node in self.operations if node.op in _SMOOTH), None)
        return None

    def _negative_slope(self) -> float | None:
        """Slope at negative numbers over that at positive ones, if each half is linear and the ratio is in [0, 1)."""
        ratios = self.values[_GRID != 0] / _GRID[_GRID != 0]
        low, high = ratios.chunk(2)
        if float(low.max() - low.min()) > 1e-6 or float(high.max() - high.min()) > 1e-6 or float(high[0]) <= 0:
            return None
        slope = round(float(low[0] / high[0]), 6)
        return slope if 0 <= slope < 1 else None


def function_of_units(state: PropagationState, node: Node) -> UnitFunction | None:
    """The function of a unit's value that an elementwise operation computes; None if it is not one of one value."""
    evaluation = _Evaluation(state)
    try:
        values = evaluation.run(node)
    except Exception:  # an operand that is no number, or an operation that does not run on the grid
        return None
    if values.numel() == 1:
        values = values.expand_as(_GRID)
    if values.shape != _GRID.shape:
        return None
    return UnitFunction(values.double(), tuple(evaluation.operations))


class _Evaluation:
    """Runs elementwise operations on the grid; raises any exception if that is not possible."""

    def __init__(self, state: PropagationState) -> None:
        self._state = state
        self._value: Node | None = None  # the unit's value, from which the operations start
        self._results: dict[Node, Tensor] = {}
        self.operations: list[Node] = []

    def run(self, node: Node) -> Tensor:
        """Values of an operation."""
        if len(self.operations) > _MOST_OPERATIONS:
            raise ValueError("too many operations")
        self.operations.append(node)
        args = substitute(node.args, self._operand, Node)
        kwargs = {name: substitute(value, self._operand, Node) for name, value in node.kwargs.items()}
        if node.op in _CASTS:
            result = args[0].double() if node.value.is_floating_point() else args[0].to(node.value.dtype)
        else:
            result = node.call(
                *args, **{k: v for k, v in kwargs.items() if k not in ("device", "layout", "pin_memory")}
            )
        assert isinstance(result, Tensor)
        return result

    def _operand(self, node: Node) -> Tensor:
        if node not in self._results:
            self._results[node] = self._compute(node)
        return self._results[node]

    def _compute(self, node: Node) -> Tensor:
        if self._state.labels_of(node) is not None:
            if node.op in _CASTS or is_elementwise(node):
                return self.run(node)
            if self._value is not None and self._value is not node:
                raise ValueError("a function of two values")
            self._value = node
            return _GRID
        is_constant = node.kind == "op" and not node.from_input
        result = self.run(node) if is_constant else self._number(node)
        first = result.flatten()[:1]
        if not bool((result == first).all()):
            raise ValueError("an operand that is not the same for all units")
        return first.double() if result.is_floating_point() else first

    def _number(self, node: Node) -> Tensor:
        if node.kind == "constant":
            assert isinstance(node.value, Tensor)
            return node.value.detach().cpu()
        if node.kind not in ("parameter", "buffer"):
            raise ValueError("an operand that depends on the model's inputs")
        module, key = self._state.owners.owner(node)
        number: Any = getattr(module, key)
        assert isinstance(number, Tensor)
        return number.detach().cpu().double()


@functools.cache
def _known_values() -> dict[str, Tensor]:
    """The values of each activation that has a gain and no slope."""
    named: dict[str, Callable[[Tensor], Tensor]] = {
        name: getattr(functional, name) for name in GAINS if name not in ("identity", "tanh", "sigmoid")
    }
    named.update(tanh=torch.tanh, sigmoid=torch.sigmoid)
    return {name: function(_GRID) for name, function in named.items()}
