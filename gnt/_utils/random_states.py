"""Global random generators that are left as they were."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """At the end of this context the global generators of Python, NumPy and torch (CPU) are as they were before.

    >>> with random_states_kept():
    ...     first = random.random()
    >>> random.random() == first
    True
    """
    before, numpy_before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)
