# %% [markdown]
# # PPO of Stable-Baselines3, with replaced and dead units in TensorBoard
#
# Only two arguments differ from an ordinary script: `optimizer_class`, an optimizer that also replaces units of actor
# and critic, and `callback`, which writes figures of the units to SB3's logger, and so to TensorBoard.
#
# The task is CartPole. Half way the motor is connected the wrong way round: what pushed to the left now pushes to the
# right.

# %%
import tempfile
from pathlib import Path

import gymnasium
import matplotlib.pyplot as plt
import torch
from stable_baselines3 import PPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gnt.integrations.stable_baselines3 import CBPAdam, LogUnits

STEPS = 6144  # of the environment, before and after the change
SETTINGS = {"n_steps": 512, "batch_size": 64, "n_epochs": 8, "learning_rate": 1e-3, "device": "cpu", "seed": 0}

logs = Path(tempfile.mkdtemp())  # tensorboard --logdir shows them
cbp = {"optimizer_class": CBPAdam, "optimizer_kwargs": {"replacement_rate": 1e-3, "maturity_threshold": 200}}

# %% [markdown]
# A replacement rate of 1e-3 counts *updates* of the optimizer, not steps of the environment. Here 512 steps are
# followed by 8 epochs of 8 batches, so there is one update for every 8 steps.


# %%
def train(name, **policy):
    env = gymnasium.make("CartPole-v1")
    kwargs = {"net_arch": [64, 64], "activation_fn": torch.nn.ReLU, **policy}
    model = PPO("MlpPolicy", env, policy_kwargs=kwargs, tensorboard_log=str(logs), **SETTINGS)
    callback = LogUnits(every=512) if policy else None
    model.learn(STEPS, callback=callback, tb_log_name=name)
    env.unwrapped.force_mag *= -1
    return model.learn(STEPS, callback=callback, tb_log_name=name, reset_num_timesteps=False)


models = {"Adam": train("adam"), "CBPAdam": train("cbp", **cbp)}
print(models["CBPAdam"].policy.optimizer.gnt.report())

# %% [markdown]
# What TensorBoard shows, read back from its files:


# %%
def read(name, tag):
    """Steps and values of a tag, from all files of a run."""
    steps, values = [], []
    for folder in sorted(logs.glob(f"{name}_*")):
        for file in sorted(folder.iterdir()):
            events = EventAccumulator(str(file)).Reload()
            if tag in events.Tags()["scalars"]:
                steps += [event.step for event in events.Scalars(tag)]
                values += [event.value for event in events.Scalars(tag)]
    return steps, values


figure, axes = plt.subplots(1, 2)
for name, label in (("adam", "Adam"), ("cbp", "CBPAdam")):
    axes[0].plot(*read(name, "rollout/ep_rew_mean"), label=label)
for tag in ("gnt/replaced", "gnt/dead"):
    axes[1].plot(*read("cbp", tag), label=tag)
axes[0].set_title("Mean return")
axes[1].set_title("Units, CBPAdam")
for axis in axes:
    axis.axvline(STEPS, color="gray", linestyle=":")
    axis.set_xlabel("steps of the environment")
    axis.legend()
plt.show()
for name, label in (("adam", "Adam"), ("cbp", "CBPAdam")):
    steps, returns = read(name, "rollout/ep_rew_mean")
    before = [value for step, value in zip(steps, returns, strict=True) if step <= STEPS]
    print(f"{label:8} mean return just before the change {before[-1]:.0f}, at the end {returns[-1]:.0f}")

# %% [markdown]
# After the change both fall below the return of the first, random policy, and learn again. The one that replaces units
# is a little ahead at the end, 46 against 42, which means nothing with one seed. `gnt/dead` tells why no more is to be
# expected: hardly a unit dies in 12,000 steps. Where PPO loses plasticity in the paper, it trains for 20 to 50 million
# steps; `python -m benchmarks slippery_ant` is one of these experiments. Two lines with `LogUnits` show whether a run
# of yours gets there.
#
# [Trainers](../docs/trainers.md#stable-baselines3) has the other algorithms of Stable-Baselines3, and how to choose
# layers.
