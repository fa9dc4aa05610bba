"""Magnitude of weights, norm of gradients, and size of updates, each as one number."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gnt._utils.state_dicts import check_entries, tensors_like
from gnt.metrics._numerics import full_tensor, to_float64
from gnt.metrics._validation import check_finite, checked_parameters

Parameters = nn.Module | Tensor | Iterable[Tensor]


def weight_magnitude(parameters: Parameters) -> float:
    """Mean magnitude of all values::

        sum over tensors and their entries of |w| / number of entries

    Args:
        parameters: a module (all its parameters, including biases and norms, each once), tensors, or one tensor.

    Returns:
        A number >= 0.

    Raises:
        TypeError: not a module or tensors.
        ValueError: no values, or not floating point.
        FloatingPointError: a value is NaN or infinite.

    Source: Dohare et al., Nature 632 (2024), Methods: the mean magnitude of the network's weights.

    >>> import torch
    >>> weight_magnitude([torch.tensor([1.0, -3.0]), torch.tensor([[2.0]])])
    2.0
    """
    tensors = checked_parameters("parameters", parameters)
    total = math.fsum(_absolute_sum(f"parameters[{i}]", tensor) for i, tensor in enumerate(tensors))
    return total / sum(tensor.numel() for tensor in tensors)


def gradient_norm(parameters: Parameters) -> float:
    """Euclidean norm of all gradients in ``.grad``, taken together::

        sqrt(sum over parameters and their entries of g^2)

    Args:
        parameters: a module, parameters, or one parameter. Parameters without a gradient are left out.

    Returns:
        A number >= 0.

    Raises:
        TypeError: not a module or tensors.
        ValueError: no parameter has a gradient, or not floating point.
        FloatingPointError: a gradient is NaN or infinite.

    Source: the quantity that ``torch.nn.utils.clip_grad_norm_`` clips.

    >>> import torch
    >>> w = torch.tensor([3.0, 2.0], requires_grad=True)
    >>> (w.square() / 2 * torch.tensor([1.0, 2.0])).sum().backward()
    >>> gradient_norm(w)
    5.0
    """
    tensors = checked_parameters("parameters", parameters)
    gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
    if not gradients:
        raise ValueError(
            f"none of the {len(tensors)} parameters has a gradient: call this between backward() and zero_grad()"
        )
    return euclidean_norm("gradients", [grad.to_dense() if grad.is_sparse else grad for grad in gradients])


def update_size(before: Parameters, after: Parameters) -> float:
    """Euclidean norm of the change between two snapshots of the parameters::

        sqrt(sum over parameters and their entries of (after - before)^2)

    For one step of plain gradient descent it equals the step size times `gradient_norm`. `UpdateSize` keeps snapshots.

    Args:
        before: a module, tensors, or one tensor; *copies*, because parameters are updated in place.
        after: the same tensors after the change.

    Returns:
        A number >= 0.

    Raises:
        TypeError: not a module or tensors.
        ValueError: different numbers of tensors, different shapes, or not floating point.
        FloatingPointError: a value is NaN or infinite.

    >>> import torch
    >>> w = torch.tensor([1.0, 1.0])
    >>> before = w.clone()
    >>> w -= torch.tensor([3.0, 4.0])
    >>> update_size(before, w)
    5.0
    """
    first, last = checked_parameters("before", before), checked_parameters("after", after)
    difference = _shape_difference(first, last)
    if difference:
        raise ValueError(f"before and after must be of the same shapes, got {difference}")
    pairs = zip(last, first, strict=True)
    return euclidean_norm("before and after", (to_float64(b) - to_float64(a).to(b.device) for b, a in pairs))


class UpdateSize:
    """Size of the change of parameters since the last measurement, or since construction for the first one.

    Args:
        parameters: a module, parameters, or one parameter. They are copied at each measurement.

    Raises:
        TypeError, ValueError: same as `update_size`.

    >>> import torch
    >>> net = torch.nn.Linear(2, 1)
    >>> change = UpdateSize(net)
    >>> with torch.no_grad():
    ...     net.weight += torch.tensor([[3.0, 4.0]])
    >>> round(change.measure(), 4), change.measure()
    (5.0, 0.0)
    """

    def __init__(self, parameters: Parameters) -> None:
        # a module's parameters are read at each measurement, since they may be moved; a generator can be read only once
        is_module = isinstance(parameters, nn.Module)
        self._parameters = parameters if is_module else checked_parameters("parameters", parameters)
        self._snapshot = self._copies()

    def measure(self) -> float:
        """Return `update_size` since the last call and take a new snapshot."""
        now = self._copies()
        size = update_size(self._snapshot, now)
        self._snapshot = now
        return size

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the snapshot."""
        return {"snapshot": [tensor.clone() for tensor in self._snapshot]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Replace the snapshot by a saved one.

        Raises:
            ValueError: not the result of `state_dict`, or of other parameters, or with values that are not finite.
                Nothing is changed.
        """
        snapshot = state_dict.get("snapshot") if isinstance(state_dict, dict) else None
        if not isinstance(snapshot, list) or not all(isinstance(tensor, Tensor) for tensor in snapshot):
            raise ValueError("state_dict is not one of UpdateSize.state_dict(): it has no list of tensors 'snapshot'")
        difference = _shape_difference(snapshot, self._snapshot)
        if difference:
            raise ValueError(f"state_dict must be of the same parameters, got {difference}")
        kinds = {"snapshot": tensors_like(self._snapshot, map(str, range(len(self._snapshot))))}
        self._snapshot = check_entries(state_dict, kinds)["snapshot"]

    def _copies(self) -> list[Tensor]:
        tensors = checked_parameters("parameters", self._parameters)
        return [full_tensor(tensor.detach()).clone() for tensor in tensors]


def euclidean_norm(name: str, tensors: Iterable[Tensor]) -> float:
    """Euclidean norm of all entries of all tensors; ``name`` is for the error if one is not finite."""
    norms = []
    for i, tensor in enumerate(tensors):
        norm = float(torch.linalg.vector_norm(to_float64(tensor)))
        if not math.isfinite(norm):
            check_finite(f"{name} [{i}]", tensor)
        norms.append(norm)
    return math.hypot(*norms)


def _absolute_sum(name: str, tensor: Tensor) -> float:
    total = float(to_float64(tensor).abs().sum())
    if not math.isfinite(total):
        check_finite(name, tensor)
    return total


def _shape_difference(first: list[Tensor], second: list[Tensor]) -> str | None:
    """Describe how the shapes of two lists of tensors differ; None if they are equal."""
    if len(first) != len(second):
        return f"{len(first)} and {len(second)} tensors"
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if a.shape != b.shape:
            return f"{tuple(a.shape)} and {tuple(b.shape)} for tensor {i}"
    return None
