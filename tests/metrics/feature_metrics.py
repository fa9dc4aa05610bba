"""All metrics of features, and the ranks among them, by name."""

from __future__ import annotations

from gnt import metrics

RANKS = {
    "effective_rank": metrics.effective_rank,
    "approximate_rank": metrics.approximate_rank,
    "nature_rank": metrics.nature_rank,
}
FEATURE_METRICS = {"dead_units": metrics.dead_units, "dormant_units": metrics.dormant_units, **RANKS}
