"""Resume: killed without warning, loaded in a fresh process, gone on, it ends bit for bit where it would have."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.helpers.small_runs import assert_same
from tests.replacement.resume_run import SAVE_EVERY, STEPS, build

ROOT = Path(__file__).parents[2]
SAVED = ("saved", "whole", "go-on")  # when the run was killed, and where it ended: without a break, and after one


def launch(what: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.replacement.resume_run", what, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def killed_after(steps: int, run: subprocess.Popen[str]) -> None:
    """Kill the run, somewhere behind its step number ``steps``."""
    assert run.stdout is not None
    for line in run.stdout:
        if int(line) == steps:
            break
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL


def states(saved: dict[str, Any]) -> list[dict[str, Any]]:
    """The engine's states of a run, whichever way it was used; layers have one each."""
    engines = [saved[key] for key in ("gnt", "engine") if key in saved]
    return engines or [value for key, value in saved["net"].items() if key.endswith("_extra_state")]


def test_killed_runs_end_where_they_would_have(tmp_path):
    whole, start = launch("whole", tmp_path), launch("start", tmp_path)
    killed_after(2 * SAVE_EVERY + 1, start)
    go_on = launch("go-on", tmp_path)
    for run in (whole, go_on):
        run.communicate()
        assert run.returncode == 0
    saved, unbroken, resumed = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in SAVED)
    assert 2 * SAVE_EVERY <= saved["steps"] < STEPS
    for name in build(0):
        assert_same(resumed[name], unbroken[name], name)
        before, after = ([group["replaced"] for engine in states(at[name]) for group in engine["groups"]]
                         for at in (saved, unbroken))  # fmt: skip
        assert len(before) == 3
        assert 0 < sum(before) < sum(after)


def test_the_fresh_process_began_elsewhere():
    for a, b in zip(build(0).values(), build(7).values(), strict=True):
        nets = [dict(run.state_dict()["net"]) for run in (a, b)]
        assert not torch.equal(*[net["0.weight"] for net in nets])
        assert not torch.equal(*[states(run.state_dict())[0]["generator"] for run in (a, b)])
