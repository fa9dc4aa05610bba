"""The main ratios of a record of a GPU as a Markdown table."""

from __future__ import annotations

from typing import Any

from .gpu_variants import FUSED, FUSED_GRAPH, SGD, SGD_GRAPH
from .table import ratio_text, time_text

PARTS = (
    (SGD, (("SGD + GnT", SGD), ("SGD + GnT, none due", SGD))),
    (SGD_GRAPH, (("SGD + GnT, captured", SGD_GRAPH), ("SGD + GnT, captured, none due", SGD_GRAPH))),
    (FUSED, (("CBPAdam", FUSED), ("CBPAdam, none due", FUSED))),
    (FUSED_GRAPH, (("CBPAdam, captured", FUSED_GRAPH), ("CBPAdam, captured, none due", FUSED_GRAPH))),
)
HEAD = (
    "workload",
    *("SGD", "+ GnT", "none due"),
    *("SGD, captured", "+ GnT", "none due"),
    *("fused Adam", "CBPAdam", "none due"),
    *("fused Adam, captured", "CBPAdam", "none due"),
)


def gpu_markdown(record: dict[str, Any]) -> str:
    """One row for each workload: times of a step without replacement, and ratios to them."""
    rows = [list(HEAD), ["---"] * len(HEAD)]
    for workload in record["workloads"]:
        figures = {(one["entrant"], one["against"]): ratio_text(one["ratio"]) for one in workload["figures"]}
        cells = [workload["name"]]
        for reference, names in PARTS:
            timed = workload["entrants"].get(reference)
            cells += [time_text(timed["seconds"]) if timed else "", *(figures.get(name, "") for name in names)]
        rows.append(cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
