"""InputNorm: normalization of inputs by running statistics that keep up with a changing stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gnt._utils.running_backward import in_backward
from gnt._utils.validation import check_positive, finite_number, to_float


class InputNorm(nn.Module):
    """Normalizes inputs by an exponential running mean and variance: (x - m) / sqrt(v + eps).

    In training each batch enters the statistics first, with a = (1 - decay) / (1 - decay^t) in the t-th batch, its mean
    b, its variance s and d = b - m::

        m <- m + a d;     v <- (1 - a) (v + a d^2) + a s

    which are mean and variance over all batches so far, each with weight decay^age whatever its size. In evaluation the
    statistics stay. Unlike `torch.nn.BatchNorm1d` it works with batches of one sample, uses the same statistics in
    training and evaluation, and has no parameters. Gradients do not flow through the statistics. Put it first in a
    network, for a stream whose inputs change.

    Args:
        shape: shape of the statistics: the number of features of (batch, features), or a shape that is compared with
            the last dimensions of the input; where it is 1, statistics are taken over that dimension, too:
            (3, 1, 1) for images with three channels.
        decay: decay rate of the statistics, in [0, 1).
        eps: added to the variance, > 0.

    Buffers: ``mean`` and ``var``, of ``shape`` in float32 or wider, also after ``half()``; before the first batch 0 and
    1. ``batches``, the number of batches.

    Raises:
        ValueError: a setting out of range; in a forward, an input that is complex or does not fit ``shape``.

    Processes that train one network together have statistics of their own, unless DistributedDataParallel gives them
    those of the first one, as for BatchNorm (``broadcast_buffers=True``, its default). An input that is not finite
    makes the statistics of its feature NaN for good: check the inputs of a stream that may hold such values.

    A forward that activation checkpointing repeats in the backward does not count again. It takes the present
    statistics, which are those of the first forward unless another batch came between. A compiled network inside of
    ``checkpoint`` cannot tell, and counts each batch twice; ``checkpoint`` inside of a compiled network is fine.

    >>> import torch, gnt
    >>> norm = gnt.nn.InputNorm(3)
    >>> x = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 4.0]])
    >>> [[round(value) for value in row] for row in norm(x).tolist()]
    [[-1, 0, -1], [1, 0, 1]]
    """

    mean: Tensor
    var: Tensor
    batches: Tensor

    def __init__(self, shape: int | Sequence[int], decay: float = 0.99, eps: float = 1e-5) -> None:
        super().__init__()
        sizes = list(shape) if isinstance(shape, Sequence) else [shape]
        for size in sizes or [0]:
            check_positive(shape=size)
        if not 0.0 <= to_float(decay) < 1.0:
            raise ValueError(f"decay must be a number in [0, 1), got {decay!r}")
        self.shape, self.decay = tuple(map(int, sizes)), float(decay)
        self.eps = finite_number("eps", eps, exclusive=True)
        self.register_buffer("mean", torch.empty(self.shape))
        self.register_buffer("var", torch.empty(self.shape))
        self.register_buffer("batches", torch.empty((), dtype=torch.int64))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Forget all batches: the statistics are those before the first one. There are no parameters; the name is that
        of torch's layers.
        """
        self.mean.zero_()
        self.var.fill_(1.0)
        self.batches.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """The normalized input, of its shape, and of its dtype if that is floating point."""
        self._check(x)
        if self.training and x.numel() and (torch.compiler.is_compiling() or not in_backward()):
            self._update(x.detach())
        wide = x if x.is_floating_point() else x.to(self.mean.dtype)
        normalized = (wide - self.mean) / torch.sqrt(self.var + self.eps)
        return normalized.to(wide.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> InputNorm:
        """As in all modules, for `to` and `half`; but the statistics stay in float32 or wider."""
        before = {name: getattr(self, name) for name in ("mean", "var")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in before.items():
            if (new := getattr(self, name)).dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, value.to(new.device))
        return self

    def _check(self, x: Tensor) -> None:
        if x.is_complex():
            raise ValueError(f"InputNorm takes real numbers, got an input of {x.dtype}")
        own, last = self.shape, x.shape[1:][-len(self.shape) :]
        if len(last) != len(own) or any(a not in (1, b) for a, b in zip(own, last, strict=True)):
            raise ValueError(
                f"InputNorm has statistics of shape {own}, which the last dimensions of the input must have (or any "
                f"size where it is 1), after the samples; got an input of shape {tuple(x.shape)}"
            )

    @torch.no_grad()
    def _update(self, x: Tensor) -> None:
        x = x.to(self.mean.dtype)
        start = x.ndim - len(self.shape)
        dims = [*range(start), *(start + place for place, size in enumerate(self.shape) if size == 1)]
        mean = x.mean(dims, keepdim=True)
        variance = (x - mean).square_().mean(dims)  # on a CPU torch.var_mean takes ten times as long
        self.batches += 1
        # the weight of the first batch is exactly 1: a variance must not become negative by rounding
        rate = math.log(self.decay) if self.decay else -math.inf
        weight = (self.decay - 1.0) / torch.expm1(rate * self.batches.to(self.mean.dtype))
        weight = torch.where(self.batches == 1, 1.0, weight.clamp(max=1.0))
        change = mean.view(self.shape) - self.mean
        self.mean += weight * change
        self.var.copy_((1.0 - weight) * (self.var + weight * change.square()) + weight * variance.view(self.shape))

    def extra_repr(self) -> str:
        """Shape, decay and eps, for the repr."""
        return f"{self.shape}, decay={self.decay:g}, eps={self.eps:g}"
