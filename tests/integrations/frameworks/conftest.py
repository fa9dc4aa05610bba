"""Tests with frameworks that are too large for the test extra: ``scripts/frameworks`` installs them and runs these.

A file is collected only where its framework is installed, and ``test_page.py`` where one of them is.
"""

from __future__ import annotations

import importlib
import warnings

from tests.integrations.frameworks.installed import FRAMEWORKS, INSTALLED

collect_ignore = [f"test_{name}.py" for name in FRAMEWORKS if name not in INSTALLED]
if not INSTALLED:
    collect_ignore.append("test_page.py")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # warnings of imports would be errors when a file is collected
    for name in {"avalanche", "torchrl"} & set(INSTALLED):
        importlib.import_module(name)
