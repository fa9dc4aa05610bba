"""The list of what was run, what was not run, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import experiments
from ..method_styles import LABELS
from ..settings import settings_text
from .markdown import join_names
from .problems import shared
from .rerun_commands import default_command
from .section_summary import ProblemSummary, Summaries

FEW = 5  # methods that are listed by name


def missing_runs(summaries: Summaries, kept: Sequence[str]) -> list[str]:
    """An item for each experiment. ``kept``: experiments whose section is there, with or without a summary."""
    lines = []
    for name in experiments.NAMES:
        if name in summaries:
            own = [problem for part in summaries[name] for problem in part.problems]
            text = f"{_run(own)}. {_not_run(name, own)}"
        elif name in kept:
            text = "only its section is kept; its values are not in the table above."
        else:
            text = f"nothing finished. To run it: `{default_command(name)}`. {_not_run(name, [])}"
        lines.append(f"- **{name}**: {text}".rstrip())
    return lines


def _run(problems: Sequence[ProblemSummary]) -> str:
    texts = []
    for title in dict.fromkeys(_size_text(problem) for problem in problems):
        own = [problem for problem in problems if _size_text(problem) == title]
        methods = dict.fromkeys(each.method for problem in own for each in problem.methods)
        names = join_names([LABELS[name] for name in methods]) if len(methods) <= FEW else f"{len(methods)} methods"
        least, most = min(problem.seeds[0] for problem in own), max(problem.seeds[1] for problem in own)
        seeds = f"{least}" if least == most else f"{least} to {most}"
        many = f"{len(own)} problems, " if len(own) > 1 else ""
        each = " each" if len(methods) > 1 else ""
        texts.append(f"{title} ({many}{names}, {seeds} seed{'' if seeds == '1' else 's'}{each})")
    return "; ".join(texts)


def _size_text(problem: ProblemSummary) -> str:
    """The problem's size, and whether it differs from that size."""
    numbers = {name: value for name, value in problem.differing.items() if not isinstance(value, str)}
    if not problem.differing:
        return f"size {problem.size}"
    return (
        f"size {problem.size}, but {settings_text(numbers)}" if numbers else f"size {problem.size} with other settings"
    )


def _not_run(experiment: str, problems: Sequence[ProblemSummary]) -> str:
    cls = experiments.settings_class(experiment)
    done = {problem.size for problem in problems if not problem.differing}
    sizes = [_size(cls, size) for size in cls.size_names() if size not in done]
    methods = [
        LABELS[name]
        for name in cls.methods
        if problems and not any(name == each.method for problem in problems for each in problem.methods)
    ]
    texts = [*sizes, *([join_names(methods)] if methods else [])]
    return f"Not run: {'; '.join(texts)}." if texts else ""


def _size(cls: Any, size: str) -> str:
    """A size that was not run as it is: what is published about it, and what it takes."""
    first, this = (cls.of(cls.methods[0], name) for name in (cls.size_names()[0], size))
    own = {name: value for name in shared(cls) if (value := getattr(this, name)) != getattr(first, name)}
    published = size == "published"
    takes = [settings_text(own) if published else "", cls.needs.get(size, ""), cls.durations.get(size, "")]
    texts = "; ".join(filter(None, takes))
    return f"size {size}" + (", the published length" if published else "") + (f" ({texts})" if texts else "")
