"""What an existing page says about experiments without a finished run in the folder of results."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from .overview import FIRST_HEADINGS


@dataclass(frozen=True)
class EarlierPage:
    """Parts of an existing page, each by experiment.

    Attributes:
        sections: the lines of its section, from the heading on.
        overview: the cells of its row in the table of all experiments, by heading.
        missing: the line that says what was run.
    """

    sections: dict[str, list[str]] = field(default_factory=dict)
    overview: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def without(self, names: set[str]) -> EarlierPage:
        """The parts about other experiments than these."""
        return EarlierPage(
            *({name: part for name, part in parts.items() if name not in names} for parts in vars(self).values())
        )

    def pictures(self, folder: str) -> set[str]:
        """The names of the pictures in ``folder`` that its sections show."""
        text = "\n".join(line for lines in self.sections.values() for line in lines)
        return set(re.findall(rf"\]\({folder}/([\w.-]+\.png)\)", text))


def read_page(file: Path, names: tuple[str, ...]) -> EarlierPage:
    """The parts of a page about the experiments with these names; empty if there is no page."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, ValueError):
        return EarlierPage()
    page, current, headings = EarlierPage(), "", []
    for line in lines:
        if line.startswith("## "):
            current = line.removeprefix("## ")
        if current in names:
            page.sections.setdefault(current, []).append(line)
            continue
        if line.startswith("| "):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found = re.match(r"\[(\w+)\]\(#\1\)$", cells[0])
            if found and found[1] in names:
                page.overview[found[1]] = dict(zip(headings, cells, strict=False))
            elif not headings:
                headings = [*FIRST_HEADINGS, *cells[2:]]  # older pages have other words there
        begun = re.match(r"- \*\*(\w+)\*\*: ", line)
        if begun and begun[1] in names:
            page.missing[begun[1]] = line
    for section in page.sections.values():
        while not section[-1].strip():
            section.pop()
    return page
