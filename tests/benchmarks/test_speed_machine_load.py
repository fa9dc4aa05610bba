"""Whether the machine was idle enough for the speed benchmark: limits of the load, and the load of other processes."""

import time

import pytest

from benchmarks.speed import cpu_counters
from benchmarks.speed.machine_load import LoadMonitor, MachineLoad


@pytest.mark.parametrize(
    ("values", "reasons"),
    [
        ((0.1, 0.02, 0.0, 0.01), []),
        ((None, None, None, None), []),
        ((0.8, 0.02, 0.0, 0.01), ["a load of 0.80 per core before the start"]),
        ((0.1, 0.5, 0.0, 0.01), ["other processes used 0.50 cores"]),
        ((0.1, 0.0, 0.03, 0.01), ["the hypervisor took 3.0% of the time"]),
        ((0.1, 0.0, 0.0, 0.25), ["the times of a fixed computation spread by 25%"]),
        ((9.0, 1.0, 0.5, 0.5), [None] * 4),
    ],
)
def test_each_load_value_has_its_limit(values, reasons):
    judged = MachineLoad(*values)
    found = judged.reasons()
    assert len(found) == len(reasons)
    assert all(want is None or got == want for got, want in zip(found, reasons, strict=True))
    assert judged.as_record()["quiet"] is (not reasons)


def test_load_of_others_excludes_this_process(tmp_path):
    ticks = 100
    stat = tmp_path / "stat"

    def write(user, steal):
        stat.write_text(f"cpu  {user} 0 0 5000 0 0 0 {steal} 0 0\ncpu0 0 0 0 0\n")

    write(1000, 10)
    monitor = LoadMonitor(proc_stat=stat)
    with monitor:
        write(1000 + 300 * ticks, 10 + 40 * ticks)  # as if another process had used 300 s
    assert monitor.others == pytest.approx(300, abs=5)  # minus the time of the reference computation in this process
    assert monitor.stolen == pytest.approx(40)
    assert cpu_counters.CpuCounters.read(stat) == cpu_counters.CpuCounters(busy=310.0, stolen=40.1)
    own = LoadMonitor(proc_stat=stat)
    with own:
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
    assert own.others <= -0.2  # according to the file nothing was busy
    assert own.machine_load(load_before=None).others == 0.0
    stat.write_text("nonsense")
    assert cpu_counters.CpuCounters.read(stat) is None
    with monitor:
        pass
    assert monitor.machine_load(load_before=0.1).others is None  # unknown is not idle


def test_spread_of_the_reference_times():
    monitor = LoadMonitor(reference=[1.0, 1.0, 2.0, 2.0], wall=1.0)
    assert monitor.machine_load(None).spread == pytest.approx(1.0 / 1.5)
