"""Initial values of the parameters and buffers that torch sets to constants."""

from __future__ import annotations

from collections.abc import Mapping

# Normalization layers: affine parameters and running statistics.
NORM_INITIAL_VALUES: Mapping[str, float] = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
PRELU_INITIAL_VALUES: Mapping[str, float] = {"weight": 0.25}
