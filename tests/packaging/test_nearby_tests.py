"""`scripts/nearby_tests.py`: which tests a change selects for ./check --quick."""

from __future__ import annotations

import doctest
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(os.environ.get("GNT_CHECKOUT") or Path(__file__).parents[2])
ALWAYS = ["tests/packaging/test_import_arrows.py", "tests/golden"]


@pytest.fixture(scope="module")
def nearby() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nearby_tests", CHECKOUT / "scripts" / "nearby_tests.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstring_examples(nearby: ModuleType) -> None:
    assert doctest.testmod(nearby) == (0, 4)


def test_a_changed_module_selects_its_packages_tests_and_examples(nearby: ModuleType) -> None:
    selected = nearby.select(["gnt/learners/ensemble/members.py", "benchmarks/speed/table.py"])
    assert selected == [ALWAYS[0], "tests/learners", "gnt/learners", "tests/benchmarks", ALWAYS[1]]


def test_a_changed_helper_selects_the_tests_that_import_it(nearby: ModuleType) -> None:
    selected = nearby.select(
        ["tests/distributed/communication.py", "tests/twins/redo.py", "tests/distributed/launch.py"]
    )
    tests = ["tests/replacement/test_redo_twin.py", "tests/distributed/test_ddp.py"]
    assert set(tests) <= set(selected)


def test_a_test_inside_a_selected_folder_is_not_run_twice(nearby: ModuleType) -> None:
    selected = nearby.select(["gnt/units/_walk.py", "tests/units/test_walk_forms.py", "tests/golden/test_golden.py"])
    assert selected == [ALWAYS[0], "tests/units", "gnt/units", ALWAYS[1]]


def test_deleted_and_unrelated_files_select_only_what_always_runs(nearby: ModuleType) -> None:
    assert nearby.select(["tests/test_deleted.py", "LICENSE", "gnt/__init__.py"]) == ALWAYS


def test_every_package_has_tests_of_its_own(nearby: ModuleType) -> None:
    packages = [path.parent.name for path in (CHECKOUT / "gnt").glob("*/__init__.py")]
    assert len(packages) > 8
    for package in packages:
        assert nearby.select([f"gnt/{package}/_module.py"])[1:-1] not in ([], [f"gnt/{package}"]), package
