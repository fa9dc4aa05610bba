"""What is shipped: the wheel built from the checkout, and that wheel installed in an environment of its own.

The checkout is the folder above tests/, or GNT_CHECKOUT where the tests run from a copy (as ./check does).
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
    """Output of a command that must succeed, run without the settings and paths of this Python."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, out: Path, *what: str) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", out, ".", cwd=source)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is made of, so that a build leaves nothing in the checkout."""
    missing = [name for name in NEEDED if not (CHECKOUT / name).exists()]
    if missing:
        pytest.fail(f"{CHECKOUT} is no gnt checkout: no {', '.join(missing)}. Set GNT_CHECKOUT to one.")
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
def fresh_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel in it, and this one's torch and numpy within its reach."""
    home = tmp_path_factory.mktemp("fresh")
    venv.create(home, symlinks=os.name != "nt")
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check"]
    run(*pip, "install", "--no-index", "--no-deps", wheel, cwd=home)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip()
    # Lines of a .pth file go to the end of sys.path, behind the wheel; .pth files of the folders they name
    # (an editable gnt's among them) are not read.
    ours = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    Path(site, "torch_of_the_test_run.pth").write_text("\n".join(ours))
    return python


def contents(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path, source: Path) -> None:
    rooms = ("ensemble", "kernels", "metrics", "one_graph", "remedies", "tracing")
    folders = [source / "gnt", *(source / "gnt" / room for room in rooms)]
    library = {
        path.relative_to(source).as_posix()
        for folder in folders
        for path in folder.iterdir()
        if path.suffix in {".py", ".cpp"}
    }
    optim = {f"gnt/optim/{path.name}" for path in (source / "optim").glob("*.py")}
    assert "gnt/__init__.py" in library
    assert {"gnt/optim/__init__.py", "gnt/optim/adam_gnt.py"} <= optim
    shipped = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert shipped == library | optim | {"gnt/py.typed"}  # so no top-level optim, tests, benchmarks


def test_the_source_distribution_gives_the_same_wheel(wheel: Path, source: Path, tmp_path: Path) -> None:
    build(source, tmp_path)  # the source distribution, then the wheel from it
    (from_sdist,) = tmp_path.glob("*.whl")
    assert contents(from_sdist) == contents(wheel)


def test_import_works_beside_a_users_own_optim(fresh_python: Path, tmp_path: Path) -> None:
    (tmp_path / "optim.py").write_text("raise RuntimeError('the user\\'s own optim.py was imported')\n")
    with pytest.raises(AssertionError, match="the user's own"):  # it is in the way, as it is for a user
        run(fresh_python, "-c", "import optim", cwd=tmp_path)
    program = (
        "import gnt, gnt.optim, importlib.metadata as metadata\n"
        "from gnt.optim import AdamGnT\n"
        "assert AdamGnT is gnt.AdamGnT\n"
        "print(gnt.__file__, gnt.optim.__file__, gnt.__version__, metadata.version('torch-gnt'), sep='\\n')\n"
    )
    library, optim, version, of_metadata = run(fresh_python, "-c", program, cwd=tmp_path).splitlines()
    assert Path(library).is_relative_to(fresh_python.parents[1])
    assert Path(optim) == Path(library).parent / "optim" / "__init__.py"
    assert version == of_metadata
