"""Compiles the C kernels beside this file into shared libraries.

setup.py uses this module for the wheel, without gnt being installed, so it imports the standard library only. A
checkout, which has no libraries, compiles the one that it needs at first use (`library`).
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE = Path(__file__).parent
TYPES = ("float", "double")
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")

# Arithmetic is done as it is written: no -ffast-math, and no contraction of a * b + c, for which kernels have
# multiply_add. With -fopenmp-simd, sums that are marked so are added in the order that suits vectors. A loop that gcc
# splits into two by a condition (unswitches) is vectorized only in part.
FLAGS = (
    "-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fopenmp-simd",
    "-fno-unswitch-loops", "-fvisibility=hidden",
    *(() if sys.platform == "win32" else ("-fPIC",)),
)  # fmt: skip
LINK = ("-shared", *(() if sys.platform == "win32" else ("-lm",)))

# by what torch.backends.cpu.get_cpu_capability() says of an x86-64 processor; for all others there is one library
_X86_64 = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3", "DEFAULT": "x86-64-v2"}
BASELINE = "baseline"


class CompilerError(RuntimeError):
    """There is no C compiler, or it does not compile the kernels."""


def is_x86_64() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32


def instruction_sets() -> tuple[str, ...]:
    """Those for which a wheel has a library."""
    return tuple(_X86_64.values()) if is_x86_64() else (BASELINE,)


def instruction_set(capability: str) -> str:
    """The one to use on a processor of which torch says that it has this capability."""
    return _X86_64.get(capability, _X86_64["DEFAULT"]) if is_x86_64() else BASELINE


def library_name(instructions: str) -> str:
    return f"kernels-{instructions}{SUFFIX}"


def find_compiler() -> list[str]:
    """The command of the C compiler: that of the environment variable CC, or the first of cc, gcc and clang.

    Raises CompilerError if there is none.
    """
    chosen = os.environ.get("CC")
    if chosen:
        command = shlex.split(chosen)
        if command and shutil.which(command[0]):
            return command
        raise CompilerError(f"the C compiler that the environment variable CC names, {chosen!r}, was not found")
    for name in ("clang", "gcc") if sys.platform == "win32" else ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise CompilerError("no C compiler was found (cc, gcc or clang; the environment variable CC names another one)")


def fingerprint(instructions: str) -> str:
    """A name for what a library is made from: the sources, the flags and the compiler."""
    digest = hashlib.sha256(repr((FLAGS, LINK, instructions, os.environ.get("CC"), platform.machine())).encode())
    for path in sorted(SOURCE.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def compile_library(instructions: str, folder: Path) -> Path:
    """Compile the kernels into a library in ``folder``, which appears there when it is complete.

    Raises CompilerError.
    """
    compiler, folder = find_compiler(), folder.absolute()  # the compiler runs in another folder
    machine = () if instructions == BASELINE else (f"-march={instructions}",)
    sources = [str(path) for path in sorted(SOURCE.glob("*.c")) if path.name != "python_calls.c"]
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as work:
        commands = []
        for name in TYPES:
            Path(work, name).mkdir()
            commands.append((Path(work, name), [*compiler, *FLAGS, *machine, f"-Dscalar={name}", "-c", *sources]))
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda each: _run(*each), commands))
        objects = [str(path) for name in TYPES for path in sorted(Path(work, name).iterdir())]
        target = Path(work, library_name(instructions))
        calls = [*FLAGS, str(SOURCE / "python_calls.c")]
        _run(Path(work), [*compiler, *calls, *objects, *LINK, "-o", str(target)])
        with target.open("r+b") as written:
            os.fsync(written.fileno())  # otherwise a crash of the machine may leave a part of it under the final name
        return target.replace(folder / target.name)


def _run(folder: Path, command: list[str]) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise CompilerError(f"the C compiler {command[0]!r} does not run: {error}") from error
    if done.returncode != 0:
        raise CompilerError(
            f"the C compiler {command[0]!r} failed with: {(done.stderr or done.stdout).strip()[-2000:]}"
        )
