"""What an existing page says about experiments without a finished run in the folder of results."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from .section_summary import Summaries, read_summaries


@dataclass(frozen=True)
class EarlierPage:
    """Parts of an existing page, each by experiment.

    Attributes:
        sections: the lines of its section, from the heading on.
        summaries: its summary, from the file beside the page. Missing for pages that were written without one.
    """

    sections: dict[str, list[str]] = field(default_factory=dict)
    summaries: Summaries = field(default_factory=dict)

    def without(self, names: set[str]) -> EarlierPage:
        """The parts about other experiments than these."""
        return EarlierPage(
            {name: lines for name, lines in self.sections.items() if name not in names},
            {name: parts for name, parts in self.summaries.items() if name not in names},
        )

    def pictures(self, folder: str) -> set[str]:
        """The names of the pictures in ``folder`` that its sections show."""
        text = "\n".join(line for lines in self.sections.values() for line in lines)
        return set(re.findall(rf"\]\({folder}/([\w.-]+\.png)\)", text))


def read_page(file: Path, summaries: Path, names: tuple[str, ...]) -> EarlierPage:
    """The parts of a page about the experiments with these names; empty if there is no page.

    Args:
        file: the page.
        summaries: the file beside it.
        names: the experiments.

    Raises:
        CannotRun: ``summaries`` cannot be read.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, ValueError):
        return EarlierPage()
    sections: dict[str, list[str]] = {}
    current = ""
    for line in lines:
        if line.startswith("## "):
            current = line.removeprefix("## ")
        if current in names:
            sections.setdefault(current, []).append(line)
    for section in sections.values():
        while not section[-1].strip():
            section.pop()
    return EarlierPage(sections, read_summaries(summaries, tuple(sections)))
