"""The gates of one step, at all places, and the sparsity penalty by one call of a C kernel, differentiable."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from gnt._kernels import SCALARS, is_readable, load, use_kernels
from gnt.protection._gate_places import GatePlace
from gnt.protection._hat_settings import HATSettings
from gnt.protection._sparsity import SparsityTerm


class GateKernel:
    """Computes gates and penalty of one network.

    Args:
        places: where the gates act.
        settings: the settings of `HAT`.
        sparsity: the sparsity term.
    """

    def __init__(self, places: Sequence[GatePlace], settings: HATSettings, sparsity: SparsityTerm) -> None:
        self._shapes = [(place.width, *(1,) * place.trailing) for place in places]
        self.indices = [place.index.to("cpu", torch.int64).contiguous() for place in places]
        self._of_indices = [(index.data_ptr(), len(index)) for index in self.indices]
        self.weights, self._constant = sparsity.penalty_weights, sparsity.penalty_constant
        compensated = settings.compensation != "none"
        self._s_max = settings.s_max if compensated else 0.0
        self._clip = settings.gradient_clip if settings.compensation == "published" else math.inf

    def fits(self, embedding: Tensor) -> bool:
        """True if the kernel can be used for an embedding."""
        dtype = embedding.dtype
        fit = dtype in SCALARS and is_readable(embedding, dtype) and is_readable(self.weights, dtype)
        return use_kernels(None, fit=fit) and not torch.compiler.is_compiling()

    def __call__(self, embedding: Tensor, scale: float, bound: float) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Clamp e and compute the gates of all units, the penalty, and the gates of each place.

        Args:
            embedding: e.
            scale: s.
            bound: e is clamped to this magnitude.
        """
        values, penalty, *parts = cast("tuple[Tensor, ...]", _Gates.apply(embedding, self, scale, bound))  # type: ignore[no-untyped-call]
        return values, penalty, parts

    def forward(self, embedding: Tensor, scale: float, bound: float) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As above -> the derivatives of the gates, and all results."""
        values, slopes, penalty = torch.empty_like(embedding), torch.empty_like(embedding), embedding.new_empty(())
        parts = [embedding.new_empty(shape) for shape in self._shapes]
        pairs = zip(parts, self._of_indices, strict=True)
        layout = array("q", [number for part, own in pairs for number in (part.data_ptr(), *own)])
        load("gates", embedding.dtype)(
            layout.buffer_info()[0], len(parts), embedding.data_ptr(), values.data_ptr(), slopes.data_ptr(),
            embedding.numel(), self.weights.data_ptr(), penalty.data_ptr(), self._constant, bound, scale, self._s_max,
            self._clip,
        )  # fmt: skip
        return slopes, (values, penalty, *parts)

    def gradient(
        self, slopes: Tensor, values: Tensor | None, penalty: Tensor | None, parts: Sequence[Tensor | None]
    ) -> Tensor:
        """The gradient of e from those of the results; None: zeros."""
        result = torch.empty_like(slopes)
        held = [None if each is None else each.contiguous().resolve_neg() for each in (values, penalty, *parts)]
        addresses = [0 if each is None else each.data_ptr() for each in held]
        pairs = zip(addresses[2:], self._of_indices, strict=True)
        layout = array("q", [number for address, own in pairs for number in (address, *own)])
        load("gate_gradient", slopes.dtype)(
            layout.buffer_info()[0], len(parts), *addresses[:2], self.weights.data_ptr(), slopes.data_ptr(),
            result.data_ptr(), slopes.numel(),
        )  # fmt: skip
        return result

    def differentiable_gradient(
        self, slopes: Tensor, values: Tensor | None, penalty: Tensor | None, parts: Sequence[Tensor | None]
    ) -> Tensor:
        """The same by torch operations."""
        total = slopes.new_zeros(len(slopes) + 1)  # the last entry is that of no unit
        for part, index in zip(parts, self.indices, strict=True):
            if part is not None:
                total = total.index_add(0, index % len(total), part.reshape(-1))
        total = total[:-1]
        total = total if values is None else total + values
        return (total if penalty is None else total + penalty * self.weights) * slopes


class _Gates(torch.autograd.Function):
    """The results of `GateKernel`.

    Nothing is saved for the backward, so that several forwards and backwards can share the gates.
    """

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, kernel: GateKernel, scale: float, bound: float) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.kernel, (ctx.slopes, results) = kernel, kernel.forward(embedding, scale, bound)
        return results

    @staticmethod
    def backward(
        ctx: Any, values: Tensor | None, penalty: Tensor | None, *parts: Tensor | None
    ) -> tuple[Tensor, None, None, None]:
        # the gradient itself is differentiated, or it is one of many in a batch, without memory of its own
        given = [each for each in (values, penalty, *parts) if each is not None]
        by_torch = torch.is_grad_enabled() or any(map(_is_batched, given))
        function = ctx.kernel.differentiable_gradient if by_torch else ctx.kernel.gradient
        return function(ctx.slopes, values, penalty, parts), None, None, None


def _is_batched(tensor: Tensor) -> bool:
    """True inside `torch.func.vmap` and in a backward with ``is_grads_batched``."""
    functions = torch._C._functorch
    return functions.is_functorch_wrapped_tensor(tensor) or functions.is_legacy_batchedtensor(tensor)
