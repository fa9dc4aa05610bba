"""The compiler: graphs in, callables out. Learners whose graphs say the same share what was compiled for the first."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

Compiled = Callable[..., Sequence[Tensor]]

MOST_KEPT = 128
_compiled: OrderedDict[Any, Compiled] = OrderedDict()
_count = 0

ADVICE = "leave compile=False"


def count() -> int:
    """How many graphs were compiled so far in this process."""
    return _count


def compile_graph(graph: GraphModule, examples: Sequence[Tensor]) -> Compiled:
    """The graph as one callable of its tensors, compiled if no equal one was.

    Args:
        graph: of operations of aten, which may write to its inputs.
        examples: fake tensors like its inputs, no two of which share memory.

    Raises:
        RuntimeError: the compiler failed.
    """
    global _count
    key = _key(graph, examples)
    known = _compiled.pop(key, None)
    if known is None:
        known = _compile(graph, examples)
        _count += 1
    _compiled[key] = known
    while len(_compiled) > MOST_KEPT:
        _compiled.popitem(last=False)
    return known


def _compile(graph: GraphModule, examples: Sequence[Tensor]) -> Compiled:
    # random numbers are drawn as without compilation
    patches = {"fallback_random": True}
    try:
        with torch.no_grad(), _quietly():
            from torch._inductor.compile_fx import compile_fx

            compiled: Any = compile_fx(graph, list(examples), config_patches=patches)
    except Exception as error:
        raise RuntimeError(
            f"compile=True: the compiler of torch.compile failed on this learner: {type(error).__name__}: "
            f"{_first_lines(error)}. Install a compiler that works (g++ or clang++; CXX names it), or {ADVICE}"
        ) from error
    return compiled  # type: ignore[no-any-return]


def _key(graph: GraphModule, examples: Sequence[Tensor]) -> Any:
    """All that a compiled graph depends on: its text, its constants, and the layout of its inputs."""
    constants = []
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = getattr(graph, node.target)
            shown = (str(value.dtype), value.tolist()) if isinstance(value, Tensor) else (type(value), id(value))
            constants.append((node.target, repr(shown)))
    layout = tuple((tuple(e.shape), e.stride(), e.dtype, e.device) for e in examples)
    return graph.code, tuple(constants), layout, torch.are_deterministic_algorithms_enabled()


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split("\n")[:3])[:500]


@functools.cache
def check_compiler(device: str) -> None:
    """Refuse a machine that cannot compile for ``device``, before anything is built.

    Raises:
        RuntimeError: there is no C++ compiler, or for a GPU no Triton.
    """
    try:
        with _quietly():
            _find(device)
    except Exception as error:
        raise RuntimeError(
            f"compile=True needs the compiler of torch.compile, and that does not work here: {type(error).__name__}: "
            f"{_first_lines(error)}. Install one (for the CPU g++ or clang++; CXX names it), or {ADVICE}"
        ) from error


def _find(device: str) -> None:
    if device == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        get_cpp_compiler()
    else:
        from torch.utils._triton import has_triton

        if not has_triton():
            raise RuntimeError("Triton is not installed")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The compiler warns about itself, at its import and at work."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
