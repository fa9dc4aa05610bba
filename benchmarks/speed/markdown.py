"""A record's main ratios as a Markdown table, for a README."""

from __future__ import annotations

from typing import Any

from .table import ratio_text
from .third_party import PACKAGE

PARTS = {
    "SGD": ("CBPSGD", "CBPSGD, measured every 8", "CBPSGD, torch operations", f"{PACKAGE}, SGD"),
    "Adam, fused": ("CBPAdam", "CBPAdam, measured every 8", "CBPAdam, torch operations", f"{PACKAGE}, Adam, fused"),
}
_COLUMNS = ("target", "measure_every=8", "kernels=False", PACKAGE)
HEAD = ("workload", "CBPSGD / SGD", *_COLUMNS, "CBPAdam / fused Adam", *_COLUMNS)


def markdown(record: dict[str, Any]) -> str:
    """One row for each workload with full training steps, then one line for each ratio of the others."""
    if record["settings"].get("device") == "cuda":
        from .gpu_markdown import gpu_markdown

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
        own, *others = ("" if one is None else ratio_text(one["ratio"]) for one in found)
        target = next((one["target"] for one in found if one is not None and one["target"] is not None), None)
        cells += [own, "" if target is None else f"<= {ratio_text(target)}", *others]
    return cells


def _line(workload: str, figure: dict[str, Any]) -> str:
    target = "" if figure["target"] is None else f" (target <= {ratio_text(figure['target'])})"
    return f"- {workload}: {figure['entrant']} / {figure['against']} {ratio_text(figure['ratio'])}{target}"
