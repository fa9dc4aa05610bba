"""Print the pytest arguments for the tests near what has changed, for ``./check --quick``.

Changed are the files that differ from the last commit (untracked ones included), or, if there are none, those of the
last commit. The tests near a file are in the directory that mirrors its package: ``gnt/units/_walk.py`` is tested in
``tests/units``. Tests marked ``slow`` are left out.

    python scripts/nearby_tests.py            # for the changes in this checkout
    python scripts/nearby_tests.py FILE...    # as if these files had changed
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

ALWAYS = ("tests/packaging/test_import_arrows.py", "tests/golden")
# folders whose changes concern more than one directory of tests
SHARED = {
    "gnt/_utils": ("tests/replacement", "tests/metrics"),
    "gnt/_kernels": ("tests/importance", "tests/optim"),
    "tests/helpers": ("tests/importance", "tests/replacement"),
    "tests/twins": ("tests/replacement",),
}
DOCUMENTS = (".md", ".png", ".json")


def changed_files() -> list[str]:
    """The paths that have changed, relative to the root of the checkout."""
    uncommitted = _git("status", "--porcelain", "--untracked-files=all", "--no-renames")
    if uncommitted:
        return [line[3:] for line in uncommitted]
    return _git("show", "--name-only", "--format=", "HEAD")


def _git(*args: str) -> list[str]:
    done = subprocess.run(["git", *args], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.split("\n") if line]


def directories_near(path: str, test_directories: Iterable[str]) -> list[str]:
    """The directories of tests near one changed file, which is no test.

    >>> directories_near("gnt/units/_tracing/labels.py", ["tests/units", "tests/optim"])
    ['tests/units']
    >>> directories_near("gnt/learners/_compile/cache.py", ["tests/learners", "tests/learners/compile"])
    ['tests/learners/compile']
    >>> directories_near("optim/cbp.py", ["tests/units", "tests/optim"])
    ['tests/optim']
    """
    known = set(test_directories)
    for folder, tests in SHARED.items():
        if path.startswith(f"{folder}/"):
            return list(tests)
    parts = [part.lstrip("_") for part in PurePosixPath(path).parent.parts]
    parts = parts[1:] if parts[:1] in (["gnt"], ["tests"]) else parts
    while parts:
        if (directory := "/".join(["tests", *parts])) in known:
            return [directory]
        parts = parts[:-1]
    return []


def pytest_arguments(changed: Sequence[str], test_directories: Sequence[str]) -> list[str]:
    """The arguments for pytest.

    >>> pytest_arguments(["gnt/units/_walk.py", "README.md"], ["tests/units"])[:3]
    ['tests/packaging/test_import_arrows.py', 'tests/golden', 'tests/units']
    """
    chosen = list(ALWAYS)
    for path in changed:
        name = PurePosixPath(path).name
        if path.startswith("tests/") and name.startswith("test_") and name.endswith(".py"):
            if Path(path).exists():
                chosen.append(path)
        elif not path.endswith(DOCUMENTS):
            chosen += directories_near(path, test_directories)
    return [*dict.fromkeys(chosen), "-m", "not slow"]


def main() -> None:
    """Print the arguments, one on each line."""
    root = Path(__file__).resolve().parents[1]
    directories = sorted({str(path.parent.relative_to(root)) for path in (root / "tests").rglob("test_*.py")})
    print("\n".join(pytest_arguments(sys.argv[1:] or changed_files(), directories)))


if __name__ == "__main__":
    main()
