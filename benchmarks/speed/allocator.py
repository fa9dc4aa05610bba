"""The C library's allocator: as it is, or told to keep what it has.

A temporary tensor of many megabytes is mapped anew by default each time, and every page of it faults. Kept in the
heap it is there from the first use on. glibc reads these settings when a process starts, so the command starts over.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.errors import CannotRun

CHOICES = ("default", "tuned")
# 32 MiB is the greatest threshold that glibc takes; with no mappings at all larger tensors stay in the heap, too.
TUNED = {
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": str(64 << 20),
}


def is_active(choice: str) -> bool:
    """Whether this process was started with the allocator's settings that were chosen."""
    return choice == "default" or all(os.environ.get(name) == value for name, value in TUNED.items())


def restart_with_tuned_allocator(arguments: Sequence[str]) -> int:
    """The same command in a process whose allocator is tuned; returns its exit status.

    Raises:
        CannotRun: this Python is not linked to glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        raise CannotRun("--malloc tuned sets glibc's allocator, and this system has another C library.")
    child = subprocess.Popen([sys.executable, "-m", "benchmarks", "speed", *arguments], env=os.environ | TUNED)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:  # the child got it too: it shows what it has, and ends
            continue


def describe() -> str:
    """The allocator of this process, in words."""
    settings = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")]
    preload = os.environ.get("LD_PRELOAD")
    library = " ".join(platform.libc_ver()) or platform.system()
    words = [library, *settings, *([f"LD_PRELOAD={preload}"] if preload else [])]
    return f"{words[0]}, as it is" if len(words) == 1 else ", ".join(words)
