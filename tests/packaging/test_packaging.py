"""The wheel: its contents when built from the checkout, and its import when installed in a new environment.

The checkout is the folder above tests/, or GNT_CHECKOUT if the tests run from a copy (as in ./check).
"""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(os.environ.get("GNT_CHECKOUT") or Path(__file__).parents[2])
NEEDED = ("gnt", "optim", "pyproject.toml", "setup.cfg", "README.md", "LICENSE")


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that must succeed, run without this process's PYTHON* variables."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, out: Path, *what: str) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", out, ".", cwd=source)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that a build needs, so that it leaves nothing in the checkout."""
    missing = [name for name in NEEDED if not (CHECKOUT / name).exists()]
    if missing:
        pytest.fail(f"{CHECKOUT} is not a checkout of gnt: it has no {', '.join(missing)}. Set GNT_CHECKOUT to one.")
    copy = tmp_path_factory.mktemp("source")
    for folder in ("gnt", "optim"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / folder, copy / folder, symlinks=True, ignore=skip)
    for file in filter(Path.is_file, CHECKOUT.iterdir()):
        shutil.copy(file, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build(source, out, "--wheel")
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


def contents(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def test_the_wheel_contains_the_library_and_nothing_else(wheel: Path, source: Path) -> None:
    folders = {"gnt": source / "gnt", "gnt/optim": source / "optim"}  # rglob does not follow the link gnt/optim
    library = {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in folders.items()
        for path in folder.rglob("*")
        if path.suffix in {".py", ".c", ".h"}
    }
    assert {"gnt/__init__.py", "gnt/units/__init__.py", "gnt/optim/adam_gnt.py", "gnt/_kernels/adam.c"} <= library
    shipped = {name for name in contents(wheel) if ".dist-info/" not in name}
    shipped = {name for name in shipped if not name.startswith("gnt/_kernels/kernels-")}
    assert shipped == library | {"gnt/py.typed"}  # no top-level optim, tests or benchmarks


def test_a_wheel_built_from_the_source_distribution_is_the_same(wheel: Path, source: Path, tmp_path: Path) -> None:
    build(source, tmp_path)  # builds the source distribution, then the wheel from it
    (from_sdist,) = tmp_path.glob("*.whl")
    assert contents(from_sdist) == contents(wheel)


def test_import_works_beside_a_users_own_optim(new_python: Path, tmp_path: Path) -> None:
    (tmp_path / "optim.py").write_text("raise RuntimeError('the user\\'s own optim.py was imported')\n")
    with pytest.raises(AssertionError, match="the user's own"):  # the module is found first
        run(new_python, "-c", "import optim", cwd=tmp_path)
    program = (
        "import gnt, gnt.optim, importlib.metadata as metadata\n"
        "from gnt.optim import AdamGnT\n"
        "assert AdamGnT is gnt.AdamGnT\n"
        "print(gnt.__file__, gnt.optim.__file__, gnt.__version__, metadata.version('torch-gnt'), sep='\\n')\n"
    )
    library, optim, version, of_metadata = run(new_python, "-c", program, cwd=tmp_path).splitlines()
    assert Path(library).is_relative_to(new_python.parents[1])
    assert Path(optim) == Path(library).parent / "optim" / "__init__.py"
    assert version == of_metadata
