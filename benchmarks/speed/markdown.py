"""A record's main ratios as a Markdown table, for a README."""

from __future__ import annotations

from typing import Any

from benchmarks.speed.table import ratio_text
from benchmarks.speed.third_party import PACKAGE

PARTS = {
    "SGD": ("CBPSGD", "CBPSGD, compiled", "CBPSGD, measured every 8", f"{PACKAGE}, SGD"),
    "Adam, fused": (
        "CBPAdam, fused",
        "CBPAdam, fused, compiled",
        "CBPAdam, fused, measured every 8",
        f"{PACKAGE}, Adam, fused",
    ),
}
HEAD = (
    "workload",
    *("CBPSGD / SGD", "compiled", "measure_every=8", "target", PACKAGE),
    *("CBPAdam / fused Adam", "compiled", "measure_every=8", "target", PACKAGE),
)


def markdown(record: dict[str, Any]) -> str:
    """One row for each workload with full training steps, then one line for each ratio of the others."""
    if record["settings"].get("device") == "cuda":
        from benchmarks.speed.gpu_markdown import gpu_markdown

        return gpu_markdown(record)
    rows: list[list[str]] = []
    others: list[str] = []
    for workload in record["workloads"]:
        figures = {(one["entrant"], one["against"]): one for one in workload["figures"]}
        if ("CBPSGD", "SGD") in figures:
            rows.append([workload["name"], *_cells(figures)])
        else:
            others += [_line(workload["name"], one) for one in workload["figures"]]
    lines = [f"| {' | '.join(row)} |" for row in ([list(HEAD), ["---"] * len(HEAD), *rows] if rows else [])]
    return "\n".join([*lines, *([""] if lines and others else []), *others])


def _cells(figures: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    cells = []
    for against, names in PARTS.items():
        found = [figures.get((name, against)) for name in names]
        eager, compiled, rarely, theirs = ("" if one is None else ratio_text(one["ratio"]) for one in found)
        target = next((one["target"] for one in found if one is not None and one["target"] is not None), None)
        cells += [eager, compiled, rarely, "" if target is None else f"<= {ratio_text(target)}", theirs]
    return cells


def _line(workload: str, figure: dict[str, Any]) -> str:
    target = "" if figure["target"] is None else f" (target <= {ratio_text(figure['target'])})"
    return f"- {workload}: {figure['entrant']} / {figure['against']} {ratio_text(figure['ratio'])}{target}"
