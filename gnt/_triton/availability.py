"""Whether Triton kernels can run here."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch


def can_run(device: torch.device) -> bool:
    """True if Triton kernels run on tensors of this device; on the CPU only with TRITON_INTERPRET=1, for tests."""
    if device.type == "cuda":
        return reason_against() is None
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1" and reason_against() is None


@functools.cache
def reason_against() -> str | None:
    """Why Triton kernels cannot run; None if they can. Compiles a small kernel at the first call."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not interpreted and not torch.cuda.is_available():
        return "torch finds no GPU"
    try:
        from gnt._triton.table_writes import padded_size, write_numbers

        table = torch.empty(padded_size(3), dtype=torch.int64, device="cpu" if interpreted else "cuda")
        write_numbers(table, [1, -2, 1 << 40])
    except Exception as error:  # whatever fails in a compiler that is not ours
        return f"a kernel could not be compiled: {type(error).__name__}: {error}"
    return None
