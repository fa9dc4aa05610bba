"""The C library's memory allocator: with its default settings, or tuned to keep freed memory.

By default a temporary tensor of many megabytes is mapped from the system each time, which causes a page fault for every
page. With the tuned settings memory stays in the heap after its first use. glibc reads the settings when a process
starts, so the command is started again.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence

from ..command_name import PACKAGE
from ..errors import CannotRun

CHOICES = ("default", "tuned")
# 32 MiB is the largest threshold of glibc; without mappings larger tensors stay in the heap as well.
TUNED = {
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": str(64 << 20),
}


def is_active(choice: str) -> bool:
    """Whether this process was started with the chosen allocator settings."""
    return choice == "default" or all(os.environ.get(name) == value for name, value in TUNED.items())


def restart_with_tuned_allocator(arguments: Sequence[str]) -> int:
    """Run the same command in a process with a tuned allocator. Returns its exit status.

    Raises:
        CannotRun: this Python is not linked to glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        raise CannotRun("--malloc tuned needs glibc's allocator, but this system has another C library.")
    child = subprocess.Popen([sys.executable, "-m", PACKAGE, "speed", *arguments], env=os.environ | TUNED)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:  # the child process receives it too, and prints what it has measured
            continue


def describe() -> str:
    """The allocator of this process, as text."""
    settings = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")]
    preload = os.environ.get("LD_PRELOAD")
    library = " ".join(platform.libc_ver()) or platform.system()
    words = [library, *settings, *([f"LD_PRELOAD={preload}"] if preload else [])]
    return f"{words[0]}, default settings" if len(words) == 1 else ", ".join(words)
