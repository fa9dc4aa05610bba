"""The operating system's own counters of what the cores did."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CpuCounters:
    """Seconds since the machine started, summed over its cores.

    Attributes:
        busy: in which a process of this system ran.
        stolen: in which one wanted to run, and the hypervisor let another system run.
    """

    busy: float
    stolen: float

    @classmethod
    def read(cls, file: Path) -> CpuCounters | None:
        """From /proc/stat; None where there is none."""
        try:
            first = file.read_text().splitlines()[0].split()
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, first[1:9])
            ticks = os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError, AttributeError):
            return None
        return cls((user + nice + system + irq + softirq) / ticks, steal / ticks)
