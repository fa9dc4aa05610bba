"""The check that gradients have the shapes of their parameters: the fused implementation reads them unchecked."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch._C._dynamo.guards import TensorGuards

from gnt._kernels import gradient_shape_error, layout_check
from gnt.optim._adam.state import is_plain_tensor


class GradientShapes:
    """Checks gradients against the shapes that the parameters have now.

    Gradients with the layouts of the previous step are recognized in C++, at about 0.1 microseconds each.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._params = params
        self._seen: TensorGuards | None = None

    def check(self, grads: Sequence[Tensor]) -> None:
        """Raise RuntimeError for a gradient of another shape than its parameter's."""
        if self._seen is not None and self._seen.check(*grads):
            return
        for param, grad in zip(self._params, grads, strict=True):
            if grad.shape != param.shape:
                raise gradient_shape_error(grad, param.shape)
        self._seen = layout_check(grads) if grads and all(map(is_plain_tensor, grads)) else None
