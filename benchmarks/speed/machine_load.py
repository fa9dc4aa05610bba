"""Whether the machine was idle enough for meaningful measurements.

Three indicators: counters of the operating system (load average, processor time of other processes, time stolen by the
hypervisor), and the spread of a reference computation's times (a fixed matrix product), which would all be the same on
an idle machine.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import Timer

from .cpu_counters import CpuCounters

LOAD = 0.3  # load average per core before the start
OTHERS = 0.1  # cores used by other processes during the measurement
STOLEN = 0.01  # fraction of the time stolen by the hypervisor
SPREAD = 0.05  # interquartile range of the reference times / median
OBSERVATION_SECONDS = 1.0


@dataclass(frozen=True)
class MachineLoad:
    """Load of the machine; None for values that this system does not provide. Each has a limit in this module.

    Attributes:
        load: load average of the last minute before the start, per core.
        others: mean number of cores used by other processes.
        stolen: fraction of the machine's time that the hypervisor gave to other machines.
        spread: interquartile range of the reference times, divided by their median.
    """

    load: float | None
    others: float | None
    stolen: float | None
    spread: float | None

    def reasons(self) -> list[str]:
        """Why the machine was too busy; empty if it was not.

        >>> MachineLoad(load=0.1, others=0.6, stolen=None, spread=0.01).reasons()
        ['other processes used 0.60 cores']
        """
        found = []
        if self.load is not None and self.load > LOAD:
            found.append(f"a load of {self.load:.2f} per core before the start")
        if self.others is not None and self.others > OTHERS:
            found.append(f"other processes used {self.others:.2f} cores")
        if self.stolen is not None and self.stolen > STOLEN:
            found.append(f"the hypervisor took {self.stolen:.1%} of the time")
        if self.spread is not None and self.spread > SPREAD:
            found.append(f"the times of a fixed computation spread by {self.spread:.0%}")
        return found

    def as_record(self) -> dict[str, Any]:
        """The values as they are written to the JSON record."""
        return {**asdict(self), "quiet": not self.reasons(), "reasons": self.reasons()}


def load_average() -> float | None:
    """The load average of the last minute, divided by the number of cores."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):  # not on Windows
        return None


@dataclass
class LoadMonitor:
    """Context manager that accumulates the machine's load inside its ``with`` blocks; runs the reference computation at
    the end of each.
    """

    proc_stat: Path = Path("/proc/stat")
    others: float = 0.0
    stolen: float = 0.0
    wall: float = 0.0
    reference: list[float] = field(default_factory=list)

    def __enter__(self) -> LoadMonitor:
        self._began = CpuCounters.read(self.proc_stat), time.process_time(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.reference.append(_reference().timeit(_REFERENCE_STEPS).median)
        (before, own, began), now = self._began, CpuCounters.read(self.proc_stat)
        self.wall += time.monotonic() - began
        if before is None or now is None:
            self.others = self.stolen = float("nan")
            return
        # summed over blocks, as the counters' resolution of 10 ms is too coarse for a single one
        self.others += now.busy - before.busy - (time.process_time() - own)
        self.stolen += now.stolen - before.stolen

    def machine_load(self, load_before: float | None) -> MachineLoad:
        """The load observed so far."""
        known = self.wall > 0 and self.others == self.others
        spread = None
        if len(self.reference) > 3:
            low, middle, high = torch.tensor(self.reference).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
            spread = (high - low) / middle
        return MachineLoad(
            load=load_before,
            others=max(0.0, self.others / self.wall) if known else None,
            stolen=self.stolen / self.wall / (os.cpu_count() or 1) if known else None,
            spread=spread,
        )


_REFERENCE_STEPS = 20


def _reference() -> Timer:
    matrix = torch.ones(192, 192)
    out = torch.empty(192, 192)
    return Timer(
        "torch.mm(a, a, out=b)", globals={"a": matrix, "b": out}, num_threads=torch.get_num_threads(), label="reference"
    )


def measure_machine_load() -> MachineLoad:
    """Observe the machine for a second, before the measurement."""
    before = load_average()
    _reference().timeit(_REFERENCE_STEPS)  # the first call fills caches and starts threads
    monitor = LoadMonitor()
    until = time.monotonic() + OBSERVATION_SECONDS
    while time.monotonic() < until:
        with monitor:
            pass
    return monitor.machine_load(before)
