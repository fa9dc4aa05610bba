"""Measures the communication between processes."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class CollectiveSizes(TorchDispatchMode):
    """Records the size in bytes of every collective."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self.sizes.append(sum(t.numel() * t.element_size() for t in tree_leaves(args[0])))
        return func(*args, **(kwargs or {}))
