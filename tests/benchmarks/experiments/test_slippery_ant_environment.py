"""Slippery ant's environment: equal to gymnasium's Ant, with changing friction and a complete state."""

from __future__ import annotations

import math
import sys

import gymnasium
import numpy as np
import pytest
import torch

from benchmarks.errors import CannotRun
from benchmarks.slippery_ant import requirements
from benchmarks.slippery_ant.environment import SlipperyAnt
from benchmarks.slippery_ant.friction import frictions
from benchmarks.slippery_ant.private_random_state import PrivateRandomState
from tests.benchmarks.experiments.ant_parts import actions, ant
from tests.benchmarks.resumed_training import through_a_file
from tests.helpers.small_runs import assert_same


def rollout(env, all_actions):
    """Results of all actions: what each step returns, and the friction afterwards. Some episodes are ended early."""
    seen = []
    for step, action in enumerate(all_actions, start=1):
        observation, reward, fallen, out_of_time, _ = env.step(action)
        if fallen or out_of_time or step % 50 == 0:
            observation, _ = env.reset()
        seen.append((observation.tolist(), reward, fallen, out_of_time, env.friction))
    return seen


@pytest.mark.parametrize("contact_forces", [True, False], ids=["105 numbers", "27 numbers"])
def test_with_standard_friction_it_equals_gymnasiums_ant_with_time_limit(contact_forces):
    ours = SlipperyAnt([1.0], 100, seed=7, contact_forces=contact_forces)
    theirs = gymnasium.make("Ant-v5", include_cfrc_ext_in_observation=contact_forces)
    theirs.reset(seed=7)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    np.testing.assert_array_equal(ours.reset()[0], theirs.reset()[0])
    still = [np.zeros(8, dtype=np.float32)] * 1001  # the ant stands until the time limit
    ends = []
    for step, action in enumerate([*still, *actions(1000)]):
        mine, its = ours.step(action), theirs.step(action)
        np.testing.assert_array_equal(mine[0], its[0])
        assert mine[1:4] == its[1:4]
        if mine[2] or mine[3]:
            ends.append((step, mine[2:4]))
            np.testing.assert_array_equal(ours.reset()[0], theirs.reset()[0])
    assert ends[0] == (999, (False, True))
    assert any(fallen for _, (fallen, _) in ends)
    assert [length for _, length in ours.finished] == np.diff([-1, *(step for step, _ in ends)]).tolist()


def test_friction_of_all_geoms_changes_at_the_end_of_the_episode_in_which_it_is_due():
    env = ant(change_every=150)
    env.reset()
    frictions_at, ended = [], [0]
    for step, action in enumerate(actions(1500), start=1):
        _, _, fallen, out_of_time, _ = env.step(action)
        sliding = env._ant.model.geom_friction
        assert set(sliding[:, 0]) == {env.friction}
        assert (sliding[:, 1:] == 0.5).all()
        frictions_at.append(env.friction)
        if fallen or out_of_time or step % 130 == 0:
            env.reset()
            ended.append(step)
    # for each step, the number of changes due when its episode started, at most three
    began = [max(end for end in ended if end < step) for step in range(1, 1501)]
    assert frictions_at == [[0.5, 0.02, 2.0, 0.1][min(at // 150, 3)] for at in began]
    assert len(set(frictions_at)) == 4


def slide(friction):
    """How far a resting ant slides after a push."""
    env = SlipperyAnt([friction], 10**6, seed=0)
    env.reset()
    for _ in range(60):  # the ant drops to its feet
        env.step(np.zeros(8, dtype=np.float32))
    data = env._ant.data
    begin = data.qpos[0].item()
    data.qvel[0] = 2.0
    for _ in range(40):
        env.step(np.zeros(8, dtype=np.float32))
    return data.qpos[0].item() - begin


def test_ants_slide_further_with_low_friction():
    assert slide(0.02) > 3 * slide(2.0) > 0


def test_frictions_are_log_uniform_and_depend_on_the_seed():
    drawn = frictions(0, 4000)
    assert min(drawn) >= 0.02
    assert max(drawn) <= 2.0
    shares = np.histogram(np.log(drawn), bins=4, range=(math.log(0.02), math.log(2)))[0] / 4000
    np.testing.assert_allclose(shares, 0.25, atol=0.03)
    assert frictions(0, 5) == drawn[:5]
    assert frictions(1, 5) != drawn[:5]


def test_a_restored_environment_continues_bit_for_bit():
    env = ant()
    env.reset()
    all_actions = actions(700)
    for begin in range(0, 600, 61):
        copy = ant(seed=4)
        copy.load_state_dict(through_a_file(env.state_dict()))
        assert rollout(copy, all_actions[begin : begin + 120]) == rollout(env, all_actions[begin : begin + 120])
        assert_same(copy.state_dict(), env.state_dict())
    assert env.steps == 1200
    assert env.finished
    assert env.friction == 0.1


def test_private_draws_do_not_affect_the_global_generators():
    def draw():
        return torch.rand(3).tolist(), np.random.permutation(9).tolist(), np.random.randn()

    torch.manual_seed(1)
    np.random.seed(1)
    undisturbed = [draw(), draw()]
    torch.manual_seed(1)
    np.random.seed(1)
    own, again, other = PrivateRandomState(0), PrivateRandomState(0), PrivateRandomState(1)
    first = draw()
    with own:
        begin = draw()
    saved = through_a_file(own.state_dict())
    with own:
        then = draw()
    assert [first, draw()] == undisturbed
    with again:
        assert draw() == begin
    with other:
        assert draw() != begin
    other.load_state_dict(saved)
    with other:
        assert draw() == then


@pytest.mark.parametrize("package", ["mujoco", "imageio", "stable_baselines3"])
def test_a_missing_package_is_reported_with_the_command_that_installs_it(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CannotRun) as error:
        requirements.check_installed()
    assert str(error.value).startswith(f"slippery_ant needs {package}, which cannot be imported (")
    assert str(error.value).endswith('To install what it needs: pip install "torch-gnt[rl]"')
