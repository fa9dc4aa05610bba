"""Methods added to a problem whose other rows are only on the existing page: the runs of these are elsewhere.

They become a part of their own, after the existing one: "Size published, further methods". Tests and the table at the
top of the page include the rows of both, from the values of each seed beside the page.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from .. import experiments
from ..errors import CannotRun
from ..method_styles import LABELS
from .markdown import join_names
from .problems import Family, Problem
from .section_summary import MethodSummary, PartSummary, summary_of

FURTHER = ", further methods"
"""End of the title of such a part."""

Rows = tuple[MethodSummary, ...]


def rows_without_runs(part: Problem | Family, earlier: Sequence[PartSummary], section: Sequence[str]) -> Rows:
    """The rows of the same part of an existing page whose methods are not among the runs.

    Args:
        part: what would be made of the runs.
        earlier: the parts of the page about this experiment.
        section: the lines of the page about this experiment.

    Raises:
        CannotRun: the page has more seeds of one of the methods than there are runs; or the part is a family, and the
            page has more of it than was found; or methods without runs have their rows in an existing part of further
            methods, which the new one would replace.
    """
    old = next((each for each in earlier if each.title == part.title), None)
    if old is None:
        return ()
    new = summary_of(part).seeds_by_method
    lost = {key: count for key, count in old.seeds_by_method.items() if count > new.get(key, 0)}
    replaced = _labels(section, part.title + FURTHER)
    fewer = [key for key in lost if key in new or isinstance(part, Family) or LABELS[key[1]] in replaced]
    if fewer:
        names = join_names(
            [f"{', '.join(filter(None, [value, LABELS[name]]))} ({lost[value, name]} seeds)" for value, name in fewer]
        )
        raise CannotRun(
            f"{part.experiment}, {part.title}: the page has more than was found in the folder of results, and would "
            f"lose {names}. Add these runs to the folder, or --records if the page was written with it, or leave out "
            "--keep."
        )
    return tuple(each for each in old.problems[0].methods if ("", each.method) in lost)


def _labels(section: Sequence[str], title: str) -> set[str]:
    """The methods of a part of the page, from the list of commands below its tables."""
    part = "\n".join(section).partition(f"\n### {title}\n")[2].partition("\n### ")[0]
    return {item.partition(",")[0] for item in re.findall(r"^- \*\*(.+?)\*\*", part, re.MULTILINE)}


def with_rows(part: Problem | Family, rows: Rows) -> PartSummary:
    """The summary of a part, and of these rows of the same problem."""
    summary = summary_of(part)
    if not rows:
        return summary
    order = experiments.settings_class(part.experiment).methods
    methods = sorted((*summary.problems[0].methods, *rows), key=lambda each: order.index(each.method))
    counts = [*summary.problems[0].seeds, *(each.seeds for each in rows)]
    problem = dataclasses.replace(summary.problems[0], methods=tuple(methods), seeds=(min(counts), max(counts)))
    return PartSummary("", (problem,))


def parts_of(lines: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Title and lines of each part, from the empty line before its heading on. Lines before the first heading are a
    part without a title.
    """
    headings = [number for number, line in enumerate(lines) if line.startswith("### ")]
    titles = ["", *(lines[number].removeprefix("### ") for number in headings)]
    starts = [0, *(number - 1 if number and not lines[number - 1] else number for number in headings)]
    ends = [*starts[1:], len(lines)]
    return [(title, list(lines[start:end])) for title, start, end in zip(titles, starts, ends, strict=True)]


def after_their_parts(kept: Sequence[str], further: Mapping[str, Sequence[str]]) -> list[str]:
    """The lines of kept parts, each followed by the part of further methods of the same title."""
    return [line for title, own in parts_of(kept) for line in (*own, *further.get(title, ()))]
