"""What is in use on this machine, as text."""

from __future__ import annotations

import platform

import torch

from gnt._kernels.library import SCALARS, Library, loaded_library
from gnt._triton import can_run, reason_against
from gnt._version import __version__


def show_config() -> None:
    """Print what is in use on this machine, and why: the library of kernels, its instruction set, and its threads.

    The library is loaded, or compiled, if it was not yet.

    >>> import gnt
    >>> gnt.show_config()  # doctest: +ELLIPSIS
    gnt ...
    """
    print("\n".join(configuration(loaded_library())))


def configuration(found: Library | str) -> list[str]:
    """The lines that `show_config` prints."""
    capability = torch.backends.cpu.get_cpu_capability()
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    lines = [f"gnt {__version__}, torch {torch.__version__}, {system}"]
    if isinstance(found, str):
        lines.append(f"CPU: torch operations, because there are no kernels: {found}")
    else:
        lines += [
            f"CPU: C kernels, {found.path}",
            f"  instruction set: {found.instructions}, as torch uses {capability}",
        ]
        if found.threads is None:
            lines.append("  threads: 1, because no OpenMP runtime of torch was found")
        else:
            lines.append(f"  threads: {torch.get_num_threads()} (torch.set_num_threads), by torch's {found.threads}")
    lines.append(f"GPU: {on_gpu()}")
    return lines


def on_gpu() -> str:
    """What runs the steps of networks on a GPU, with the reason."""
    reason = reason_against()
    if reason is None and torch.cuda.is_available():
        return f"Triton kernels, {torch.cuda.get_device_name()}"
    return f"torch operations, because there are no Triton kernels: {reason or 'torch finds no GPU'}"


def in_use(setting: bool | None, device: torch.device, dtype: torch.dtype) -> str:
    """What updates units of this device and dtype under a setting ``kernels``, with the reason."""
    if setting is False:
        return "torch operations (kernels=False)"
    if dtype not in SCALARS or device.type not in ("cpu", "cuda"):
        return (
            f"torch operations (kernels are for float32 and float64, on the CPU or a GPU; these are {dtype}, {device})"
        )
    if can_run(device):
        return "Triton kernels"
    if device.type != "cpu":
        return on_gpu()
    found = loaded_library()
    return f"torch operations ({found})" if isinstance(found, str) else f"C kernels ({found.instructions})"
