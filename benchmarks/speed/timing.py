"""Times the variants of a workload in rounds: in each round every variant does a block of steps, in a changing order.

A ratio is the median over rounds of (time of the variant / time of its reference *in the same round*). What slows the
machine down for a second or more affects both, and what hits a single block does not change the median. Times come from
torch.utils.benchmark: `Timer.timeit` does two warm-up steps before each block and disables the garbage collector.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.benchmark import Measurement, Timer

from .machine_load import LoadMonitor
from .step_runners import REPLACEMENT_RATE, StepRunner
from .workloads import MANY, Workload

_QUARTERS = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
STRETCH = 10.0


@dataclass(frozen=True)
class Rounds:
    """How long to measure.

    Attributes:
        block: approximate seconds per block of steps.
        budget: approximate seconds for the rounds of a workload; with long blocks there are fewer rounds.
        most, least: bounds of the number of rounds.
        clock: "wall"; "cpu" for the processor time of this process; "cuda" for wall time that waits for the GPU.
        stretch: factor by which a block may be longer so that it includes a replacement.
    """

    block: float
    budget: float
    most: int
    least: int
    clock: str = "wall"
    stretch: float = STRETCH


def _after_synchronization() -> float:
    """The time once the GPU has finished what was launched."""
    torch.cuda.synchronize()
    return time.perf_counter()


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time, "cuda": _after_synchronization}
FULL = Rounds(block=0.05, budget=40.0, most=25, least=5)
QUICK = Rounds(block=0.025, budget=4.0, most=7, least=3)
GPU = Rounds(block=0.003, budget=2.0, most=9, least=4, clock="cuda", stretch=2)


@dataclass
class Timings:
    """The times of a workload's rounds: seconds per step for each variant and round."""

    steps: int
    times: dict[str, list[float]]
    replaced: dict[str, int]

    def ratio(self, name: str, against: str) -> dict[str, float]:
        """Median and quartiles over the rounds of the ratio of two variants' times."""
        pairs = zip(self.times[name], self.times[against], strict=True)
        low, middle, high = quartiles([time / reference for time, reference in pairs])
        return {"ratio": middle, "low": low, "high": high}


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    low, middle, high = torch.tensor(values, dtype=torch.float64).quantile(_QUARTERS).tolist()
    return low, middle, high


def warm_up(runner: StepRunner, workload: Workload) -> None:
    """Step until units are mature, then replace one unit in every group, so that resets have happened; then step on.

    For learners of the ensemble workloads no replacement is forced; they step until replacements are due.
    """
    if workload.kind == MANY:
        _repeat(runner, workload.maturity + math.ceil(replacement_period(workload)) + 5)
    elif runner.engine is None:
        _repeat(runner, 5)
    else:
        _repeat(runner, workload.maturity + 2)
        runner.force_replacement()
        _repeat(runner, 3)


def _repeat(runner: StepRunner, times: int) -> None:
    for _ in range(times):
        runner.step()


def replacement_period(workload: Workload) -> float:
    """Steps between replacements in the first hidden layer; 1 for convolutional networks, whose steps are long."""
    return 1 / (REPLACEMENT_RATE * workload.width) if workload.width else 1.0


def block_length(seconds_per_step: float, block: float, period: float, stretch: float = STRETCH) -> int:
    """Number of steps in a block: enough for its duration, and to include a replacement if that does not take too long.

    >>> block_length(0.01, block=0.05, period=5.0), block_length(0.0001, block=0.05, period=2000.0)
    (5, 2000)
    >>> block_length(0.6, block=0.05, period=80.0)
    1
    """
    steps = math.ceil(block / seconds_per_step)
    affordable = math.ceil(stretch * block / seconds_per_step)
    return max(1, min(math.ceil(period), affordable), min(steps, affordable))


def measure(
    runners: dict[str, StepRunner],
    workload: Workload,
    rounds: Rounds,
    monitor: LoadMonitor,
    each_round: Callable[[int, int], None],
) -> Timings:
    """Time the runners, which are already warmed up, against each other. ``each_round`` is called with the number of
    completed rounds and of all rounds.
    """
    threads = torch.get_num_threads()
    timers = {
        name: Timer("step()", timer=CLOCKS[rounds.clock], globals={"step": runner.step}, num_threads=threads)
        for name, runner in runners.items()
    }
    once = {name: _seconds(timer.timeit(3), runners[name]) for name, timer in timers.items()}
    shortest = min(once[name] / runners[name].share for name in once)
    steps = block_length(shortest, rounds.block, replacement_period(workload), rounds.stretch)
    whole = sum(once[name] / runners[name].share for name in once) * (steps + max(steps // 100, 2))
    count = max(rounds.least, min(rounds.most, int(rounds.budget / whole)))
    before = {name: runner.replaced for name, runner in runners.items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for i in range(count):
        with monitor:
            for name in round_order(list(runners), i):
                times[name].append(_seconds(timers[name].timeit(steps), runners[name]))
        each_round(i + 1, count)
    return Timings(steps, times, {name: runner.replaced - before[name] for name, runner in runners.items()})


def round_order(names: list[str], i: int) -> list[str]:
    """The order in round ``i``: each name comes first once, and every other round is reversed.

    >>> [round_order(["a", "b", "c"], i) for i in range(3)]
    [['a', 'b', 'c'], ['a', 'c', 'b'], ['c', 'a', 'b']]
    """
    turn = i % len(names)
    order = names[turn:] + names[:turn]
    return order[::-1] if i % 2 else order


def _seconds(measured: Measurement, runner: StepRunner) -> float:
    """Seconds per step of the workload."""
    return measured.median * runner.share
