"""The library of C kernels: compiled at first use, chosen by the instruction set, in torch's OpenMP runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import gnt
from gnt._kernels import compiler, configuration, library

ROOT = Path(gnt.__file__).parents[1]


@pytest.fixture
def new_cache(monkeypatch, tmp_path):
    """An empty cache folder, and a compiler that does not optimize."""
    monkeypatch.setenv("GNT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compiler, "FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in compiler.FLAGS))
    return tmp_path / "cache"


def own_instructions() -> str:
    return compiler.instruction_set(torch.backends.cpu.get_cpu_capability())


def run(program: str, **variables: str) -> list[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", **variables}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_several_processes_may_compile_at_once_into_one_folder(new_cache):
    new_cache.mkdir()
    with ThreadPoolExecutor() as pool:
        made = [*pool.map(lambda _: compiler.compile_library(own_instructions(), new_cache), range(2))]
    assert made[0] == made[1]
    assert [*new_cache.iterdir()] == [made[0]]  # nothing else is left, and what is there is complete
    assert "sgd_double" in library._load(made[0], own_instructions()).kernels


def test_a_library_is_on_the_disk_before_it_gets_its_name(new_cache, monkeypatch):
    new_cache.mkdir()
    fsync, written = os.fsync, []

    def record(descriptor: int) -> None:
        fsync(descriptor)
        written.append((os.fstat(descriptor).st_ino, [*new_cache.glob("kernels*")]))

    monkeypatch.setattr(os, "fsync", record)
    made = compiler.compile_library(own_instructions(), new_cache)
    assert written == [(made.stat().st_ino, [])]


def test_a_library_is_compiled_once_and_anew_when_sources_flags_or_compiler_change(new_cache, monkeypatch):
    monkeypatch.chdir(new_cache.parent)
    monkeypatch.setenv("GNT_CACHE", new_cache.name)
    path = library._compiled(own_instructions())
    assert path.is_relative_to(new_cache)
    monkeypatch.setattr(compiler, "compile_library", None)
    assert library._compiled(own_instructions()) == path
    before = compiler.fingerprint(own_instructions())
    monkeypatch.setenv("CC", "another")
    assert compiler.fingerprint(own_instructions()) != before


def test_a_cache_folder_that_cannot_be_made_is_replaced_by_one_of_this_process(new_cache):
    new_cache.write_text("a file")
    path = library._compiled(own_instructions())
    assert path.exists()
    assert not path.is_relative_to(new_cache)


def test_a_cache_folder_that_cannot_be_written_is_replaced_by_one_of_this_process(new_cache, monkeypatch):
    def compile_library(instructions: str, folder: Path) -> Path:
        if folder.is_relative_to(new_cache):
            raise PermissionError(folder)
        return folder

    monkeypatch.setattr(library, "compile_library", compile_library)
    assert library._compiled(own_instructions()).exists()


@pytest.mark.parametrize("error", [RuntimeError("Could not determine home directory."), PermissionError(13, "denied")])
def test_without_a_home_that_can_be_read_the_library_is_compiled_for_this_process(new_cache, monkeypatch, error):
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.delenv("GNT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", refuse)
    path = library._compiled(own_instructions())
    assert path.exists()
    assert path.parent == Path(library._folder_of_this_process().name)


def test_a_library_in_the_cache_that_cannot_be_loaded_is_compiled_for_this_process(new_cache, monkeypatch):
    path = library._compiled(own_instructions())
    path.write_bytes(b"of a machine with another C library")
    monkeypatch.setattr(Path, "exists", lambda self: self == path)  # an installation without a library
    found = library.loaded_library.__wrapped__()
    assert found.path.parent == Path(library._folder_of_this_process().name)
    assert "sgd_double" in found.kernels


def test_a_compiler_that_fails_is_named_with_its_message(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", f"{sys.executable} -c 'import sys; sys.exit(\"no such flag\")'")
    with pytest.raises(compiler.CompilerError, match=r"the C compiler .* failed with: no such flag"):
        compiler.compile_library(own_instructions(), tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(compiler, "find_compiler", lambda: [str(tmp_path / "cc")])
    with pytest.raises(compiler.CompilerError, match="does not run"):
        compiler.compile_library(own_instructions(), tmp_path)


def test_the_instruction_set_is_the_one_that_torch_uses():
    program = "from gnt._kernels.library import loaded_library as f; print(f().instructions)"
    assert run(program, ATEN_CPU_CAPABILITY="default") == [compiler.instruction_set("DEFAULT")]
    assert library.loaded_library().instructions == own_instructions()
    if compiler.is_x86_64():
        assert [compiler.instruction_set(each) for each in ("DEFAULT", "AVX2", "AVX512")] == [
            "x86-64-v2", "x86-64-v3", "x86-64-v4",
        ]  # fmt: skip


def test_kernels_refuse_a_wrong_number_or_kind_of_arguments():
    kernel = library.load("finite", torch.float32)
    for arguments in ((1, 2), (1, 2, 3, 4), ()):
        with pytest.raises(TypeError, match="wrong number of arguments"):
            kernel(*arguments)
    with pytest.raises(TypeError):
        kernel(1, 2, "3")
    with pytest.raises(OverflowError):
        kernel(1, 2, 1 << 70)


def test_show_config_says_what_is_in_use_and_why(capsys):
    gnt.show_config()
    text = capsys.readouterr().out
    for part in (gnt.__version__, torch.__version__, str(library.loaded_library().path), own_instructions(), "GPU: "):
        assert part in text
    without = "\n".join(configuration.configuration("there is no compiler"))
    assert "torch operations, because there are no kernels: there is no compiler" in without
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert configuration.in_use(None, cpu, torch.float32) == f"C kernels ({own_instructions()})"
    assert configuration.in_use(False, cpu, torch.float32) == "torch operations (kernels=False)"
    for each, dtype in ((cpu, torch.bfloat16), (meta, torch.float32)):
        assert "kernels are for float32 and float64" in configuration.in_use(None, each, dtype)


if sys.platform == "linux":
    THREADS = """
import contextlib, os
from array import array
import numpy, torch
def runtimes():
    names = {line.split()[-1] for line in open("/proc/self/maps") if "/" in line}
    return {name for name in names if any(each in os.path.basename(name) for each in ("gomp", "libomp", "iomp"))}
of_torch = runtimes()
with contextlib.suppress(ImportError):
    import sklearn.cluster  # its wheel has a runtime of its own
before = runtimes()
from gnt._kernels import load
from gnt._kernels.library import loaded_library
p, g = numpy.ones((4096, 256)), numpy.ones((4096, 256))
arrays = array("q", [p.ctypes.data, 4096, 256, 0, 0, 4096]), array("q", [g.ctypes.data]), array("d", [0.5, 0.0])
step = load("sgd", torch.float64)
threads = lambda: len(os.listdir("/proc/self/task"))
start = threads()
step(*(each.buffer_info()[0] for each in arrays), 0, 1, 0, 2)
by_kernel = threads()
torch.from_numpy(g).exp_()
print(runtimes() == before, of_torch == {loaded_library().threads})
print(by_kernel - start, threads() - by_kernel, (p == 0.5).all())
"""

    def test_kernels_run_in_the_threads_of_torchs_openmp_runtime_and_bring_none():
        # the kernel starts a thread, which torch then uses too
        assert run(THREADS) == ["True True", "1 0 True"]
