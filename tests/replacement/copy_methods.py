"""The ways to copy networks, optimizers and engines that the tests cover: deepcopy, pickle, and a file."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import torch


def copy_through_file(value: Any, *, weights_only: bool = False) -> Any:
    """Save with `torch.save` and load again."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


COPY_METHODS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "file": copy_through_file,
}
