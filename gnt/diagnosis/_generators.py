"""Random generators: their states are given back at the end, and each copy learns with the same draws."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

_CUDA: Any = torch.cuda


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Give the global generators of torch (all devices in use), numpy and Python their present states on exit."""
    cpu, numbers, plain = torch.get_rng_state(), np.random.get_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if _CUDA.is_initialized() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        np.random.set_state(numbers)
        random.setstate(plain)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


def seed_generators(seed: int) -> None:
    """Seed the global generators. To be called inside of `generators_kept`."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed a CUDA that is not in use yet
    if _CUDA.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def states_kept(generators: list[torch.Generator]) -> Iterator[None]:
    """Give these generators their present states on exit."""
    states = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
