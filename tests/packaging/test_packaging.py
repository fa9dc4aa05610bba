"""The wheel: its contents with and without a C compiler, and its import when installed in a new environment.

The checkout is the folder above tests/, or GNT_CHECKOUT if the tests run from a copy. The wheel is that in the folder
GNT_DIST, or else built. ./check sets both.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import gnt
from gnt._kernels import compiler
from tests.packaging import elf

CHECKOUT = Path(os.environ.get("GNT_CHECKOUT") or Path(__file__).parents[2])
FOLDERS = ("gnt", "optim", "benchmarks")
OTHERS = ("docs", "examples", "scripts", "tests", ".ci", ".github")  # also in the source distribution
NEEDED = (*FOLDERS, "pyproject.toml", "setup.cfg", "setup.py", "README.md", "LICENSE")
NO_COMPILER = {"CC": "/nowhere/cc"}


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """The output of a command that must succeed, run without this process's PYTHON* variables."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env |= variables
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, out: Path, *what: str, **variables: str) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", out, ".", cwd=source, **variables)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that a build needs, so that it leaves nothing in the checkout."""
    missing = [name for name in NEEDED if not (CHECKOUT / name).exists()]
    if missing:
        pytest.fail(f"{CHECKOUT} is not a checkout of gnt: it has no {', '.join(missing)}. Set GNT_CHECKOUT to one.")
    copy = tmp_path_factory.mktemp("source")
    for folder in filter(lambda name: (CHECKOUT / name).exists(), (*FOLDERS, *OTHERS)):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / folder, copy / folder, symlinks=True, ignore=skip)
    for file in filter(Path.is_file, CHECKOUT.iterdir()):
        shutil.copy(file, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = Path(os.environ.get("GNT_DIST") or tmp_path_factory.mktemp("wheel"))
    if "GNT_DIST" not in os.environ:
        build(source, out, "--wheel")
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def sdist(plain_wheel: Path) -> Path:
    """The source distribution that `plain_wheel` was built from."""
    return next(plain_wheel.parent.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def plain_wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built from the source distribution without a C compiler."""
    out = tmp_path_factory.mktemp("plain")
    build(source, out, **NO_COMPILER)  # builds the source distribution, then the wheel from it
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def new_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel, which also finds this environment's torch and numpy."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, symlinks=os.name != "nt")
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check"]
    run(*pip, "install", "--no-index", "--no-deps", wheel, cwd=home)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip()
    # Lines of a .pth file are appended to sys.path, after the wheel; .pth files in the folders they name (as that of an
    # editable gnt) are not read.
    folders = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    Path(site, "torch_of_the_test_run.pth").write_text("\n".join(folders))
    return python


def test_the_command_trains_and_reports_in_the_current_directory(new_python: Path, tmp_path: Path) -> None:
    command = new_python.with_name("gnt")
    environment = {"OMP_NUM_THREADS": "1"}
    experiment = ["run", "slowly_changing_regression", "--methods", "backprop", "--steps", "500", "--bin", "250"]
    out = run(command, *experiment, "--quiet", cwd=tmp_path, **environment)
    assert out.splitlines()[-1].endswith("Records: results/slowly_changing_regression")
    (record,) = tmp_path.rglob("record.jsonl")
    assert record.relative_to(tmp_path).parts[:2] == ("results", "slowly_changing_regression")
    run(command, "report", "--quiet", cwd=tmp_path, **environment)
    page = (tmp_path / "report" / "RESULTS.md").read_text(encoding="utf-8")
    assert "`gnt run slowly_changing_regression --methods backprop --seeds 1 --steps 500 --bin 250`" in page
    assert "`gnt report` wrote this page" in page


LIBRARIES = {f"gnt/_kernels/{compiler.library_name(each)}" for each in compiler.instruction_sets()}


def contents(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def test_the_wheel_contains_the_library_and_nothing_else(wheel: Path, source: Path) -> None:
    # rglob does not follow the links gnt/optim and gnt/benchmarks
    folders = {"gnt": source / "gnt", **{f"gnt/{name}": source / name for name in FOLDERS[1:]}}
    library = {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in folders.items()
        for path in folder.rglob("*")
        if path.suffix in {".py", ".c", ".h"}
    }
    assert {"gnt/__init__.py", "gnt/units/__init__.py", "gnt/optim/adam_gnt.py", "gnt/_kernels/adam.c"} <= library
    shipped = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert shipped == library | LIBRARIES | {"gnt/py.typed", "gnt/benchmarks/published.json"}  # nothing beside gnt


def test_a_wheel_with_kernels_is_for_any_python_on_this_platform(wheel: Path, plain_wheel: Path) -> None:
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")
    assert plain_wheel.name.endswith("-py3-none-any.whl")
    for each, pure in ((wheel, "false"), (plain_wheel, "true")):
        with zipfile.ZipFile(each) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
            assert f"Root-Is-Purelib: {pure}" in archive.read(name).decode().splitlines()


def test_a_source_distribution_without_a_compiler_gives_the_same_wheel_without_kernels(
    wheel: Path, plain_wheel: Path
) -> None:
    assert set(contents(plain_wheel)) == set(contents(wheel)) - LIBRARIES


def test_the_source_distribution_holds_the_checkout(sdist: Path, source: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}  # of modules that the build imports
    assert "tests/conftest.py" in files
    built = ("build/", "torch_gnt.egg-info/")  # by the builds themselves
    left_out = {".git", ".gitignore"}  # .git is a file in a worktree
    assert {name for name in files - held if not name.startswith(built)} <= left_out


def test_all_files_name_the_same_version() -> None:
    version = re.search(r'"(.+)"', (CHECKOUT / "gnt" / "_version.py").read_text(encoding="utf-8").splitlines()[-1])
    assert version is not None
    heading = re.search(r"(?m)^## \[(.+)\] - (\S+)$", (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8"))
    citation = (CHECKOUT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert heading is not None
    assert heading[1] == version[1] == gnt.__version__
    assert f"version: {version[1]}" in citation
    assert f'date-released: "{heading[2]}"' in citation


USE_KERNELS = """
import gnt, sys, torch
from gnt._kernels.library import loaded_library
net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
optimizer = gnt.optim.CBPAdam(net, replacement_rate=0.5, maturity_threshold=1)
for _ in range(4):
    optimizer.zero_grad()
    net(torch.randn(3, 4)).sum().backward()
    optimizer.step()
assert optimizer.gnt.report().groups[0].replaced
print(getattr(loaded_library(), "path", loaded_library()))
try:
    gnt.optim.CBPAdam(net, kernels=True)
except RuntimeError as error:
    print(error)
"""


WHERE = """
import gnt, gnt.optim, importlib.metadata as metadata
from gnt.optim import AdamGnT
assert AdamGnT is gnt.AdamGnT
print(gnt.__file__, gnt.optim.__file__, gnt.__version__, metadata.version("torch-gnt"), sep="\\n")
"""


def test_the_installed_wheel_uses_its_kernels_and_optim_beside_a_users_own_optim(
    new_python: Path, tmp_path: Path
) -> None:
    (tmp_path / "optim.py").write_text("raise RuntimeError('the user\\'s own optim.py was imported')\n")
    with pytest.raises(AssertionError, match="the user's own"):  # the module is found first
        run(new_python, "-c", "import optim", cwd=tmp_path)
    printed = run(new_python, "-c", WHERE + USE_KERNELS, cwd=tmp_path, **NO_COMPILER).splitlines()
    package, optim, version, of_metadata, library = printed
    assert Path(package).is_relative_to(new_python.parents[1])
    assert Path(optim) == Path(package).parent / "optim" / "__init__.py"
    assert version == of_metadata
    assert Path(library).name in {Path(name).name for name in LIBRARIES}
    assert Path(library).is_relative_to(new_python.parents[1])


def test_a_wheel_without_kernels_uses_torch_operations(plain_wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(plain_wheel) as archive:
        archive.extractall(tmp_path)  # found before the installed wheel
    cache = {"GNT_CACHE": str(tmp_path / "cache")}
    reason, error = run(sys.executable, "-c", USE_KERNELS, cwd=tmp_path, **NO_COMPILER, **cache).splitlines()
    assert reason == "the C compiler that the environment variable CC names, '/nowhere/cc', was not found"
    assert error.startswith(f"kernels=True requires gnt's C kernels, and there are none: {reason}")


def test_an_editable_installation_compiles_nothing_and_uses_the_checkout(source: Path, tmp_path: Path) -> None:
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", tmp_path]
    run(sys.executable, "-m", "pip", "install", *options, "--editable", source, cwd=tmp_path)
    assert not list((source / "gnt").rglob(f"kernels-*{compiler.SUFFIX}"))
    find = "import importlib.util as util; print(util.find_spec('gnt').origin)"
    activate = f"import site; site.addsitedir({str(tmp_path)!r}); {find}"
    assert run(sys.executable, "-S", "-c", activate, cwd=tmp_path).strip() == str(source / "gnt" / "__init__.py")


if sys.platform == "linux":

    def test_the_libraries_need_nothing_but_the_c_library(wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            for name in LIBRARIES:
                needs = elf.requirements(archive.read(name))
                assert needs.libraries <= {"libc.so.6", "libm.so.6"}
                assert needs.exported == {"gnt_initialize", "gnt_name", "gnt_function"}
                versions = [version.removeprefix("GLIBC_") for version in needs.versions]
                # pow and log of glibc 2.29 are the newest symbols, when linked against it
                assert max(tuple(map(int, version.split("."))) for version in versions) <= (2, 29)
