"""The README's code runs as it stands, each block in a process of its own, and the files it names are there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(os.environ.get("GNT_CHECKOUT") or Path(__file__).parents[2])
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_readme_shows_the_three_ways() -> None:
    names = ("ContinualBackprop", "GnT(net", "CBPAdamW(net", "CBPLinear")
    assert [name for block in BLOCKS for name in names if name in block] == list(names)


@pytest.mark.parametrize("block", BLOCKS, ids=["learner", "engine", "optimizer", "layers"])
def test_block_runs(block: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", block]
    # a checkout that is not installed is found by its path; against a wheel there is none to find
    where = next((str(parent) for parent in [Path(__file__).parents[2]] if (parent / "gnt").is_dir()), "")
    env = {**os.environ, **({"PYTHONPATH": where} if where else {})}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_linked_file_exists(target: str) -> None:
    assert (CHECKOUT / target).exists()
