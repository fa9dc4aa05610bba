"""The progress display: bars in a terminal, lines in a log."""

import re
from pathlib import Path

from tests.helpers.commands import run_here
from tests.helpers.terminal import watch

COMMAND = ["slowly_changing_regression", "--methods", "l2", "--steps", 1900, "--bin", 380, "--workers", 2]
SWEEP = [*COMMAND, "--grid", "lr=.01,.003,.001"]
BAR = re.compile(r"^\S (\S.*?) +[━╸╺]*[━╸╺ ]* +(\d+)% (-:--:--|\d:\d\d:\d\d) ?(.*)$")


def bars(screen: list[str]) -> list[tuple[str, int, str, str]]:
    """Name, percentage, time and latest metrics of each bar on the screen."""
    found = (BAR.match(line) for line in screen)
    return [(m[1], int(m[2]), m[3], m[4]) for m in found if m]


def test_a_terminal_shows_a_bar_per_active_run_and_one_for_all(tmp_path: Path) -> None:
    status, screens = watch(*SWEEP, "--out", tmp_path)
    assert status == 0
    moving = [bars(screen) for screen in screens]
    for shown in moving:
        names = [name for name, *_ in shown]
        assert len(names) == len(set(names)) <= 3  # "all" and two active runs
        assert not names or names[0] == "all"
    assert {name for shown in moving for name, *_ in shown} == {"all"} | {
        f"L2, lr {lr}, seed 0" for lr in (0.01, 0.003, 0.001)
    }
    of_runs = [bar for shown in moving for bar in shown[1:]]
    assert any(re.match(r"\d:\d\d:\d\d", time) and percent < 100 for _, percent, time, _ in of_runs)  # remaining time
    assert any(re.match(r"error \d\.\d\d", latest) for *_, latest in of_runs)  # latest metrics
    percents = [shown[0][1] for shown in moving if shown]
    assert percents == sorted(percents)
    assert percents[0] == 0

    last = screens[-1]
    ((name, percent, _, count),) = bars(last)
    assert (name, percent, count) == ("all", 100, "3 of 3 runs")
    for once in ("slowly_changing_regression: steps", "Ctrl-C stops", "Squared error before each update", "Records:"):
        assert sum(once in line for line in last) == 1, last
    assert not any("step 380: squared error" in line for line in last)


def test_a_narrow_terminal_shows_one_bar_for_a_single_run(tmp_path: Path) -> None:
    status, screens = watch(*COMMAND, "--out", tmp_path, columns=70)
    assert status == 0
    shown = [bar for screen in screens for bar in bars(screen)]
    assert {name for name, *_ in shown} == {"L2, seed 0"}  # no bar for all runs
    assert any(re.match(r"\d:\d\d:\d\d", time) for _, _, time, _ in shown)
    assert len(bars(screens[-1])) == 1
    assert all(len(line) <= 70 for screen in screens for line in screen if BAR.match(line))


def test_quiet_mode_and_logs_have_lines_instead_of_bars(tmp_path: Path) -> None:
    status, screens = watch(*COMMAND, "--out", tmp_path / "terminal", "--quiet")
    assert status == 0
    assert not any(bars(screen) for screen in screens)
    output, _ = run_here(*COMMAND, "--out", tmp_path / "log")
    assert "\x1b" not in output
    for lines in (screens[-1], output.splitlines()):
        shown = [line for line in lines if line.startswith("L2, seed 0: step")]
        assert [line.split(":")[1] for line in shown] == [f" step {step:,}" for step in range(380, 1901, 380)]
