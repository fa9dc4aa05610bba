#!/usr/bin/env python3
"""Print the pytest arguments that select the tests near what changed, one a line.

Changed are the files that differ from the merge base with main: committed, uncommitted and untracked ones. If there are
none, the files of the last commit are taken. tests/ mirrors gnt/, optim/ and benchmarks/, so a changed file selects

- the tests of its package: gnt/units/_walk.py selects tests/units and the docstring examples of gnt/units;
- itself, if it is a test file;
- the test files that import it, if it is a helper of the tests;
- always the golden traces and the test of the import arrows.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALWAYS = ("tests/packaging/test_import_arrows.py", "tests/golden")
# folders and files without a mirror in tests/
ELSEWHERE = {
    "gnt/_kernels": ("tests/importance", "tests/optim"),
    "gnt/_triton": ("tests/cuda", "tests/importance"),
    "gnt/_utils": ("tests/replacement",),
    "examples": ("tests/packaging/test_examples.py",),
    "scripts": ("tests/packaging/test_nearby_tests.py", "tests/packaging/test_step_path.py"),
    "docs": ("tests/packaging/test_docs.py",),
    "README.md": ("tests/packaging/test_docs.py",),
}


def git(*arguments: str) -> list[str]:
    """The lines that a git command prints; none if it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def changed_files() -> list[str]:
    """Paths from the checkout's root, deleted files included."""
    base = git("merge-base", "HEAD", "main") or git("merge-base", "HEAD", "origin/main") or ["HEAD"]
    changed = git("diff", "--name-only", base[0]) + git("ls-files", "--others", "--exclude-standard")
    return changed or git("diff", "--name-only", "HEAD~1", "HEAD")


def importing_tests(helper: str) -> list[str]:
    """The test files that import a helper module, directly."""
    path = Path(helper).with_suffix("")
    names = (f"from {'.'.join(path.parts)} import", f"from {'.'.join(path.parent.parts)} import {path.name}")
    return [
        test.relative_to(ROOT).as_posix()
        for test in sorted((ROOT / "tests").rglob("test_*.py"))
        if any(name in test.read_text(encoding="utf-8") for name in names)
    ]


def nearby_tests(file: str) -> list[str]:
    """What a changed file selects.

    >>> nearby_tests("gnt/units/_tracing/labels.py")
    ['tests/units', 'gnt/units']
    >>> nearby_tests("optim/cbp.py")
    ['tests/optim', 'gnt/optim']
    >>> nearby_tests("tests/golden/test_golden.py")
    ['tests/golden/test_golden.py']
    >>> nearby_tests("LICENSE")
    []
    """
    path = Path(file)
    top, *inner = path.parts
    for place in (file, "/".join(path.parts[:2]), top):
        if place in ELSEWHERE:
            return list(ELSEWHERE[place])
    if top == "tests":
        if path.name.startswith("test_"):
            return [file]
        return importing_tests(file) if path.suffix == ".py" else []
    if top == "benchmarks":
        return ["tests/benchmarks"]
    if top == "optim":
        return ["tests/optim", "gnt/optim"]
    if top == "gnt" and len(inner) > 1:
        return [f"tests/{inner[0]}", f"gnt/{inner[0]}"]
    return []


def select(files: Iterable[str]) -> list[str]:
    """The arguments for several changed files: what exists, no path inside another, changed test files first."""
    found = dict.fromkeys(argument for file in files for argument in nearby_tests(file))
    existing = [each for each in (*found, *ALWAYS) if (ROOT / each).exists()]
    distinct = dict.fromkeys(
        each for each in existing if not any(parent.as_posix() in existing for parent in Path(each).parents)
    )
    return sorted(distinct, key=lambda each: not each.endswith(".py"))


if __name__ == "__main__":
    print(*select(changed_files()), sep="\n")
