"""Pages of the documentation made from the examples: their text, code, output and pictures.

    scripts/examples                run the examples whose code differs from that on their pages, and write the pages
    scripts/examples resnet gpt     the same for these two
    scripts/examples --all          run all of them
    scripts/examples --check        run all of them, write nothing: fails if one of them raises an error or a warning

An example is a Python file in examples/ with cells as jupytext reads them: a line ``# %%`` begins a cell of code,
``# %% [markdown]`` one of text. Each runs in a process of its own with one thread, so that its numbers do not depend on
how many cores there are.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import multiprocessing
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
EXAMPLES, PAGES = ROOT / "examples", ROOT / "docs" / "examples"
BEGIN, END = "<!-- output -->", "<!-- end of output -->"
LARGEST_PICTURE = 60_000  # bytes


class Cell(NamedTuple):
    """A cell of a notebook."""

    is_code: bool
    text: str


class Run(NamedTuple):
    """What the cells of code have printed and drawn: for each a text in Markdown; pictures as PNG by name."""

    outputs: list[str]
    pictures: dict[str, bytes]


def names() -> list[str]:
    """The examples, by the names of their files."""
    return sorted(path.stem for path in EXAMPLES.glob("*.py"))


def read_cells(source: str) -> list[Cell]:
    """The cells of an example."""
    cells = []
    for part in re.split(r"^# %%", source, flags=re.MULTILINE)[1:]:
        kind, _, body = part.partition("\n")
        if kind.strip() not in ("", "[markdown]"):
            raise ValueError(f"a cell must begin with '# %%' or '# %% [markdown]', got {'# %%' + kind!r}")
        if kind.strip():
            body = re.sub(r"^# ?", "", body, flags=re.MULTILINE)
        cells.append(Cell(not kind.strip(), body.strip("\n")))
    return cells


def write_page(cells: Sequence[Cell], outputs: Sequence[str]) -> str:
    """The page: text and code of the cells, and the output of each cell of code, then that of the whole run."""
    rest = list(outputs)
    parts = []
    for cell in cells:
        if cell.is_code:
            parts += [f"```python\n{cell.text}\n```", *_marked(rest.pop(0))]
        else:
            parts.append(cell.text.replace("](../docs/", "](../"))
    return "\n\n".join([*parts, "---", *_marked(rest.pop(0))]) + "\n"


def _marked(output: str) -> list[str]:
    return [BEGIN, *filter(None, [output]), END]


def outputs_of(page: str, cells: Sequence[Cell]) -> list[str] | None:
    """The outputs on a page, or None if the code on it is not that of the cells."""
    code = re.findall(r"^```python\n(.*?)\n```$", page, re.DOTALL | re.MULTILINE)
    if code != [cell.text for cell in cells if cell.is_code]:
        return None
    return [text.strip("\n") for text in re.findall(f"^{BEGIN}$(.*?)^{END}$", page, re.DOTALL | re.MULTILINE)]


def execute(name: str, constants: dict[str, str] | None = None) -> Run:
    """Run the cells of an example in this process, with other values for some of its constants."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"figure.dpi": 80, "figure.figsize": (7.5, 3.2), "figure.constrained_layout.use": True})
    cells = read_cells((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
    code = _with_constants([cell.text for cell in cells if cell.is_code], constants or {})
    space: dict[str, Any] = {"__name__": "__main__"}
    outputs: list[str] = []
    pictures: dict[str, bytes] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, text in enumerate(code, 1):
            print(f"{name}: cell {number} of {len(code)}", file=sys.stderr, flush=True)
            shown, figures = _run_cell(text, space, name)
            outputs.append("\n\n".join([*shown, *_drawn(name, figures, pictures)]))
    return Run([*outputs, _last_words(name)], pictures)


def _with_constants(code: list[str], constants: dict[str, str]) -> list[str]:
    for constant, value in constants.items():
        found = [re.subn(rf"^{constant} = .*", f"{constant} = {value}", text, flags=re.MULTILINE) for text in code]
        if sum(number for _, number in found) != 1:
            raise ValueError(f"the example must have one line '{constant} = ...'")
        code = [text for text, _ in found]
    return code


def _run_cell(text: str, space: dict[str, Any], name: str) -> tuple[list[str], list[Figure]]:
    """Run a cell; what it printed, with the value of a last line that is an expression, and what it drew."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    tree = ast.parse(text)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    value = None
    printed = io.StringIO()
    earlier = set(plt.get_fignums())
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"examples/{name}.py", "exec"), space)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"examples/{name}.py", "eval"), space)
        if value is not None and not isinstance(value, Figure):
            print(repr(value))
    figures = [plt.figure(number) for number in plt.get_fignums() if number not in earlier]
    for figure in figures:
        plt.close(figure)
    if isinstance(value, Figure) and value not in figures:
        figures.append(value)
    lines = "\n".join(line.rstrip() for line in printed.getvalue().strip("\n").splitlines())
    return ([f"```text\n{lines}\n```"] if lines else []), figures


def _drawn(name: str, figures: Sequence[Figure], pictures: dict[str, bytes]) -> list[str]:
    """Add the figures to the pictures; the lines that show them."""
    from PIL import Image

    lines = []
    for figure in figures:
        file, small = io.BytesIO(), io.BytesIO()
        figure.savefig(file, dpi=80)
        Image.open(file).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        picture = f"{name}-{len(pictures) + 1}.png"
        if len(small.getvalue()) > LARGEST_PICTURE:
            raise ValueError(f"{picture} has {len(small.getvalue())} bytes; at most {LARGEST_PICTURE} are allowed")
        pictures[picture] = small.getvalue()
        title = figure.get_suptitle() or next((axes.get_title() for axes in figure.axes if axes.get_title()), "picture")
        lines.append(f"![{' '.join(title.split())}]({picture})")
    return lines


def _last_words(name: str) -> str:
    import torch

    times = os.times()
    return (
        f"This page is `examples/{name}.py` with its output, by `scripts/examples {name}`: "
        f"{times.user + times.system:.0f} s of one core, torch {torch.__version__}. "
        "The file is a Python script, and with jupytext a notebook."
    )


def run_alone(name: str) -> Run:
    """Run an example in a process of its own."""
    os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(execute, (name,))


def write(name: str, run: Run | None, outputs: Sequence[str]) -> None:
    """Write a page, and the pictures of a run."""
    cells = read_cells((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
    PAGES.mkdir(exist_ok=True)
    (PAGES / f"{name}.md").write_text(write_page(cells, outputs), encoding="utf-8")
    if run is not None:
        for old in PAGES.glob(f"{name}-*.png"):
            old.unlink()
        for picture, content in run.pictures.items():
            (PAGES / picture).write_bytes(content)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(names())}")
    parser.add_argument("--all", action="store_true", help="also those whose code is that on their pages")
    parser.add_argument("--check", action="store_true", help="run, and write nothing")
    given = parser.parse_args()
    if unknown := set(given.names) - set(names()):
        parser.error(f"unknown examples: {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    for name in given.names or names():
        page = PAGES / f"{name}.md"
        cells = read_cells((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
        present = outputs_of(page.read_text(encoding="utf-8"), cells) if page.exists() else None
        run = run_alone(name) if given.all or given.check or present is None else None
        if not given.check:
            write(name, run, run.outputs if run else present or [])
        print(f"{name}: {'run' if run else 'the code on its page is the same'}", file=sys.stderr)


if __name__ == "__main__":
    main()
