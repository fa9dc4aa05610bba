"""Figures that README and docs/ cite from benchmarks/RESULTS.md are in the section that they cite."""

import os
import re
from pathlib import Path

CHECKOUT = Path(os.environ.get("GNT_CHECKOUT") or Path(__file__).parents[2])
RESULTS = (CHECKOUT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
PAGES = ["README.md", *sorted(path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "docs").rglob("*.md"))]
FIGURE = r"\d+\.\d+%?"
WITH_INTERVAL = rf"[+-]?{FIGURE} ± {FIGURE}"
CITATION = re.compile(r"RESULTS\.md#(\w+)\)|`(\w+)` \(`benchmarks/RESULTS\.md`")


def cited(text: str) -> list[tuple[str, str]]:
    """Experiment and figure: all of a sentence up to its link to the experiment's section; after a link, those with an
    interval up to the next link or heading.
    """
    text = re.sub(r"\n(?=#)", "\n\0", text)  # headings end what a link before them covers
    text = re.sub(r"\s+", " ", text)
    found = []
    for match in CITATION.finditer(text):
        experiment = match[1] or match[2]
        before, after = text[: match.start()], text[match.end() :]
        sentence = re.split(r"[.:;] (?=\D)|:\*\* |\) ", before.rpartition("\0")[2].replace("([results]", ""))
        found += [(experiment, figure) for figure in re.findall(FIGURE, sentence[-1])]
        end = CITATION.search(after)
        covered = after[: end.start() if end else None].partition("\0")[0]
        found += [(experiment, figure) for figure in re.findall(WITH_INTERVAL, covered)]
    return found


def in_tables(text: str) -> list[tuple[str, str]]:
    """Experiment and figure: the figures of those columns of tables whose heading is a link to a section."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        headings, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
        for number, heading in enumerate(headings):
            if match := CITATION.search(heading):
                found += [(match[1], figure) for row in rows for figure in re.findall(FIGURE, row[number])]
    return found


def section(experiment: str) -> str:
    """The experiment's section of the results."""
    return RESULTS.partition(f"\n## {experiment}\n")[2].partition("\n## ")[0]


def test_cited_figures_are_on_the_page_of_results() -> None:
    missing = [
        f"{page}: {figure}, {experiment}"
        for page in PAGES
        for text in [(CHECKOUT / page).read_text(encoding="utf-8")]
        for experiment, figure in [*cited(text), *in_tables(text)]
        if not re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d%])", section(experiment))
    ]
    assert not missing, "cited from sections of benchmarks/RESULTS.md that do not have these figures"


def test_citations_are_found() -> None:
    text = "Some 1.5% here. Labels, 82.6% against 11.0% ([results](../benchmarks/RESULTS.md#one)). Then +2.5% ±\n 1.0%."
    assert cited(f"{text}\n# A\n3.5% ± 1.0%") == [("one", "82.6%"), ("one", "11.0%"), ("one", "+2.5% ± 1.0%")]
    assert cited("`two` (`benchmarks/RESULTS.md`, five seeds) ended 3.1% ± 3.0% above") == [("two", "3.1% ± 3.0%")]
    table = (
        "| method | [labels](../benchmarks/RESULTS.md#one) | of ours |\n|---|---|---|\n| a | 1.5%; 2.5% with b | 3 |\n"
    )
    assert in_tables(f"Text.\n\n{table}\nMore") == [("one", "1.5%"), ("one", "2.5%")]
