"""Kernels: the inner loops of a step in C++, compiled at first use by the compiler that `torch.compile` brings.

Nothing is built at install. Each ``NAME.cpp`` beside this file defines one function ``kernel`` of tensors (as pointers)
and integers (``int64_t``); ``scalar`` stands for the dtype it is built for. What is compiled is kept in torch's own
cache, so that later processes load it. A call takes about as long as that of an empty Python function.

A kernel trusts its caller: contiguous tensors on the CPU, of the dtypes and sizes that its signature says. Each has a
twin of plain torch operations, which runs wherever the kernel cannot.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from importlib import resources

import torch

Kernel = Callable[..., None]

SCALARS = {torch.float32: "float", torch.float64: "double"}

# torch tells the compiler to vectorise no loops, because inductor writes vectors itself
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
    """The kernel ``name`` for ``dtype``, compiled if this machine has not done so before.

    Raises:
        RuntimeError: there is no C++ compiler that works, or this torch cannot use it.
    """
    source = resources.files(__package__).joinpath(f"{name}.cpp").read_text()
    return _compiled(f"{_PROLOGUE}{source}".replace("scalar", SCALARS[dtype]))


def _compiled(source: str) -> Kernel:
    signature = re.search(r'extern "C" void kernel\(([^)]*)\)', source)
    assert signature is not None
    types = [re.sub(r"\s*\w+$", "", argument.strip()) for argument in signature[1].split(",")]
    try:
        # imports the compiler, which takes about as long as torch itself
        from torch._inductor.codecache import CppPythonBindingsCodeCache

        kernel: Kernel = CppPythonBindingsCodeCache.load_pybinding(types, source)
    except Exception as error:
        raise RuntimeError(
            "kernels=True compiles C++ with the compiler of torch.compile, and that did not work here: "
            f"{type(error).__name__}: {error}. Install one (g++ or clang++; the environment variable CXX names it), or "
            "leave kernels=False"
        ) from error
    return kernel
