"""Checks that gradients fit their parameters, made for all parameter groups before any of them is stepped.

The fused implementation and the kernels read gradients unchecked; the others would fail after they have changed part of
the parameters, or broadcast a gradient to the shape of its parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch._C._dynamo.guards import TensorGuards

from gnt._kernels import check_gradient, layout_check
from gnt.optim._adam.state import is_plain_tensor


class GradientChecks:
    """Checks the gradients of some parameters against the shapes and devices that these have now.

    Gradients with the layouts of the previous step are recognized in C++, at about 0.1 microseconds each.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._params = params
        self._seen: TensorGuards | None = None

    def checked(self, grads: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradients, those of another dtype converted to that of their parameter.

        Raises RuntimeError for a gradient that does not fit its parameter.
        """
        if self._seen is not None and self._seen.check(*grads):
            return grads
        for param, grad in zip(self._params, grads, strict=True):
            check_gradient(grad, param)
        if any(grad.dtype is not param.dtype for param, grad in zip(self._params, grads, strict=True)):
            return [grad.to(param.dtype) for param, grad in zip(self._params, grads, strict=True)]
        self._seen = _recognize(grads)
        return grads


class GroupGradientChecks:
    """Checks the gradients of all parameter groups. They may be sparse, and of other dtypes than the parameters."""

    def __init__(self) -> None:
        self._params: Sequence[Tensor] = ()
        self._seen: TensorGuards | None = None

    def check(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Raise RuntimeError for a gradient that does not fit its parameter."""
        pairs = [(param, grad) for group in groups for param in group["params"] if (grad := param.grad) is not None]
        if not pairs:
            return
        params, grads = zip(*pairs, strict=True)
        same = len(params) == len(self._params) and all(map(is_, params, self._params))
        if same and self._seen is not None and self._seen.check(*params, *grads):
            return
        for param, grad in pairs:
            check_gradient(grad, param)
        self._params, self._seen = params, None
        if all(grad.dtype is param.dtype for param, grad in pairs):
            self._seen = _recognize([*params, *grads])
            return
        for group in groups:
            _refuse_other_dtypes(group)


def _refuse_other_dtypes(group: Mapping[str, Any]) -> None:
    """Raise RuntimeError if torch's fused implementation would be given a gradient of another dtype."""
    for param in group["params"] if group["fused"] else ():
        if param.grad is not None and param.grad.dtype is not param.dtype:
            raise RuntimeError(
                f"fused=True requires gradients of the dtype of their parameter, {param.dtype}, got {param.grad.dtype} "
                f"for a parameter of shape {tuple(param.shape)}"
            )


def _recognize(tensors: Sequence[Tensor]) -> TensorGuards | None:
    """The check that recognizes these tensors' layouts, if they are plain and strided."""
    known = tensors and all(is_plain_tensor(tensor) and tensor.layout is torch.strided for tensor in tensors)
    return layout_check(tensors) if known else None
