"""Settings of every test run: one thread, the number of hypothesis examples, a time budget.

    pytest                                                       the default: 25 examples for each property test
    pytest tests -k properties --hypothesis-profile=thorough     about fifty times as many, after a change to the engine
    pytest --hypothesis-profile=quick --time-budget=80           what ./check --quick runs

In continuous integration the examples are the same on every run, so that a failure is caused by the change.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

settings.register_profile(
    "default",
    deadline=None,  # nothing is timed
    max_examples=25,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=1200, derandomize=False)
settings.register_profile("quick", settings.get_profile("default"), max_examples=10)
settings.load_profile("default")

started = time.monotonic()
SLOW = frozenset((Path(__file__).parent / "slow_tests.txt").read_text(encoding="utf-8").split())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--time-budget", type=float, metavar="SECONDS", help="skip the tests that would start later")


def pytest_runtest_setup(item: pytest.Item) -> None:
    budget = item.config.getoption("--time-budget")
    if budget is not None and time.monotonic() - started > budget:
        pytest.skip(f"the time budget of {budget:g} s is spent")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests, and all tests of the files, that slow_tests.txt lists: they take several seconds.

    Their files come first, so that no long test is left at the end, when only one process has work.
    """
    files = set()
    for item in items:
        if item.nodeid.partition("[")[0] in SLOW or item.nodeid.partition("::")[0] in SLOW:
            item.add_marker("slow")
            files.add(item.path)
    items.sort(key=lambda item: item.path not in files)
