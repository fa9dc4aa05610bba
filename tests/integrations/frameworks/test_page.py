"""The code blocks of docs/trainers.md that import a framework of this folder run, each in its own process."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(os.environ.get("GNT_CHECKOUT") or Path(__file__).parents[3])
BLOCKS = re.findall(r"```python\n(.*?)```", (CHECKOUT / "docs" / "trainers.md").read_text(encoding="utf-8"), re.DOTALL)


def is_installed(name: str) -> bool:
    """True if the framework can be imported; for Ray, Ray Tune with what it needs."""
    return importlib.util.find_spec(name) is not None and (
        name != "ray" or importlib.util.find_spec("pyarrow") is not None
    )


INSTALLED = [
    (name, block)
    for name in ("avalanche", "fastai", "ignite", "optuna", "ray", "skorch", "torchrl")
    for block in BLOCKS
    if re.search(rf"^(from|import) {name}\b", block, re.MULTILINE) and is_installed(name)
]


@pytest.mark.parametrize(("name", "block"), INSTALLED, ids=[name for name, _ in INSTALLED])
def test_block_runs(name: str, block: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block)
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "RAY_raylet_start_wait_time_s": "300"}  # on a busy machine
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
