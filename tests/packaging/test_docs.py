"""The code blocks of README and docs/ run, each in its own process, and linked files exist."""

import builtins
import os
import re
import runpy
import sys
import traceback
import warnings
from pathlib import Path

import pytest

from tests.distributed.launch import fails, rank_variables
from tests.helpers.fork_server import fork_server

CHECKOUT = Path(os.environ.get("GNT_CHECKOUT") or Path(__file__).parents[2])
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(CHECKOUT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
# tests/integrations/frameworks runs the blocks that import one of these
OTHERS = re.compile(r"^(from|import) (avalanche|fastai|ignite|optuna|ray|skorch|torchrl)\b", re.MULTILINE)
BLOCKS = [
    pytest.param(name, block, id=f"{name}-{number}")
    for name, text in TEXTS.items()
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    if not OTHERS.search(block)
]
PROSE = {name: re.sub(r"```.*?```", "", text, flags=re.DOTALL) for name, text in TEXTS.items()}
LINKS = [(name, link) for name, text in PROSE.items() for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text)]

# warnings that third-party libraries raise in any block that uses them
IGNORED_WARNINGS = {
    "lightning": ["FutureWarning", "UserWarning"],
    "transformers": ["UserWarning"],
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


def run_block(script: Path, ignored: list[str], errors: Path, variables: dict[str, str]) -> None:
    """Run a block as the main module of this process, with warnings as errors."""
    os.chdir(script.parent)
    os.environ.update(variables)
    sys.stderr = errors.open("w")
    warnings.simplefilter("error")
    for category in ignored:
        warnings.simplefilter("ignore", getattr(builtins, category))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_block_runs(page: str, block: str, tmp_path: Path) -> None:
    ignored = [each for library, categories in IGNORED_WARNINGS.items() if library in block for each in categories]
    script = tmp_path / "block.py"
    script.write_text(block)
    processes = rank_variables(2) if "torch.distributed" in block else [{}]  # as torchrun starts them
    files = [tmp_path / f"errors-{number}.txt" for number in range(len(processes))]
    running = [
        fork_server().Process(target=run_block, args=(script, ignored, errors, variables))
        for errors, variables in zip(files, processes, strict=True)
    ]
    assert not fails(running), [errors.read_text() for errors in files if errors.exists()]


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_linked_file_exists(page: str, target: str) -> None:
    assert (CHECKOUT / page).parent.joinpath(target).exists()


@pytest.mark.parametrize("name", ["speed", "gpu"])
def test_the_tables_of_the_performance_page_are_those_of_the_records(name: str) -> None:
    from benchmarks.speed import record_file
    from benchmarks.speed.markdown import markdown

    table, *_ = markdown(record_file.load(CHECKOUT / "docs" / f"{name}.json")).split("\n\n")
    assert table.startswith("| workload |")
    assert table in (CHECKOUT / "docs" / "performance.md").read_text(encoding="utf-8")
