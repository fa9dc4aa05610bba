"""Builds the C kernels for the wheel. All metadata is in pyproject.toml, the package layout in setup.cfg.

With a C compiler (cc, gcc or clang, or what CC names) the wheel holds one library of kernels for each instruction set,
and its tag is py3-none-<platform>: the libraries do not depend on the version of Python or torch. Without one the wheel
is a py3-none-any, and gnt works by torch operations. With GNT_REQUIRE_KERNELS=1, as for releases, that is an error.

An editable installation compiles nothing: a checkout compiles the kernels at first use, as they are then.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

KERNELS = Path("gnt", "_kernels")


def compiler_module() -> ModuleType:
    """gnt/_kernels/compiler.py, without importing gnt, which needs torch."""
    spec = importlib.util.spec_from_file_location("gnt_compiler", KERNELS / "compiler.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def libraries() -> list[Path]:
    """The compiled libraries in a temporary folder, or none."""
    compiler = compiler_module()
    folder = Path(tempfile.mkdtemp(prefix="gnt-kernels-"))
    try:
        return [compiler.compile_library(each, folder) for each in compiler.instruction_sets()]
    except compiler.CompilerError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if os.environ.get("GNT_REQUIRE_KERNELS", "0") != "0":
            raise
        print(f"warning: gnt is built without C kernels, and will use torch operations: {error}", file=sys.stderr)
        return []


class BuildWithKernels(build_py):
    """Copies the libraries beside the Python files, except in an editable installation."""

    def run(self) -> None:
        """Build the package, then copy the libraries into it."""
        super().run()
        if not self.editable_mode:
            for library in libraries():
                self.copy_file(str(library), str(Path(self.build_lib) / KERNELS / library.name))


class PlatformWheel(bdist_wheel):
    """Tags a wheel with libraries for this platform and any Python."""

    def finalize_options(self) -> None:
        """Compile the libraries, which decide the kind of wheel."""
        super().finalize_options()
        if "editable_wheel" not in self.distribution.commands:
            self.root_is_pure = not libraries()
            self.distribution.has_ext_modules = lambda: not self.root_is_pure  # install into platlib

    def get_tag(self) -> tuple[str, str, str]:
        """The tag: any Python 3, this platform if there are libraries."""
        _, _, platform = super().get_tag()
        return "py3", "none", platform


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": PlatformWheel})
