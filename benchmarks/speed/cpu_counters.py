"""The operating system's counters of processor time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CpuCounters:
    """Seconds since the machine started, summed over its cores.

    Attributes:
        busy: time in which processes of this system ran.
        stolen: time in which a process was ready but the hypervisor ran another system.
    """

    busy: float
    stolen: float

    @classmethod
    def read(cls, file: Path) -> CpuCounters | None:
        """Read a file such as /proc/stat; None if that is not possible."""
        try:
            first = file.read_text().splitlines()[0].split()
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, first[1:9])
            ticks = os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError, AttributeError):
            return None
        return cls((user + nice + system + irq + softirq) / ticks, steal / ticks)
