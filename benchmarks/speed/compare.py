"""Compares two records: which ratios changed by more than noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rich.markup import escape
from rich.table import Table

from .table import MET, MISSED, ratio_text

SMALLEST = 0.02  # relative change that always counts as noise
ERRORS = 3.0  # multiple of the difference's standard error that counts as noise


def noise(old: dict[str, Any], new: dict[str, Any]) -> float:
    """The largest difference of two ratios that counts as noise.

    The standard error of a median is about 1.25 s / sqrt(n), where n is the number of rounds and the standard deviation
    s is about the interquartile range / 1.35.
    """
    errors = [1.25 * (one["high"] - one["low"]) / 1.35 / math.sqrt(one["rounds"]) for one in (old, new)]
    return max(SMALLEST * float(old["ratio"]), ERRORS * math.hypot(*errors))


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The ratio of each comparison in the two records (None if missing), and how it changed.

    Comparisons that only the old record has are left out if the new one contains a selection (``--only``).
    """
    before, after = _by_name(old), _by_name(new)
    rows = []
    for name in [*after, *(() if new["settings"]["only"] else [name for name in before if name not in after])]:
        was, now = before.get(name), after.get(name)
        if was is None or now is None:
            change = "new" if was is None else "gone"
        elif abs(now["ratio"] - was["ratio"]) <= noise(was, now):
            change = "unchanged"
        else:
            change = "faster" if now["ratio"] < was["ratio"] else "slower"
        rows.append({"name": name, "old": was and was["ratio"], "new": now and now["ratio"], "change": change})
    return rows


def _by_name(record: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {
        (workload["name"], one["entrant"], one["against"]): {**one, "rounds": workload["rounds"]}
        for workload in record["workloads"]
        for one in workload["figures"]
    }


def table(old: dict[str, Any], new: dict[str, Any]) -> Table:
    """The ratios of both records side by side."""
    shown = Table(title=escape(f"Changes since {_commit(old)} ({old['about']['began']})"))
    for name in ("", "against"):
        shown.add_column(name)
    for name in ("old", "new", "change", ""):
        shown.add_column(name, justify="right")
    colours = {"faster": MET, "slower": MISSED, "new": "cyan", "gone": "yellow", "unchanged": "dim"}
    last = None
    for row in changes(old, new):
        workload, entrant, against = row["name"]
        if workload != last:
            shown.add_section()
            shown.add_row(f"[bold]{escape(workload)}[/]", *[""] * 5)
            last = workload
        both = row["old"] is not None and row["new"] is not None
        change = f"{row['new'] / row['old'] - 1:+.0%}" if both else ""
        ratios = ["" if row[name] is None else ratio_text(row[name]) for name in ("old", "new")]
        shown.add_row(
            f"  {escape(entrant)}", escape(against), *ratios, change, f"[{colours[row['change']]}]{row['change']}[/]"
        )
    return shown


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Circumstances other than gnt in which the two runs differ, and which may have changed ratios."""
    lines = []
    for what, find in _CIRCUMSTANCES.items():
        was, now = find(old), find(new)
        if was != now:
            lines.append(f"The {what} differ: {was}, now {now}.")
    for record, which in ((old, "old"), (new, "new")):
        quietness = record["quietness"]
        if quietness is not None and quietness["reasons"]:
            lines.append(f"The machine was busy in the {which} run: {'; '.join(quietness['reasons'])}.")
    return lines


def _commit(record: dict[str, Any]) -> str:
    return str(record["about"]["commit"] or "no commit")[:8]


_CIRCUMSTANCES: dict[str, Callable[[dict[str, Any]], object]] = {
    "lengths of the rounds": lambda record: "quick" if record["settings"]["quick"] else "full",
    "clocks": lambda record: record["settings"]["clock"],
    "processors": lambda record: record["about"]["hardware"]["processor"],
    "numbers of threads": lambda record: record["about"]["threads"],
    "versions of torch": lambda record: record["about"]["versions"]["torch"],
    "allocators": lambda record: record["about"]["allocator"],
}
