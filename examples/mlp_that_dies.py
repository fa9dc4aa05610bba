# %% [markdown]
# # A network that dies, and one that does not
#
# A small network reads a stream of real handwritten digits. Every so often the pixels are put in a new order, so that
# it has to learn the digits again: a *task*. Each image is used once within a task, and the network is tested on it
# before it learns from it.
#
# Two networks begin with the same weights and see the same stream. One is trained by Adam alone, the other by Adam with
# continual backpropagation, which replaces the least useful units with new ones. What to look for: the share of images
# that each network gets right, and how many of its units are dead, that is 0 for every image.

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

import gnt

TASKS = 40
BATCH = 16
RATE = 1e-2

images, labels = map(torch.from_numpy, load_digits(return_X_y=True))  # 1,797 digits of 8 x 8 pixels
images = images.float() / 16


def make_net():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10)
    )


# %% [markdown]
# The learning rate is high on purpose: the loss of plasticity then shows within seconds. Everything else is ordinary.
# `learn` is one step of training: it returns the loss, the output from before the step, and the units that were
# replaced.


# %%
def train(learner):
    """Train on all tasks; the share of right answers and of dead units in each."""
    stream = torch.Generator().manual_seed(1)
    accuracy, dead = [], []
    for _ in range(TASKS):
        x = images[:, torch.randperm(64, generator=stream)]
        right = 0
        for batch in torch.randperm(len(x), generator=stream).split(BATCH):
            step = learner.learn(x[batch], labels[batch])
            right += (step.output.argmax(1) == labels[batch]).sum().item()
        with torch.no_grad():
            first = learner.net[:2](x)
            features = torch.cat([first, learner.net[2:4](first)], 1)
        accuracy.append(right / len(x))
        dead.append(gnt.metrics.dead_units(features))
    return accuracy, dead


settings = {"loss": "cross_entropy", "opt": "adam", "step_size": RATE}
learners = {
    "Adam": gnt.Backprop(make_net(), **settings),
    "Adam + continual backprop": gnt.ContinualBackprop(make_net(), replacement_rate=1e-2, **settings),
}
results = {name: train(learner) for name, learner in learners.items()}
for name, (accuracy, dead) in results.items():
    print(f"{name:26} right in the first task {accuracy[0]:.0%}, in the last {accuracy[-1]:.0%}; dead {dead[-1]:.0%}")

# %%
figure, axes = plt.subplots(1, 2)
for name, values in results.items():
    for axis, series in zip(axes, values, strict=True):
        axis.plot(range(1, TASKS + 1), series, label=name)
for axis, title in zip(axes, ("Right before learning from the image", "Dead units"), strict=True):
    axis.set(title=title, xlabel="task", ylim=(0, 1))
    axis.yaxis.set_major_formatter("{x:.0%}")
axes[0].legend()
plt.show()

# %% [markdown]
# With Adam alone more than half of the units are dead after three tasks, and 84% at the end. The network gets a fifth
# to two fifths of the images of the last tasks right, where it got 78% in the first. With continual backpropagation it
# learns the last task as well as the first. Units still die at this learning rate, a sixth to a third of them in each
# task, but they do not stay dead.
#
# This is one seed, and a learning rate at which the loss is fast. At a lower one units die more slowly, and there is
# less to gain: [measure](../docs/diagnosis.md) before you decide. The replacement rate is high, too, as tasks are
# short: a unit lives for about two tasks.
#
# What the engine did:

# %%
print(learners["Adam + continual backprop"].gnt.report())
