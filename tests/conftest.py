"""One thread, and how many random examples the property tests try.

    pytest                                              default: a minute or so
    pytest tests -k properties --hypothesis-profile=thorough     twenty times as many, after a change to the engine

In continuous integration the examples are the same on every run, so that a red run is the change's doing.
"""

from __future__ import annotations

import os

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

settings.register_profile(
    "default",
    deadline=None,  # nothing is timed
    max_examples=60,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=1200, derandomize=False)
settings.load_profile("default")
