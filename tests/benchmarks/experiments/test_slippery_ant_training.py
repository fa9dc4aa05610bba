"""The training loop of slippery ant: settings, rows and resuming."""

from __future__ import annotations

import argparse
import json
import random

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from benchmarks.comparison_picture import scale_axes
from benchmarks.errors import CannotRun
from benchmarks.slippery_ant.display import DISPLAY
from benchmarks.slippery_ant.friction import frictions
from benchmarks.slippery_ant.settings import Settings
from benchmarks.slippery_ant.training import Training
from tests.benchmarks.experiments.ant_parts import SMALL, small
from tests.benchmarks.resumed_training import through_a_file
from tests.helpers.commands import checkpoints, finish, kill, start, until

TINY = 5e-5  # 1,000 steps, a change of friction every 100


def training(method="continual_backprop", seed=0, **changed):
    """A training loop of 16 pieces."""
    return Training(small(method, **{"scale": TINY, **changed}), method, [seed])


def lines(rows):
    """Rows as in a record."""
    return [json.dumps(row, allow_nan=False) for row in rows]


@pytest.fixture(scope="module")
def uninterrupted():
    """The training loop after an uninterrupted run, and its rows, for each method."""
    made = {}
    for method in ("backprop", "continual_backprop"):
        whole = training(method)
        made[method] = whole, [row for _ in range(whole.total) for row in whole.advance()]
    return made


@pytest.mark.parametrize("method", ["backprop", "continual_backprop"])
def test_training_interrupted_at_random_pieces_gives_the_same_rows(method, uninterrupted):
    chance = random.Random(5)
    made, rows = training(method), []
    while made.done < made.total:
        rows += made.advance()
        if chance.random() < 0.3:
            saved = through_a_file(made.state_dict())
            rows_then = len(rows)
            for _ in range(
                min(chance.randrange(3), made.total - made.done)
            ):  # trained, but not saved before the interruption
                rows += made.advance()
            del rows[rows_then:]
            torch.manual_seed(chance.randrange(100))
            np.random.seed(chance.randrange(100))
            made = training(method)
            made.load_state_dict(saved)
    assert lines(rows) == lines(uninterrupted[method][1])


def test_rows_contain_steps_frictions_episodes_and_metrics_of_both_networks(uninterrupted):
    for method, (made, rows) in uninterrupted.items():
        assert [row["step"] for row in rows] == list(range(64, 1025, 64))
        assert {row["seed"] for row in rows} == {0}
        assert {row["friction"] for row in rows} <= set(frictions(0, 10))
        assert len({row["friction"] for row in rows}) > 2
        ended = sum(row["episodes"] for row in rows)
        steps = sum(row["episodes"] * row["mean_length"] for row in rows)
        assert ended > 2
        assert steps + made._ant.current_episode[1] == pytest.approx(1024)
        for name in ("dead_units", "dormant_units", "effective_rank", "nature_rank", "weight_magnitude"):
            assert {f"{name}/{group}" for group in ("policy_1", "policy_2", "value_1", "value_2")} <= rows[-1].keys()
        assert all(row.keys() == rows[0].keys() for row in rows)
        assert ("replaced" in rows[0]) == (method == "continual_backprop")
    replaced = [row["replaced"] for row in uninterrupted["continual_backprop"][1]]
    assert replaced == sorted(replaced)
    assert replaced[-1] > 10


def test_frictions_depend_on_the_seed_but_not_on_the_method(uninterrupted):
    first = training("backprop", seed=1).advance()[0]
    assert uninterrupted["backprop"][1][0]["friction"] == uninterrupted["continual_backprop"][1][0]["friction"]
    assert first["friction"] == frictions(1, 1)[0] != frictions(0, 1)[0]
    assert first["seed"] == 1


def test_fixed_friction_is_that_of_the_original_ant():
    made = training("backprop", friction="fixed", contact_forces="no")
    assert {row["friction"] for _ in range(5) for row in made.advance()} == {1.0}


def test_probe_observations_depend_on_the_seed_but_not_on_the_method():
    one, again, other = (training(method, seed=seed)._probe for method, seed in (("l2", 0), ("backprop", 0), ("l2", 1)))
    assert one.measure() == again.measure() != other.measure()


def test_a_checkpoint_of_another_mujoco_version_is_refused():
    made = training("backprop")
    saved = through_a_file(made.state_dict())
    saved["versions"]["mujoco"] = "2.3.7"
    with pytest.raises(CannotRun, match=r"started with mujoco 2\.3\.7; this is mujoco \d.*--fresh"):
        made.load_state_dict(saved)


@pytest.mark.parametrize(
    ("size", "rollouts", "change_every", "rollouts_per_row"),
    [("quick", 98, 20_000, 1), ("published", 9766, 2_000_000, 49)],
)
def test_scale_determines_the_schedule(size, rollouts, change_every, rollouts_per_row):
    settings = Settings.of("continual_backprop", size)
    assert (settings.rollouts, settings.change_every) == (rollouts, change_every)
    assert settings.rollouts_per_row == rollouts_per_row
    assert (settings.rollout, settings.epochs, settings.width, settings.probe) == (2048, 10, 256, 2000)
    assert (settings.lr, settings.weight_decay) == (1e-4, 1e-4)
    assert (settings.replacement_rate, settings.maturity_threshold, settings.utility) == (1e-4, 10_000, "contribution")
    assert Settings.of("l2", size).weight_decay == 1e-3


def test_the_smallest_scale_gives_one_rollout():
    settings = Settings.of("backprop", scale=1e-9)
    assert (settings.rollouts, settings.change_every, settings.rollouts_per_row) == (1, 1, 1)


@pytest.mark.parametrize("text", ["0", "16", "100", "64.0", "-64", "many"])
def test_rollouts_must_divide_into_minibatches(text):
    with pytest.raises(argparse.ArgumentTypeError, match="multiple of 16"):
        Settings.field("rollout").metadata["check"](text)
    assert Settings.field("rollout").metadata["check"]("64") == 64


FLAGS = ["--scale", TINY, "--methods", "continual_backprop", "--checkpoint-every", 0, "--quiet"]
FLAGS += [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]


def test_a_killed_command_continues_to_the_same_record(uninterrupted, tmp_path):
    command = ["slippery_ant", *FLAGS, "--out", tmp_path]
    strict = {"PYTHONWARNINGS": "error"}
    process = start(*command, environment=strict)
    until(lambda: bool(checkpoints(tmp_path)), process)
    kill(process)
    (record,) = tmp_path.rglob("record.jsonl")
    assert '"end"' not in record.read_text()  # otherwise the kill came too late
    _, errors = finish(start(*command, environment=strict))
    assert errors == ""
    _, *rows, end = record.read_text().splitlines()
    assert rows == lines(uninterrupted["continual_backprop"][1])
    assert json.loads(end) == {"end": len(rows)}


def test_pictures_show_negative_returns():
    axes = Figure().subplots()
    axes.plot([0, 1], [-104.0, -100.0])
    scale_axes(axes, DISPLAY.main, [(-104.0, 0.0), (-100.0, 0.0)])
    low, high = axes.get_ylim()
    assert low < -104 < -100 < high
