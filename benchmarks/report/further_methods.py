"""Methods added to a problem whose other rows are only on the existing page: the runs of these are elsewhere.

They become a part of their own, after the existing one: "Size published, further methods". Tests and the table at the
top of the page include the rows of both, from the values of each seed beside the page.
"""

from __future__ import annotations

import dataclasses
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


def rows_without_runs(part: Problem | Family, earlier: Sequence[PartSummary]) -> Rows:
    """The rows of the same part of an existing page whose methods are not among the runs.

    Args:
        part: what would be made of the runs.
        earlier: the parts of the page about this experiment.

    Raises:
        CannotRun: the page has more seeds of one of the methods than there are runs, or the part is a family, and the
            page has more of it than was found.
    """
    old = next((each for each in earlier if each.title == part.title), None)
    if old is None:
        return ()
    new = summary_of(part).seeds_by_method
    lost = {key: count for key, count in old.seeds_by_method.items() if count > new.get(key, 0)}
    fewer = [key for key in lost if key in new or isinstance(part, Family)]
    if fewer:
        names = join_names(
            [f"{', '.join(filter(None, [value, LABELS[name]]))} ({lost[value, name]} seeds)" for value, name in fewer]
        )
        raise CannotRun(
            f"{part.experiment}, {part.title}: the page has more than was found in the folder of results, and would "
            f"lose {names}. Add these runs to the folder, or leave out --keep."
        )
    return tuple(each for each in old.problems[0].methods if ("", each.method) in lost)


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


def after_their_parts(kept: Sequence[str], further: Mapping[str, Sequence[str]]) -> list[str]:
    """The lines of kept parts, each followed by the part of further methods of the same title."""
    lines: list[str] = []
    starts = [number for number, line in enumerate(kept) if line.startswith("### ")]
    ends = [*starts[1:], len(kept)]
    start = 0
    for end in ends:
        part = kept[start:end]
        lines += part
        title = next((line.removeprefix("### ") for line in part if line.startswith("### ")), "")
        lines += further.get(title, ())
        start = end
    return lines
