"""Tests on a CUDA device, which ``scripts/gpu`` runs. Without one they are not collected.

Tests of Triton kernels (``test_triton_*.py``) are also collected if Triton's interpreter can run them on the CPU:
``TRITON_INTERPRET=1`` in an environment with triton.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None
if not torch.cuda.is_available():
    collect_ignore_glob = ["test_[!t]*.py"] if _INTERPRETED else ["test_*.py"]


@pytest.fixture
def device() -> str:
    """Where Triton kernels run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def exact_arithmetic() -> Iterator[None]:
    """Matrix products in full precision."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
