"""Builds and loads the C++ kernels, for a dtype, with the compiler that `torch.compile` uses.

Nothing is built when gnt is installed. Each ``NAME.cpp`` in this directory defines one function ``kernel`` whose
arguments are tensors (as pointers) and integers (``int64_t``). The word ``scalar`` in its source is replaced by the C++
type of the dtype. Built kernels are kept in torch's own cache, so that later processes load them. A call takes about as
long as a call of an empty Python function.

A kernel does not check its arguments: it needs contiguous tensors on the CPU, of the dtypes and sizes that its
signature says. For each kernel there is an equivalent in torch operations, which is used wherever the kernel cannot be.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from importlib import resources

import torch

Kernel = Callable[..., None]

SCALARS = {torch.float32: "float", torch.float64: "double"}

# torch tells the compiler not to vectorise loops, because inductor writes vector instructions itself
_PROLOGUE = """
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("tree-loop-vectorize")
#endif
"""


@functools.cache
def load(name: str, dtype: torch.dtype) -> Kernel:
    """Return the kernel ``name`` for ``dtype``; build it if it is not in the cache.

    Raises:
        RuntimeError: there is no working C++ compiler, or this torch cannot use it.
    """
    source = resources.files(__package__).joinpath(f"{name}.cpp").read_text()
    return _build(f"{_PROLOGUE}{source}".replace("scalar", SCALARS[dtype]))


def _build(source: str) -> Kernel:
    signature = re.search(r'extern "C" void kernel\(([^)]*)\)', source)
    assert signature is not None
    types = [re.sub(r"\s*\w+$", "", argument.strip()) for argument in signature[1].split(",")]
    try:
        # imports the compiler, which takes about as long as importing torch
        from torch._inductor.codecache import CppPythonBindingsCodeCache

        kernel: Kernel = CppPythonBindingsCodeCache.load_pybinding(types, source)
    except Exception as error:
        raise RuntimeError(
            "kernels=True requires a C++ compiler that torch can use, and compiling a kernel failed with "
            f"{type(error).__name__}: {error}. Install g++ or clang++ (the environment variable CXX selects the "
            "compiler), or use kernels=False"
        ) from error
    return kernel
