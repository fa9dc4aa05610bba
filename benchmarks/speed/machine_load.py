"""Whether the machine is quiet enough for its figures to mean something.

Three witnesses: what the operating system counts (load, the time that others took and that the hypervisor stole), and
a reference block, the same matrix product over and over, whose times would all be the same on a machine of one's own.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import Timer

from benchmarks.speed.cpu_counters import CpuCounters

LOAD = 0.3  # of the cores, before anything was started here
OTHERS = 0.1  # cores that other processes took while measuring
STOLEN = 0.01  # share of the machine that the hypervisor gave to others
SPREAD = 0.05  # interquartile range of the reference block over its median
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class MachineLoad:
    """Figures about the machine; None: not known on this system.

    Attributes:
        load: runnable processes before the start, over the last minute, divided by the cores.
        others: cores that other processes took, on average.
        stolen: share of the machine's time that the hypervisor gave to other machines.
        spread: interquartile range of the reference block's times over their median.
    """

    load: float | None
    others: float | None
    stolen: float | None
    spread: float | None

    def reasons(self) -> list[str]:
        """Why this machine is not quiet; empty when it is.

        >>> MachineLoad(load=0.1, others=0.6, stolen=None, spread=0.01).reasons()
        ['other processes took 0.60 cores']
        """
        found = []
        if self.load is not None and self.load > LOAD:
            found.append(f"a load of {self.load:.2f} a core before the start")
        if self.others is not None and self.others > OTHERS:
            found.append(f"other processes took {self.others:.2f} cores")
        if self.stolen is not None and self.stolen > STOLEN:
            found.append(f"the hypervisor took {self.stolen:.1%} of the time")
        if self.spread is not None and self.spread > SPREAD:
            found.append(f"one and the same computation's times spread by {self.spread:.0%}")
        return found

    def as_record(self) -> dict[str, Any]:
        """For the JSON file."""
        return {**asdict(self), "quiet": not self.reasons(), "reasons": self.reasons()}


def load_average() -> float | None:
    """The load average of the last minute, divided by the cores."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):  # not on Windows
        return None


@dataclass
class LoadMonitor:
    """Looks at the machine within its ``with`` blocks, and runs the reference block at each one's end."""

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
        # the counters tick a hundred times a second, so that a short block alone would say nothing
        self.others += now.busy - before.busy - (time.process_time() - own)
        self.stolen += now.stolen - before.stolen

    def quietness(self, load_before: float | None) -> MachineLoad:
        """What was seen so far."""
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
    """A second's measure_machine_load at the machine, before it is put to work."""
    before = load_average()
    _reference().timeit(_REFERENCE_STEPS)  # the first one brings caches and threads into being
    watch = LoadMonitor()
    until = time.monotonic() + LOOK_SECONDS
    while time.monotonic() < until:
        with watch:
            pass
    return watch.quietness(before)
