"""Slippery ant's agent: PPO with the paper's settings, each method's optimizer, and a complete state."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gnt
from benchmarks.slippery_ant.ppo import Agent
from benchmarks.slippery_ant.settings import Settings
from gnt.optim import CBPAdam, CBPAdamW
from tests.benchmarks.experiments.ant_parts import ant, small
from tests.benchmarks.resumed_training import through_a_file
from tests.helpers.small_runs import assert_same


def agent(method="continual_backprop", seed=0, **settings):
    """An agent and its environment."""
    env = ant()
    return Agent(method, small(method, **settings), seed, env), env


def inner(made):
    """The Stable-Baselines3 object of the agent."""
    return made._ppo


def test_actor_and_critic_are_separate_with_lecun_weights_and_unit_deviation():
    made, _ = agent(width=256)
    policy = inner(made).policy
    assert [tuple(p.shape) for p in made.networks["policy"].parameters()][::2] == [(256, 105), (256, 256), (8, 256)]
    assert [tuple(p.shape) for p in made.networks["value"].parameters()][::2] == [(256, 105), (256, 256), (1, 256)]
    for net in made.networks.values():
        assert [type(layer).__name__ for layer in net] == ["Linear", "ReLU"] * 2 + ["Linear"]
        for weight, bias in zip(*[iter(net.parameters())] * 2, strict=True):
            bound = math.sqrt(3 / weight.shape[1])
            assert 0.95 * bound < weight.abs().max() <= bound
            assert weight.var().item() == pytest.approx(1 / weight.shape[1], rel=0.2)
            assert not bias.any()
    assert policy.log_std.tolist() == [0.0] * 8
    assert policy.log_std.requires_grad
    of_nets = {id(p) for net in made.networks.values() for p in net.parameters()}
    assert {id(p) for p in policy.parameters()} == of_nets | {id(policy.log_std)}
    seen = torch.randn(5, 105)
    torch.testing.assert_close(policy.predict_values(seen), made.networks["value"](seen), rtol=0, atol=0)
    torch.testing.assert_close(policy.get_distribution(seen).distribution.mean, made.networks["policy"](seen))


def test_learn_does_one_rollout_and_ten_passes_in_sixteen_minibatches():
    made, env = agent(epochs=10)
    batches = []
    made.networks["value"][0].register_forward_hook(
        lambda layer, args, output: batches.append(len(args[0])) if torch.is_grad_enabled() else None
    )
    made.learn()
    assert batches == [4] * 160
    assert env.steps == 64
    assert made.optimizer.gnt.updates == 160


def test_ppo_has_the_published_settings():
    ppo = inner(agent(lr=1e-4)[0])
    assert (ppo.gamma, ppo.gae_lambda, ppo.vf_coef, ppo.ent_coef) == (0.99, 0.95, 1.0, 0.0)
    assert ppo.clip_range(1.0) == ppo.clip_range(0.0) == 0.2
    assert ppo.lr_schedule(1.0) == ppo.lr_schedule(0.0) == 1e-4
    assert not ppo.normalize_advantage  # in each minibatch; it is done once per rollout
    assert ppo.clip_range_vf is None
    assert ppo.target_kl is None


def test_advantages_are_normalised_over_the_rollout_and_returns_are_not():
    made, _ = agent(rollout=256)
    ppo, last = inner(made), []
    of_state = ppo.policy.predict_values
    ppo.policy.predict_values = lambda seen: last.append(of_state(seen)) or last[-1]
    made.learn()
    buffer = ppo.rollout_buffer
    rewards, values, begins = (getattr(buffer, name)[:, 0] for name in ("rewards", "values", "episode_starts"))
    # generalised advantage estimation, from its definition
    following = np.append(values[1:], last[-1].item())
    goes_on = 1 - np.append(begins[1:], ppo._last_episode_starts[0])
    advantage, plain = 0.0, np.zeros(256)
    for step in reversed(range(256)):
        error = rewards[step] + 0.99 * following[step] * goes_on[step] - values[step]
        advantage = error + 0.99 * 0.95 * goes_on[step] * advantage
        plain[step] = advantage
    assert 0 < begins.sum() < 256
    # the buffer was flattened for the minibatches; with one environment this keeps the order
    np.testing.assert_allclose(buffer.returns[:, 0], plain + values, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(buffer.advantages[:, 0], (plain - plain.mean()) / plain.std(), rtol=1e-3, atol=1e-4)


def test_gradients_are_not_clipped():
    made, _ = agent()
    seen = []
    made.optimizer.register_step_pre_hook(
        lambda *_: seen.append(math.hypot(*(p.grad.norm().item() for p in inner(made).policy.parameters())))
    )
    made.learn()
    assert max(seen) > 5  # Stable-Baselines3's default limit is 0.5


@pytest.mark.parametrize("decay", ["adamw", "adam"])
@pytest.mark.parametrize("method", Settings.methods)
def test_optimizers_have_the_papers_settings(method, decay):
    optimizer = agent(method, decay=decay, lr=1e-4)[0].optimizer
    (options,) = optimizer.param_groups
    wanted = {
        "backprop": ((0.9, 0.999), 0.0),
        "proper_adam": ((0.99, 0.99), 0.0),
        "l2": ((0.99, 0.99), 1e-3),
        "redo": ((0.99, 0.99), 1e-4),
        "continual_backprop": ((0.99, 0.99), 1e-4),
    }
    assert (options["betas"], options["weight_decay"]) == wanted[method]
    assert options["lr"] == 1e-4
    assert options["decoupled_weight_decay"] == (decay == "adamw")
    kinds = {"adamw": CBPAdamW, "adam": CBPAdam}
    assert type(optimizer) is (kinds[decay] if method == "continual_backprop" else gnt.AdamGnT)


def test_units_of_both_networks_are_replaced():
    made, _ = agent()
    assert [group.name for group in made.groups] == ["policy_1", "policy_2", "value_1", "value_2"]
    for _ in range(3):
        made.learn()
    counts = [group.state.replaced for group in made.optimizer.gnt.groups]
    assert min(counts) > 5
    assert made.replaced == sum(counts)
    assert agent("l2")[0].replaced is None


def test_redo_replaces_units_that_are_dormant_in_the_latest_minibatch():
    made, _ = agent("redo", dormancy=0.3, period=20)
    redo, optimizer = made.redo, made.optimizer
    assert (redo.tau, redo.period) == (0.3, 20)
    features = {}
    for name, net in made.networks.items():
        for position in (1, 3):

            def keep(layer, args, output, key=(name, position)):
                if torch.is_grad_enabled():
                    features[key] = output.detach().abs().mean(0)

            net[position].register_forward_hook(keep)
    expected = []
    optimizer.register_step_pre_hook(
        lambda *_: expected.append([(mean <= 0.3 * mean.mean()).sum().item() for mean in features.values()])
    )
    found = []
    optimizer.register_step_post_hook(lambda *_: found.append([len(units) for units in redo.replaced]))
    made.learn()
    assert len(found) == 32
    assert found[19] == expected[19]
    assert sum(found[19]) > 0
    assert made.replaced == sum(map(sum, found)) == sum(found[19])
    assert agent("backprop")[0].redo is None


def test_initial_weights_depend_on_the_seed_but_not_on_the_method():
    first = {method: agent(method)[0] for method in Settings.methods}
    begin = first["backprop"].state_dict()["parameters"]
    for made in first.values():
        assert_same(made.state_dict()["parameters"], begin)
    assert not torch.equal(agent(seed=1)[0].networks["policy"][0].weight, first["l2"].networks["policy"][0].weight)


def full_state(made, env):
    """The state of agent and environment."""
    return {"agent": made.state_dict(), "env": env.state_dict()}


@pytest.mark.parametrize("method", ["backprop", "redo", "continual_backprop"])
def test_a_restored_agent_continues_bit_for_bit(method):
    own = {"dormancy": 0.3, "period": 10} if method == "redo" else {}
    made, env = agent(method, **own)
    for _ in range(5):
        again, its_env = agent(method, **own)
        saved = through_a_file(full_state(made, env))
        again.load_state_dict(saved["agent"])
        its_env.load_state_dict(saved["env"])
        torch.manual_seed(5)  # the global generators must not matter
        made.learn()
        np.random.seed(6)
        again.learn()
        assert_same(through_a_file(full_state(again, its_env)), through_a_file(full_state(made, env)))
    assert env.steps == 320
    assert env.finished
    assert made.replaced is None if method == "backprop" else made.replaced > 0


def test_non_finite_weights_or_outputs_raise_an_error():
    made, _ = agent("backprop", lr=1e30)
    with pytest.raises(FloatingPointError, match="are not finite any more"):
        made.learn()
