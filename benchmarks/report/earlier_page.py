"""What an existing page says about experiments, and parts of them, without a finished run in the folder of results."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
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

    def without(self, made: Mapping[str, Collection[str]], summarized: Mapping[str, Collection[str]]) -> EarlierPage:
        """What is not made again.

        Args:
            made: experiment -> the titles of the parts that are made. Of its section, the other parts remain.
            summarized: experiment -> the titles of the parts whose summaries are made.
        """
        sections = {
            name: _other_parts(lines, made[name]) if name in made else lines for name, lines in self.sections.items()
        }
        summaries = {
            name: [part for part in parts if part.title not in summarized.get(name, ())]
            for name, parts in self.summaries.items()
        }
        return EarlierPage(
            {name: lines for name, lines in sections.items() if lines},
            {name: parts for name, parts in summaries.items() if parts},
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


CITED = "Published values of these rows:"
"""The line above the sources of a part that is kept."""


def _other_parts(section: list[str], made: Collection[str]) -> list[str]:
    """The parts of a section with other titles, each with the sources that it cites."""
    starts = [number for number, line in enumerate(section) if line.startswith("### ")]
    kept: list[str] = []
    for start, end in zip(starts, [*starts[1:], len(section)], strict=True):
        part = section[start:end]
        if part[0].removeprefix("### ") in made or "</details>" not in part:
            continue
        after = len(part) - part[::-1].index("</details>")  # what follows is about the whole section
        known = part[after:] if CITED in part[after : after + 2] else section
        sources: dict[str, str] = {}
        for line in known:
            if found := re.match(r"- \[(\d+)\] ", line):
                sources.setdefault(found[1], line)
        numbers = dict.fromkeys(re.findall(r"\[(\d+)\]", "\n".join(part[:after])))
        cited = [sources[number] for number in numbers if number in sources]
        kept += ["", *part[:after], *(["", CITED, "", *cited] if cited else [])]
    return kept
