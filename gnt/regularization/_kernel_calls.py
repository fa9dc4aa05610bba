"""The C kernels of penalties against forgetting: one pass over memory for all parameters.

The torch operations that do the same for tensors that the kernels do not take are where the kernels are called.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from gnt._kernels import SCALARS, is_readable, load, use_kernels

Tensors = Sequence[Tensor]

AROUND_CACHE = 1 << 23  # bytes of copies beyond which they are written around the cache, as they would push all out


def split_for_kernel(*lists: Tensors) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Lists of tensors, of equal length: the places that a kernel takes in each list, and the other ones.

    A kernel takes contiguous float32 or float64 tensors on the CPU, all of one dtype.
    """
    empty: list[list[Tensor]] = [[] for _ in lists]
    everything = [list(each) for each in lists]
    if not lists[0] or torch.compiler.is_compiling():
        return empty, everything
    dtype = lists[0][0].dtype
    takes = [all(_is_readable(each, dtype) for each in place) for place in zip(*lists, strict=True)]
    if not use_kernels(None, fit=dtype in SCALARS and any(takes)):
        return empty, everything
    if all(takes):
        return everything, empty
    taken, others = (
        [[t for t, own in zip(each, takes, strict=True) if own is wanted] for each in lists] for wanted in (True, False)
    )
    return taken, others


def _is_readable(tensor: Tensor, dtype: torch.dtype) -> bool:
    plain = type(tensor) is Tensor or type(tensor) is nn.Parameter
    return plain and is_readable(tensor, dtype)


def add_penalty_gradients(
    gradients: Tensors,
    parameters: Tensors,
    factor: float,
    importance: Tensors | None = None,
    anchors: Tensors | None = None,
    copies: tuple[Tensors, Tensors] | None = None,
) -> None:
    """Add factor * A (theta - mu) to gradients; before that, copy gradients and parameters.

    Args:
        gradients, parameters, importance, anchors: what `split_for_kernel` has chosen. Without importance nothing is
            added.
        factor: of the penalty's gradient.
        copies: tensors for copies of the gradients, and of the parameters.
    """
    if not gradients:
        return
    zeros, layout = [0] * len(gradients), array("q")
    lists = [parameters, gradients, importance, anchors, *(copies or (None, None))]
    columns = [zeros if each is None else [tensor.data_ptr() for tensor in each] for each in lists]
    sizes = [each.numel() for each in gradients]
    for row in zip(*columns, sizes, strict=True):
        layout.extend(row)
    around = copies is not None and 2 * sum(sizes) * gradients[0].element_size() > AROUND_CACHE
    kernel = load("penalty_gradient", gradients[0].dtype)
    kernel(layout.buffer_info()[0], len(gradients), factor, int(around), torch.get_num_threads())
    if importance is not None:
        increment_version(gradients)  # as torch's in-place operations do


def add_path_integrals(parameters: Tensors, before: Tensors, gradients: Tensors, paths: Tensors) -> None:
    """Paths <- paths + (before - parameters) * gradients, for what `split_for_kernel` has chosen."""
    if not parameters:
        return
    layout = array("q")
    # the other way round: an optimizer has just read the last ones, which may still be in the cache
    for row in reversed([*zip(parameters, before, gradients, paths, strict=True)]):
        layout.extend([*(each.data_ptr() for each in row), row[0].numel()])
    kernel = load("path_integral", parameters[0].dtype)
    kernel(layout.buffer_info()[0], len(parameters), torch.get_num_threads())
