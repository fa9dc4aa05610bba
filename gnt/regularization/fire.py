"""FIRE: make weight matrices orthogonal at a task boundary, which keeps what they do and restores isometry."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils.settings import checked_settings, count, positive
from gnt._utils.state_dicts import check_saved_state, counter
from gnt.regularization._every_nth_step import EveryNthStep
from gnt.regularization._weight_matrices import has_inputs_first, parts_of, select_matrices
from gnt.replacement import ElementStateReset

STATE_VERSION = 1


@checked_settings(iterations=positive, every=count)
class FIRE(EveryNthStep):
    """Replaces each weight matrix by the nearest orthogonal one, scaled, at the end of a task.

    For each linear and convolution layer, at each position of the kernel and in each group of a grouped convolution::

        X <- W / ||W||_F;   iterations times: X <- 1.5 X - 0.5 X X^T X;   W <- sqrt(d_out / d_in) / k * X

    with k the number of the kernel's positions, d_out and d_in those of the matrix. A matrix of zeros stays.

    Args:
        net: a module; its linear and convolution layers whose weight requires a gradient are used. For a part of a
            network pass that, or a ``ModuleList`` of layers: the authors leave all but queries and keys of a vision
            transformer alone.
        optimizer: its state of these weights is reset, but for the step count of Adam and its kin, so that the first
            steps after it can be longer than the learning rate; None leaves it alone, as the authors do.
        iterations: number of Newton-Schulz steps, >= 1.
        every: `step` acts at every ``every``-th call. With 0 it never acts: call `apply` at the end of a task; as a
            learner's method it acts in ``end_task``.

    Attributes:
        steps: number of calls of `step`.

    Raises:
        TypeError: not a module; an optimizer whose state cannot be reset per element.
        ValueError: a setting out of range, or no such layer.

    Source: Han et al., ICLR 2026 (arXiv 2602.08040), and the authors' code.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    >>> gnt.FIRE(net, iterations=20).apply()
    >>> torch.allclose(net[0].weight @ net[0].weight.T, torch.eye(4), atol=1e-3)
    True
    """

    def __init__(
        self, net: nn.Module, optimizer: Optimizer | None = None, *, iterations: int = 10, every: int = 0
    ) -> None:
        self.iterations, self.every, self.steps = iterations, every, 0
        if not isinstance(net, nn.Module):
            raise TypeError(f"FIRE takes a module, got {type(net).__name__}")
        self.names, self.weights, self._layers, self._members = select_matrices(net, "FIRE")
        self._optimizer_state = None if optimizer is None else ElementStateReset(optimizer, self.names, self.weights)

    @torch.no_grad()
    def apply(self) -> None:
        """Make all weights orthogonal now. Weights that were frozen later are left alone."""
        if self._optimizer_state is not None:
            self._optimizer_state.check(self.names, self.weights)
        for layer, weight in zip(self._layers, self.weights, strict=True):
            if weight.requires_grad:
                weight.copy_(self._orthogonal(layer, weight))
                if self._optimizer_state is not None:
                    self._optimizer_state.reset(weight, torch.ones_like(weight, dtype=torch.bool))

    def _orthogonal(self, layer: nn.Module | None, weight: Tensor) -> Tensor:
        parts = parts_of(layer, self._members)
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        matrices = wide.reshape(parts, len(weight) // parts, weight.shape[1], -1).permute(0, 3, 1, 2)
        positions, rows, columns = matrices.shape[1:]
        outputs, inputs = (columns, rows) if has_inputs_first(layer) else (rows, columns)
        scale = math.sqrt(outputs / inputs) / positions
        with torch.autocast(weight.device.type, enabled=False):
            made = newton_schulz(matrices, self.iterations) * scale
        return made.permute(0, 2, 3, 1).reshape(weight.shape).to(weight.dtype)

    def end_task(self) -> None:
        """`apply`, as the hook of a learner's method, unless it acts by ``every``."""
        if self.every == 0:
            self.apply()

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps."""
        return {"version": STATE_VERSION, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the number of steps.

        Raises:
            ValueError: not the result of `state_dict`. Nothing is changed.
        """
        self.steps = check_saved_state(state_dict, "FIRE.state_dict()", {"steps": counter()}, STATE_VERSION)["steps"]

    def __repr__(self) -> str:
        return f"FIRE({len(self.weights)} weights, iterations={self.iterations}, every={self.every})"


def newton_schulz(matrices: Tensor, iterations: int) -> Tensor:
    """The orthogonal factors of matrices (..., rows, columns), approached by Newton-Schulz steps."""
    wide = matrices.shape[-1] > matrices.shape[-2]
    x = matrices.mT if wide else matrices
    tiny = torch.finfo(x.dtype).tiny
    x = x / x.abs().amax((-2, -1), keepdim=True).clamp_min(tiny)  # squares of very small or large weights are 0 or inf
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(tiny)
    for _ in range(iterations):
        x = 1.5 * x - 0.5 * x @ (x.mT @ x)
    factors: Tensor = x.mT if wide else x
    return factors
