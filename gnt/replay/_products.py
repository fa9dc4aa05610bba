"""The products of all pairs of gradients, each over all parameters."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gnt._kernels import SCALARS, is_readable, load, use_kernels
from gnt.replay._reference_gradients import Gradients

_COLUMNS = 2**13  # of the gradients that are multiplied at once: few enough for the cache
_MAX_VECTORS = 256  # as in gram.c


def products_of_all(rows: Sequence[Gradients], parameters: Sequence[Tensor]) -> NDArray[np.float64]:
    """The products of all pairs of gradients, (rows, rows), summed in float64 where the device has it.

    On a CPU the products of float32 gradients are summed in float32 over blocks of columns, and then in float64. The
    kernel reads the gradients where they are, and takes each pair once.
    """
    by_kernel = torch.get_float32_matmul_precision() == "highest" and _fit_kernel(rows, parameters)
    if not use_kernels(None, fit=by_kernel):
        return _by_torch_operations(rows, parameters)
    total, layout = np.zeros((len(rows), len(rows))), array("q")
    for parameter, *each in zip(parameters, *rows, strict=True):
        layout.extend([0 if gradient is None else gradient.data_ptr() for gradient in each])
        layout.append(parameter.numel())
    kernel = load("gram", parameters[0].dtype)
    kernel(layout.buffer_info()[0], len(parameters), len(rows), total.ctypes.data)
    return total


def _fit_kernel(rows: Sequence[Gradients], parameters: Sequence[Tensor]) -> bool:
    dtype = parameters[0].dtype
    return (
        dtype in SCALARS
        and len(rows) <= _MAX_VECTORS
        and all(each is None or _is_readable(each, dtype) for row in rows for each in row)
    )


def _is_readable(tensor: Tensor, dtype: torch.dtype) -> bool:
    plain = type(tensor) is Tensor or type(tensor) is nn.Parameter
    return plain and is_readable(tensor, dtype)


def _by_torch_operations(rows: Sequence[Gradients], parameters: Sequence[Tensor]) -> NDArray[np.float64]:
    """The products of all pairs of gradients, (rows, rows), summed in float64 where the device has it.

    On a CPU the products of float32 gradients are summed in float32 over blocks of columns, and then in float64.
    """
    device = parameters[0].device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    exact = device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    total = torch.zeros(len(rows), len(rows), dtype=dtype, device=device)
    for parameter, *each in zip(parameters, *rows, strict=True):
        present = [i for i, gradient in enumerate(each) if gradient is not None]
        columns = [each[i].reshape(-1) for i in present]
        if not present:
            continue
        index = torch.tensor(present, device=device) if len(present) < len(rows) else None
        for start in range(0, parameter.numel(), _COLUMNS):
            block = torch.stack([column[start : start + _COLUMNS] for column in columns]).to(
                torch.promote_types(parameter.dtype, torch.float32) if exact else dtype
            )
            part = (block @ block.T).to(dtype)
            if index is None:
                total += part
            else:
                total[index[:, None], index] += part
    result: NDArray[np.float64] = total.cpu().to(torch.float64).numpy()
    return result
