"""Whether a backward is running, as while activation checkpointing recomputes a forward."""

from __future__ import annotations

import torch


def in_backward() -> bool:
    """True while a backward is running: a forward executed now is a recomputation."""
    return bool(torch._C._current_graph_task_id() != -1)
