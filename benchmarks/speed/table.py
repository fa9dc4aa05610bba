"""A record as tables and notes."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

MET, MISSED = "green", "red"


def tables(record: dict[str, Any]) -> list[Table]:
    """The table of ratios and, if there are any, that of memory."""
    shown = [_ratios(record)] if record["workloads"] else []
    return [*shown, *([memory_table(record["memory"])] if record["memory"] else [])]


def _ratios(record: dict[str, Any]) -> Table:
    shown = Table(title="Time of a step, as a ratio (medians; quartiles over the rounds)")
    for name in ("", "against"):
        shown.add_column(name)
    for name in ("time", "ratio", "quartiles", "target", ""):
        shown.add_column(name, justify="right")
    for workload in record["workloads"]:
        if not workload["figures"]:
            continue
        shown.add_row(f"[bold]{escape(workload['name'])}[/]", *[""] * 6)
        for one in workload["figures"]:
            time = time_text(workload["entrants"][one["entrant"]]["seconds"])
            quartiles = f"{ratio_text(one['low'])}-{ratio_text(one['high'])}"
            target = "" if one["target"] is None else ratio_text(one["target"])
            shown.add_row(
                f"  {escape(one['entrant'])}",
                escape(one["against"]),
                *(time, ratio_text(one["ratio"]), quartiles, target, verdict(one)),
            )
        shown.add_section()
    return shown


def memory_table(rows: list[dict[str, Any]]) -> Table:
    """Bytes of state."""
    caption = "The authors' AdamGnT keeps 12 bytes per parameter: two moments and a step count."
    shown = Table(title="State in bytes", caption=caption)
    shown.add_column("")
    for name in ("total", "per parameter", "per hidden unit"):
        shown.add_column(name, justify="right")
    network = None
    for row in rows:
        if row["network"] != network:
            network = row["network"]
            shown.add_section()
            shown.add_row(f"[bold]{escape(network)}[/]", "", "", "")
        each = [f"{row[name]:.2f}" if row[name] else "" for name in ("bytes_per_parameter", "bytes_per_unit")]
        shown.add_row(f"  {escape(row['state'])}", f"{row['bytes']:,}", *each)
    return shown


def is_met(figure: dict[str, Any]) -> bool | None:
    """Whether the ratio is at most its target; None without a target."""
    return None if figure["target"] is None else figure["ratio"] <= figure["target"]


def verdict(figure: dict[str, Any]) -> str:
    """The same in colour."""
    return {None: "", True: f"[{MET}]met[/]", False: f"[{MISSED}]missed[/]"}[is_met(figure)]


def ratio_text(ratio: float) -> str:
    """A ratio with about three significant digits.

    >>> ratio_text(1.2345), ratio_text(0.04321), ratio_text(12.345)
    ('1.23', '0.0432', '12.3')
    """
    digits = 4 if ratio < 0.1 else 3 if ratio < 0.2 else 2 if ratio < 10 else 1
    return f"{ratio:.{digits}f}"


def time_text(seconds: float) -> str:
    """A time with its unit.

    >>> time_text(0.0001234), time_text(0.01234), time_text(1.5)
    ('123 us', '12.3 ms', '1500.0 ms')
    """
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def notes(record: dict[str, Any]) -> list[str]:
    """What affects how the ratios are read: the machine, left-out variants, missed targets."""
    about, quietness = record["about"], record["quietness"]
    hardware = about["hardware"]
    lines = [
        f"{hardware['processor']}, {about['threads']} of {hardware['cores']} cores, {hardware['instructions']}; "
        f"torch {about['versions']['torch']}; allocator: {about['allocator']}; commit {about['commit']}",
    ]
    if about.get("gpu"):
        lines.insert(0, f"{about['gpu']}. Times include the wait for the GPU.")
    if record["settings"]["clock"] == "cpu":
        lines.append("Times are processor time of this process (--clock cpu).")
    targets = [is_met(one) for workload in record["workloads"] for one in workload["figures"]]
    if targets:
        lines.append(f"Targets: {targets.count(True)} met, {targets.count(False)} missed.")
    lines += left_out(record)
    lines += _without_replacement(record)
    lines += _denormals(record)
    if quietness is not None and quietness["reasons"]:
        lines.append(f"This machine was busy: {'; '.join(quietness['reasons'])}. The ratios may be inaccurate.")
    if not record["complete"]:
        lines.append("Stopped before the end: the record is incomplete.")
    return lines


def left_out(record: dict[str, Any]) -> list[str]:
    """The variants that did not run, by reason."""
    reasons: dict[str, list[str]] = {}
    for workload in record["workloads"]:
        for name, why in workload["left_out"].items():
            where = f"{workload['name']}: {name}" if why.startswith("failed") else name
            reasons.setdefault(why, []).append(where)
    return [f"Left out: {', '.join(dict.fromkeys(names))} ({why})." for why, names in reasons.items()]


def _without_replacement(record: dict[str, Any]) -> list[str]:
    idle = [
        workload["name"]
        for workload in record["workloads"]
        for one in workload["entrants"].values()
        if one["replaced"] == 0
    ]
    names = ", ".join(dict.fromkeys(idle))
    return [f"No unit was replaced during the timed steps of some engines: {names}."] if idle else []


def _denormals(record: dict[str, Any]) -> list[str]:
    slow = [
        f"{workload['name']}: {name} {one['denormals']:.1%}"
        for workload in record["workloads"]
        for name, one in workload["entrants"].items()
        if one["denormals"] > 0.001
    ]
    return [f"Denormal numbers, which are slow, among weights and state: {', '.join(slow)}."] if slow else []
