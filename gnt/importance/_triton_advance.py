"""The update of running averages by the Triton kernel of ``gnt/_triton/running_averages.py``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from gnt._triton import on_device, upload
from gnt.importance._running_averages import RunningAverages

_BLOCK = 1024


class TritonAdvance:
    """One launch for all states of a shared state, each with one tap."""

    def __init__(self, states: Sequence[RunningAverages], dtype: torch.dtype) -> None:
        from gnt._triton import running_averages, unit_statistics

        self._kernel: Any = running_averages.advance
        first = states[0]
        sizes = [state.num_units for state in states]
        rows = [[start, size] for start, size in zip([0, *accumulate(sizes)], sizes, strict=False)]
        self._device = first.born.device
        self._rows = upload(torch.tensor(rows, device="cpu"), self._device)
        decay = first.measured_decay
        self._constants = (
            first.measure_every,
            decay,
            math.log(decay) if decay else 0.0,
            torch.finfo(dtype).tiny,
            first.corrected,
            unit_statistics.scalar_type(dtype),
            _BLOCK,
        )

    def __call__(
        self,
        averages: Tensor,
        measured: Tensor,
        born: Tensor,
        last_active: Tensor,
        nonfinite: Tensor,
        updates: Tensor,
        num_features: int,
    ) -> None:
        """Enter the measured values, and increase ``updates``."""
        with on_device(self._device):
            self._kernel[(len(self._rows),)](
                self._rows, averages, measured, born, last_active, nonfinite, updates, num_features, *self._constants
            )
