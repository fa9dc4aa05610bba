"""Tests on a CUDA device, which ``scripts/gpu`` runs. Without one they are not collected."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def exact_arithmetic() -> Iterator[None]:
    """Matrix products in full precision."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.cuda.synchronize()
