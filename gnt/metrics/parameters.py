"""Weights, their gradients and their changes, each as one number."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gnt.metrics import _validation as checks

Parameters = nn.Module | Tensor | Iterable[Tensor]


def weight_magnitude(parameters: Parameters) -> float:
    """Mean magnitude of all given values::

        sum over tensors and their entries of |w| / number of entries

    Args:
        parameters: a module (all its parameters, biases and norms too, each once), tensors, or one tensor.

    Returns:
        A number of at least 0.

    Raises:
        TypeError: no module and no tensors.
        ValueError: no values at all, or not floating point.
        FloatingPointError: a value that is not finite.

    Source: Dohare et al., Nature 632 (2024), Methods: the mean magnitude of the network's weights.

    >>> import torch
    >>> weight_magnitude([torch.tensor([1.0, -3.0]), torch.tensor([[2.0]])])
    2.0
    """
    tensors = checks.parameters("parameters", parameters)
    total = math.fsum(_finite_sum("parameters", i, tensor) for i, tensor in enumerate(tensors))
    return total / sum(tensor.numel() for tensor in tensors)


def gradient_norm(parameters: Parameters) -> float:
    """Euclidean norm of all gradients together, as they stand in ``.grad``::

        sqrt(sum over parameters and their entries of g^2)

    Args:
        parameters: a module, parameters, or one. Those without a gradient are left out.

    Returns:
        A number of at least 0.

    Raises:
        TypeError: no module and no tensors.
        ValueError: none of them has a gradient, or not floating point.
        FloatingPointError: a gradient that is not finite.

    Source: the quantity that ``torch.nn.utils.clip_grad_norm_`` clips.

    >>> import torch
    >>> w = torch.tensor([3.0, 2.0], requires_grad=True)
    >>> (w.square() / 2 * torch.tensor([1.0, 2.0])).sum().backward()
    >>> gradient_norm(w)
    5.0
    """
    tensors = checks.parameters("parameters", parameters)
    gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
    if not gradients:
        raise ValueError(f"none of the {len(tensors)} parameters has a gradient: ask between backward and zero_grad")
    return norm("gradients", [each.to_dense() if each.is_sparse else each for each in gradients])


def update_size(before: Parameters, after: Parameters) -> float:
    """Euclidean norm of the change from one snapshot of the parameters to another::

        sqrt(sum over parameters and their entries of (after - before)^2)

    Of one step of plain gradient descent it is the step size times `gradient_norm`. `UpdateSize` keeps the snapshots.

    Args:
        before: a module, tensors, or one tensor: *copies*, as the parameters change where they are.
        after: the same tensors later.

    Returns:
        A number of at least 0.

    Raises:
        TypeError: no module and no tensors.
        ValueError: not as many tensors, other shapes, or not floating point.
        FloatingPointError: a value that is not finite.

    >>> import torch
    >>> w = torch.tensor([1.0, 1.0])
    >>> before = w.clone()
    >>> w -= torch.tensor([3.0, 4.0])
    >>> update_size(before, w)
    5.0
    """
    first, last = checks.parameters("before", before), checks.parameters("after", after)
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (first, last)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"before and after must be of the same shapes, got {_differing(*shapes)}")
    pairs = zip(last, first, strict=True)
    return norm("before and after", (checks.double(b) - checks.double(a).to(b.device) for b, a in pairs))


class UpdateSize:
    """The size of the change of parameters since it was last measured (at first: since this was made).

    Args:
        parameters: a module, parameters, or one. They are copied at each measurement.

    Raises:
        TypeError, ValueError: as of `update_size`.

    >>> import torch
    >>> net = torch.nn.Linear(2, 1)
    >>> change = UpdateSize(net)
    >>> with torch.no_grad():
    ...     net.weight += torch.tensor([[3.0, 4.0]])
    >>> round(change.measure(), 4), change.measure()
    (5.0, 0.0)
    """

    def __init__(self, parameters: Parameters) -> None:
        # a module is asked each time: its parameters may be moved; a generator could be asked but once
        whole = isinstance(parameters, nn.Module)
        self._parameters = parameters if whole else checks.parameters("parameters", parameters)
        self._snapshot = self._copies()

    def measure(self) -> float:
        """`update_size` since the last call; from here on it is counted anew."""
        now = self._copies()
        size = update_size(self._snapshot, now)
        self._snapshot = now
        return size

    def state_dict(self) -> dict[str, Any]:
        """The snapshot, for a run that goes on later."""
        return {"snapshot": [tensor.clone() for tensor in self._snapshot]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count from a saved snapshot on.

        Raises:
            ValueError: it is none, or of other parameters. Nothing is changed.
        """
        snapshot = state_dict.get("snapshot") if isinstance(state_dict, dict) else None
        if not isinstance(snapshot, list) or not all(isinstance(tensor, Tensor) for tensor in snapshot):
            raise ValueError("state_dict is not one of UpdateSize.state_dict(): it has no list of tensors 'snapshot'")
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (snapshot, self._snapshot)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"state_dict must be of the same parameters, got {_differing(*shapes)}")
        self._snapshot = [tensor.detach().clone() for tensor in snapshot]

    def _copies(self) -> list[Tensor]:
        tensors = checks.parameters("parameters", self._parameters)
        return [checks.whole(tensor.detach()).clone() for tensor in tensors]


def norm(name: str, tensors: Iterable[Tensor]) -> float:
    """Euclidean norm of all entries of all tensors."""
    norms = []
    for i, tensor in enumerate(tensors):
        size = float(torch.linalg.vector_norm(checks.double(tensor)))
        if not math.isfinite(size):
            checks.finite(f"{name} [{i}]", tensor)
        norms.append(size)
    return math.hypot(*norms)


def _finite_sum(name: str, i: int, tensor: Tensor) -> float:
    total = float(checks.double(tensor).abs().sum())
    if not math.isfinite(total):
        checks.finite(f"{name}[{i}]", tensor)
    return total


def _differing(first: list[Any], second: list[Any]) -> str:
    if len(first) != len(second):
        return f"{len(first)} and {len(second)} tensors"
    i = next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    return f"{first[i]} and {second[i]} for tensor {i}"
