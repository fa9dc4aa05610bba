"""The code blocks of README and docs/ run, each in its own process, and linked files exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(os.environ.get("GNT_CHECKOUT") or Path(__file__).parents[2])
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(CHECKOUT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
BLOCKS = [
    pytest.param(name, block, id=f"{name}-{number}")
    for name, text in TEXTS.items()
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
]
LINKS = [(name, link) for name, text in TEXTS.items() for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text)]

# warnings that third-party libraries raise in any block that uses them
IGNORED_WARNINGS = {
    "lightning": ["ignore::FutureWarning", "ignore::UserWarning"],
    "transformers": ["ignore::UserWarning"],
}


def test_readme_shows_every_entry_point() -> None:
    names = ("ContinualBackprop", "GnT(net", "CBPAdamW(net", "gnt.trace(", "CBPLinear")
    found = [
        name
        for block in re.findall(r"```python\n(.*?)```", TEXTS["README.md"], re.DOTALL)
        for name in names
        if name in block
    ]
    assert list(dict.fromkeys(found)) == list(names)


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_block_runs(page: str, block: str, tmp_path: Path) -> None:
    filters = [each for library, ignored in IGNORED_WARNINGS.items() if library in block for each in ignored]
    script = tmp_path / "block.py"
    script.write_text(block)
    warnings = [argument for each in ["error", *filters] for argument in ("-W", each)]
    command = [sys.executable, *warnings, str(script)]
    if "torch.distributed" in block:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    root = Path(__file__).parents[2]
    path = {"PYTHONPATH": str(root)} if (root / "gnt").is_dir() else {}  # empty if gnt is an installed wheel
    env = {**os.environ, "OMP_NUM_THREADS": "1", **path}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_linked_file_exists(page: str, target: str) -> None:
    assert (CHECKOUT / page).parent.joinpath(target).exists()
