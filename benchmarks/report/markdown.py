"""Elements of Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[int] = (0,)) -> list[str]:
    r"""A table. Columns without any content are left out, except the first. The columns ``words`` are left-aligned, the
    others right-aligned.

    >>> print("\n".join(table(["a", "b", "c"], [["x", "1", ""], ["y", "2", ""]])))
    | a | b |
    | --- | ---: |
    | x | 1 |
    | y | 2 |
    """
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    kept = [i for i in range(len(headings)) if i == 0 or any(row[i] for row in rows)]
    lines = [headings, ["---" if i in words else "---:" for i in range(len(headings))], *rows]
    return ["| " + " | ".join(line[i] for i in kept) + " |" for line in lines]


def collapsible(summary: str, lines: Sequence[str]) -> list[str]:
    """Lines that are hidden until the reader expands them."""
    return ["<details>", f"<summary>{summary}</summary>", "", *lines, "", "</details>"]


def join_names(names: Sequence[str], last: str = "and") -> str:
    """Names in a sentence.

    >>> join_names(["a"]), join_names(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
