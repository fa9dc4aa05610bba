"""Finds and loads the library of C kernels.

A wheel has one library for each instruction set. Without (a checkout, or a wheel that was built without a C compiler)
the one for this processor is compiled at first use, if there is a compiler now, and kept in a cache folder.

A kernel is called with integers and addresses (``tensor.data_ptr()``) and does not check them: it needs contiguous
tensors on the CPU, of the dtypes and sizes that its source says. For each kernel there are equivalent torch operations,
which are used wherever the kernel cannot be. A call takes about as long as a call of an empty Python function.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from gnt._kernels import openmp
from gnt._kernels.compiler import CompilerError, compile_library, fingerprint, instruction_set, library_name

Kernel = Callable[..., None]

SCALARS = {torch.float32: "float", torch.float64: "double"}

_PYTHON = (  # functions that the library calls, in the order of python_calls.c
    "PyLong_AsSsize_t", "PyFloat_AsDouble", "PyErr_Occurred", "PyErr_SetString", "PyCFunction_NewEx", "Py_IncRef",
    "PyEval_SaveThread", "PyEval_RestoreThread",
)  # fmt: skip


@dataclass(frozen=True)
class Library:
    """A loaded library.

    Attributes:
        path: its file.
        instructions: the instruction set for which it was compiled.
        threads: path of the OpenMP runtime, or None: the kernels run in one thread.
        kernels: the kernels by name and C type, such as ``"adam_float"``.
    """

    path: Path
    instructions: str
    threads: str | None
    kernels: dict[str, Kernel]


@functools.cache
def loaded_library() -> Library | str:
    """The library, loaded, or the reason why there is none."""
    if sys.implementation.name != "cpython":
        return f"the kernels need CPython, and this is {platform.python_implementation()}"
    if sys.maxsize < 2**32:
        return "the kernels need a 64-bit Python"
    instructions = instruction_set(torch.backends.cpu.get_cpu_capability())
    shipped = Path(__file__).parent / library_name(instructions)
    reasons = []
    if shipped.exists():
        try:
            return _load(shipped, instructions)
        except (OSError, AttributeError) as error:
            reasons.append(f"{shipped} cannot be loaded: {error}")
    for compiled in (_compiled, _compiled_for_this_process):  # the second if what is in the cache cannot be loaded
        try:
            return _load(compiled(instructions), instructions)
        except (OSError, AttributeError) as error:
            reasons.append(str(error))
        except CompilerError as error:
            reasons.append(str(error))
            break
    return "; ".join(reasons)


def load(name: str, dtype: torch.dtype) -> Kernel:
    """Return the kernel ``name`` for ``dtype``.

    Raises:
        RuntimeError: there are no kernels, with the reason.
    """
    found = loaded_library()
    if isinstance(found, str):
        raise _no_kernels(found)
    return found.kernels[f"{name}_{SCALARS[dtype]}"]


def use_kernels(setting: bool | None, *, fit: bool = True) -> bool:
    """True if kernels are to be used: not for False, nor for None if there are none.

    Args:
        setting: the setting ``kernels``.
        fit: the tensors are such that kernels can be used.

    Raises:
        RuntimeError: the setting is True, and there are no kernels, with the reason.
    """
    if setting is False or (setting is None and not fit):
        return False
    found = loaded_library()
    if isinstance(found, str):
        if setting:
            raise _no_kernels(found)
        return False
    return fit


def _no_kernels(reason: str) -> RuntimeError:
    return RuntimeError(
        f"kernels=True requires gnt's C kernels, and there are none: {reason}. Install a wheel of gnt for this "
        "platform, or a C compiler; kernels=None uses torch operations where there are no kernels"
    )


def _compiled(instructions: str) -> Path:
    """The library in the cache folder, compiled if it is not there."""
    try:
        folder = cache_folder() / fingerprint(instructions)
        path = folder / library_name(instructions)
        if path.exists():
            return path
        folder.mkdir(parents=True, exist_ok=True)
        return compile_library(instructions, folder)
    except CompilerError:
        raise
    except (OSError, RuntimeError):  # a home that cannot be read or written to, or none (RuntimeError)
        return _compiled_for_this_process(instructions)


def _compiled_for_this_process(instructions: str) -> Path:
    return compile_library(instructions, Path(_folder_of_this_process().name))


@functools.cache
def _folder_of_this_process() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="gnt-kernels-", ignore_cleanup_errors=True)


def cache_folder() -> Path:
    """The folder for compiled libraries: the environment variable GNT_CACHE, or one for caches of this user."""
    if chosen := os.environ.get("GNT_CACHE"):
        return Path(chosen).absolute()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "gnt"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "gnt"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gnt"


def _load(path: Path, instructions: str) -> Library:
    loaded = ctypes.PyDLL(str(path))
    api = ctypes.pythonapi
    addresses = [ctypes.cast(getattr(api, name), ctypes.c_void_p).value for name in _PYTHON]
    addresses += [id(None), id(TypeError)]
    threads = openmp.functions()
    loaded.gnt_initialize.restype = ctypes.c_int64
    count = loaded.gnt_initialize((ctypes.c_void_p * 10)(*addresses), (ctypes.c_void_p * 3)(*(threads or [0] * 3)))
    loaded.gnt_name.restype, loaded.gnt_name.argtypes = ctypes.c_char_p, [ctypes.c_int64]
    loaded.gnt_function.restype, loaded.gnt_function.argtypes = ctypes.py_object, [ctypes.c_int64]
    kernels = {loaded.gnt_name(i).decode(): loaded.gnt_function(i) for i in range(count)}
    return Library(path, instructions, openmp.path() if threads else None, kernels)
