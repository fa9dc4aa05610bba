"""Step counts that restart per unit: one count per row and one per column of a parameter.

Resetting row r after step s restarts the count of that row, so its count at step t is ``t - s``. Columns are counted in
the same way. The state of a parameter holds these starts; each entry exists only from the first reset on:

    row_start     (rows,) int64      the step after which the count of each row started; 0: never reset
    column_start  (columns,) int64   the same for columns; one per input channel for a grouped convolution

An element was last reset when its row or its column was, whichever is later:

    count[r, c] = min(count of row r, count of column c)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

START_KEYS = ("row_start", "column_start")  # by dimension


def zero_starts(param: Tensor) -> dict[str, Tensor]:
    """The starts of a parameter of which no unit was ever reset: zeros for all rows and columns."""
    keys = zip(START_KEYS, param.shape, strict=False)
    return {key: torch.zeros(size, dtype=torch.int64, device=param.device) for key, size in keys}


def restart(state: dict[str, Any], size: int, dim: int, units: Tensor, now: int) -> None:
    """Restart the counts of these rows (dim 0) or columns (dim 1) after step ``now``; ``size``: how many there are."""
    key = START_KEYS[dim]
    if key not in state:
        state[key] = torch.zeros(size, dtype=torch.int64, device=units.device)
    state[key].index_fill_(0, units, now)
