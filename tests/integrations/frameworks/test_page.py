"""The code blocks of docs/trainers.md that import a framework of this folder run, each in its own process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations.frameworks.installed import INSTALLED

CHECKOUT = Path(os.environ.get("GNT_CHECKOUT") or Path(__file__).parents[3])
BLOCKS = re.findall(r"```python\n(.*?)```", (CHECKOUT / "docs" / "trainers.md").read_text(encoding="utf-8"), re.DOTALL)


OF_FRAMEWORKS = [
    (name, block)
    for name in INSTALLED
    for block in BLOCKS
    if re.search(rf"^(from|import) {name}\b", block, re.MULTILINE)
]


@pytest.mark.parametrize(("name", "block"), OF_FRAMEWORKS, ids=[name for name, _ in OF_FRAMEWORKS])
def test_block_runs(name: str, block: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block)
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "RAY_raylet_start_wait_time_s": "300"}  # on a busy machine
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
