"""FunctionalPenalty: a penalty as a pure function, for learners whose step is one compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor


class FunctionalPenalty(NamedTuple):
    """A penalty as a pure function: what the method ``functional_penalty`` of a learner's method returns.

    A learner with ``compile=True`` makes it a part of its graph. The graph computes only the gradient, unless the value
    is needed for it.

    Attributes:
        value: the function ``value(parameters, tensors, numbers)``. It gets the parameters, the tensors and the
            numbers below as the graph sees them, the numbers as float64 scalars, and returns the penalty, a scalar, and
            the new values of the tensors, an empty sequence if they stay as they are. It uses torch operations only and
            changes nothing in place. Steps with equal functions share a graph.
        parameters: the parameters whose gradients it adds to.
        tensors: what else it reads. They may be other tensors in each step, of the same shapes and dtypes.
        numbers: Python numbers that it reads, which may change between steps.

    >>> import torch, gnt
    >>> reg = gnt.L2(torch.nn.Linear(4, 1), strength=0.5)
    >>> value, parameters, tensors, numbers = reg.functional_penalty()
    >>> penalty, new_tensors = value(parameters, tensors, numbers)
    >>> bool(torch.isclose(penalty, reg())), new_tensors
    (True, ())
    """

    value: Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[float]], tuple[Tensor, Sequence[Tensor]]]
    parameters: Sequence[Tensor]
    tensors: Sequence[Tensor] = ()
    numbers: Sequence[float] = ()
