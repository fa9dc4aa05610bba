"""Autocast's cache of cast weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def no_autocast_cache() -> Iterator[None]:
    """Inside this context autocast casts weights each time they are used.

    Its cache holds casts until the outermost autocast ends, and knows nothing of steps that change the weights or of
    fake tensors that stand for them.
    """
    enabled = torch.is_autocast_cache_enabled()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)
