"""Random numbers: a generator for each purpose, so that no draw depends on how often another purpose has
drawn.
"""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, purpose: str, device: str = "cpu") -> torch.Generator:
    """A generator for one purpose ("labels", "order", ...) in a run of this seed, for draws on ``device``."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:6], "big"))
