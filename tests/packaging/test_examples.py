"""The examples: their pages agree with them, and they run, at a small size."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pickle
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers.fork_server import fork_server

CHECKOUT = Path(os.environ.get("GNT_CHECKOUT") or Path(__file__).parents[2])
PAGES = CHECKOUT / "docs" / "examples"
NAMES = sorted(path.stem for path in (CHECKOUT / "examples").glob("*.py"))
SMALL = {  # constants of those that run here; the others need longer, and run in CI by scripts/examples --check
    "mlp_that_dies": {"TASKS": "2", "BATCH": "300"},
    "memory_and_plasticity": {"TASKS": "2", "EPOCHS": "1", "BATCH": "300"},
    "plasticity_check": {"ROUNDS": "1", "STEPS": "4", "SEEDS": "2"},
}
THEIRS = CHECKOUT / "examples" / "loss_of_plasticity"
SCRIPT = "lop/slowly_changing_regression/expr.py"


def load_example_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_pages", CHECKOUT / "scripts" / "example_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["example_pages"] = module
    spec.loader.exec_module(module)
    return module


example_pages = load_example_pages()


def read(name: str) -> str:
    return (CHECKOUT / "examples" / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_the_text_and_code_of_the_example(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    cells = example_pages.read_cells(read(name))
    outputs = example_pages.outputs_of(page, cells)
    assert outputs is not None, f"the code of examples/{name}.py has changed: run scripts/examples {name}"
    assert page == example_pages.write_page(cells, outputs), f"its text has changed: run scripts/examples {name}"
    for picture in PAGES.glob(f"{name}-*.png"):
        assert f"]({picture.name})" in page
        assert picture.stat().st_size < example_pages.LARGEST_PICTURE
    assert page.count("](" + name) == len(list(PAGES.glob(f"{name}-*.png")))


def test_each_page_is_of_an_example_and_listed() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == set(NAMES)
    overview = (CHECKOUT / "docs" / "examples.md").read_text(encoding="utf-8")
    navigation = (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"](examples/{name}.md)" in overview
        assert f": examples/{name}.md\n" in navigation


def run_small() -> None:
    for name, constants in SMALL.items():
        example_pages.execute(name, constants)


def test_the_short_examples_run() -> None:
    process = fork_server().Process(target=run_small)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_a_cell_shows_what_it_prints_and_the_value_of_its_last_line() -> None:
    cells = example_pages.read_cells(
        "# %% [markdown]\n# A *text*.\n#\n# [x](../docs/a.md)\n\n# %%\nfor i in 1, 2:\n    print(i)\n3\n"
    )
    assert cells == [(False, "A *text*.\n\n[x](../docs/a.md)"), (True, "for i in 1, 2:\n    print(i)\n3")]
    output, figures = example_pages._run_cell(cells[1].text, {}, "name")
    assert (output, figures) == (["```text\n1\n2\n3\n```"], [])
    page = example_pages.write_page(cells, [*output, "the end"])
    assert "[x](../a.md)" in page
    assert example_pages.outputs_of(page, cells) == [*output, "the end"]
    assert example_pages.outputs_of(page, [cells[0], cells[1]._replace(text="4")]) is None


def test_constants_that_an_example_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="one line 'B = "):
        example_pages._with_constants(["A = 1", "A == 2"], {"A": "3", "B": "4"})


def run_theirs(folder: Path) -> None:
    """Run the two commands of the example's README."""
    os.chdir(folder)
    sys.path.insert(0, str(THEIRS))
    for script, config in (("slowly_changing_regression", "problem.json"), ("expr", "cbp.json")):
        path = THEIRS / "lop" / "slowly_changing_regression" / f"{script}.py"
        runpy.run_path(str(path))["main"](["-c", config])


def test_a_script_of_the_authors_runs_with_two_changed_lines(tmp_path: Path) -> None:
    text = (THEIRS / SCRIPT).read_text(encoding="utf-8")
    for module, name in (("bp", "Backprop"), ("cbp", "ContinualBackprop")):
        ours = f"from gnt.integrations.loss_of_plasticity import {name}\n"
        assert text.count(ours) == 1
        text = text.replace(ours, f"from lop.algos.{module} import {name}\n")
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256_OF_THEIRS

    for name, changes in (
        ("problem", {"num_data_points": 200}),
        ("cbp", {"num_data_points": 200}),
    ):
        settings = json.loads((THEIRS / f"{name}.json").read_text()) | changes
        (tmp_path / f"{name}.json").write_text(json.dumps(settings))
    process = fork_server().Process(target=run_theirs, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    with (tmp_path / "errors.pickle").open("rb") as file:
        errors = pickle.load(file)["errs"]
    assert errors.shape == (200,)
    assert (errors > 0).any()


SHA256_OF_THEIRS = "48d021352f9f43308ad315a9d4f42904247e03c8b0516f5b5eca2e0988ca4812"  # at commit 63c35f3
