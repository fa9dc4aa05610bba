"""Fixtures that several tests of the benchmarks share."""

from pathlib import Path

import pytest

from benchmarks.run import Run
from tests.helpers.finished_runs import trained_regression_runs


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Run]]:
    """Folder of results and trained runs of three methods, trained once. Tests must not change them."""
    out = tmp_path_factory.mktemp("trained")
    return out, trained_regression_runs(out, seeds=3) + trained_regression_runs(out, "redo", seeds=2)
