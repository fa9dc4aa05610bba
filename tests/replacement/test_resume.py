"""A run that is killed and resumed in a new process ends in the same state as an uninterrupted run, bit for bit."""

from __future__ import annotations

import signal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from tests.helpers.fork_server import fork_server
from tests.helpers.small_runs import assert_same
from tests.replacement.resume_run import SAVE_EVERY, STEPS, build, main

FILES = ("checkpoint", "uninterrupted", "resume")


def launch(mode: str, folder: Path) -> tuple[BaseProcess, Connection]:
    """The process of a run, and the connection that its steps are read from."""
    steps, sender = fork_server().Pipe(duplex=False)
    process = fork_server().Process(target=main, args=(mode, folder, sender))
    process.start()
    sender.close()
    return process, steps


def kill_after(count: int, process: BaseProcess, steps: Connection) -> None:
    """Kill the run after at least ``count`` steps."""
    while steps.recv() < count:
        pass
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def engine_states(saved: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of all engines in the saved state of a run; CBP layers have one each."""
    engines = [saved[key] for key in ("gnt", "engine") if key in saved]
    return engines or [value for key, value in saved["net"].items() if key.endswith("_extra_state")]


def test_resumed_runs_equal_uninterrupted_runs(tmp_path):
    uninterrupted, start = launch("uninterrupted", tmp_path), launch("start", tmp_path)
    kill_after(2 * SAVE_EVERY + 1, *start)
    resumed = launch("resume", tmp_path)
    for process, _ in (uninterrupted, resumed):
        process.join()
        assert process.exitcode == 0
    checkpoint, expected, actual = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in FILES)
    assert 2 * SAVE_EVERY <= checkpoint["steps"] < STEPS
    for name in build(0):
        assert_same(actual[name], expected[name], name)
        before, after = ([group["replaced"] for engine in engine_states(at[name]) for group in engine["groups"]]
                         for at in (checkpoint, expected))  # fmt: skip
        assert len(before) == 3
        assert 0 < sum(before) < sum(after)


def test_runs_of_different_seeds_start_with_different_weights_and_generators():
    for a, b in zip(build(0).values(), build(7).values(), strict=True):
        nets = [dict(run.state_dict()["net"]) for run in (a, b)]
        assert not torch.equal(*[net["0.weight"] for net in nets])
        assert not torch.equal(*[engine_states(run.state_dict())[0]["generator"] for run in (a, b)])
