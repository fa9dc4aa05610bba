"""The OpenMP runtime that torch has loaded.

The kernels call its functions by their addresses, so that no second runtime comes into the process: two runtimes have
two pools of threads, which compete for the processor's cores.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

import torch

_NAMES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")  # of libgomp; libomp and libiomp5 have them too


def functions() -> list[int] | None:
    """The addresses of the functions that start threads, or None if torch has no OpenMP runtime that has them."""
    for library in _libraries():
        try:
            return [_address(getattr(library, name)) for name in _NAMES]
        except AttributeError:
            continue
    return None


def _libraries() -> list[ctypes.CDLL]:
    """Where functions that torch calls are looked up: what is loaded globally, then what torch depends on."""
    if sys.platform == "win32":
        return []
    libraries = [ctypes.CDLL(None)]
    name = "libtorch_cpu.dylib" if sys.platform == "darwin" else "libtorch_cpu.so"
    with contextlib.suppress(OSError):  # RTLD_NOLOAD: a library that is not loaded is an error
        libraries.append(ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name), os.RTLD_NOLOAD | os.RTLD_LAZY))
    return libraries


class _Location(ctypes.Structure):  # Dl_info
    _fields_ = (
        ("path", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def path() -> str | None:
    """The path of the runtime."""
    found, location = functions(), _Location()
    if found is None or not ctypes.CDLL(None).dladdr(ctypes.c_void_p(found[0]), ctypes.byref(location)):
        return None
    return os.fsdecode(location.path) if location.path else None


def _address(function: object) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]
