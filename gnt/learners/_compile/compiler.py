"""Compilation of graphs by torch's compiler; equal graphs are compiled once per process."""

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

CompiledGraph = Callable[..., Sequence[Tensor]]

MAX_CACHED = 128
_cache: OrderedDict[Any, CompiledGraph] = OrderedDict()
_compilations = 0

ADVICE = "leave compile=False"


def compilation_count() -> int:
    """Number of graphs compiled so far in this process."""
    return _compilations


def compile_graph(graph: GraphModule, examples: Sequence[Tensor]) -> CompiledGraph:
    """A graph as a callable of its input tensors, compiled unless an equal graph was.

    Args:
        graph: a graph of aten operations, which may write to its inputs.
        examples: fake tensors with the layouts of its inputs, no two of which share memory.

    Raises:
        RuntimeError: the compiler failed.
    """
    global _compilations
    key = _key(graph, examples)
    compiled = _cache.pop(key, None)
    if compiled is None:
        compiled = _compile(graph, examples)
        _compilations += 1
    _cache[key] = compiled
    while len(_cache) > MAX_CACHED:
        _cache.popitem(last=False)
    return compiled


def _compile(graph: GraphModule, examples: Sequence[Tensor]) -> CompiledGraph:
    patches = {"fallback_random": True}  # random numbers as in eager mode
    try:
        with torch.no_grad(), _no_warnings():
            from torch._inductor.compile_fx import compile_fx

            compiled: Any = compile_fx(graph, list(examples), config_patches=patches)
    except Exception as error:
        raise RuntimeError(
            f"compile=True: the compiler of torch.compile failed on this learner: {type(error).__name__}: "
            f"{_first_lines(error)}. Install a working compiler (g++ or clang++; CXX names it), or {ADVICE}"
        ) from error
    return compiled  # type: ignore[no-any-return]


def _key(graph: GraphModule, examples: Sequence[Tensor]) -> Any:
    """Everything that a compiled graph depends on: its code, its constants, and the layout of its inputs."""
    constants = []
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = getattr(graph, node.target)
            content = (str(value.dtype), value.tolist()) if isinstance(value, Tensor) else (type(value), id(value))
            constants.append((node.target, repr(content)))
    layout = tuple((tuple(e.shape), e.stride(), e.dtype, e.device) for e in examples)
    return graph.code, tuple(constants), layout, torch.are_deterministic_algorithms_enabled()


def draws_random_numbers(graph: GraphModule) -> bool:
    """True if the graph draws from torch's random generators."""
    tags = (getattr(node.target, "tags", ()) for node in graph.graph.nodes)
    return any(torch.Tag.nondeterministic_seeded in own for own in tags)


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split("\n")[:3])[:500]


@functools.cache
def check_compiler(device: str) -> None:
    """Refuse a machine that cannot compile for ``device``.

    Raises:
        RuntimeError: there is no C++ compiler or, for a GPU, no Triton.
    """
    try:
        with _no_warnings():
            _find_compiler(device)
    except Exception as error:
        raise RuntimeError(
            f"compile=True needs the compiler of torch.compile, which does not work here: {type(error).__name__}: "
            f"{_first_lines(error)}. Install one (for the CPU g++ or clang++; CXX names it), or {ADVICE}"
        ) from error


def _find_compiler(device: str) -> None:
    if device == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        get_cpp_compiler()
    else:
        from torch.utils._triton import has_triton

        if not has_triton():
            raise RuntimeError("Triton is not installed")


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence the warnings that the compiler gives about its own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
