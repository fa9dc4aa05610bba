"""Random number generators: a separate one for each purpose, so that draws for one purpose do not depend on how many
were made for another.
"""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, purpose: str, device: str = "cpu") -> torch.Generator:
    """A generator for one purpose ("labels", "order", ...) in a run with this seed, for draws on ``device``."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:6], "big"))
