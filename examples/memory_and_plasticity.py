# %% [markdown]
# # EWC and continual backpropagation, together
#
# A network that learns one task after the other faces two problems. It forgets the old tasks, and it learns new ones
# less and less well. [EWC](../docs/memory.md#ewc-si-and-mas) works against the first: it holds the weights that old
# tasks need. It makes the second worse, because fewer and fewer weights are free. Continual backpropagation works
# against the second: it replaces the units that are used least.
#
# The tasks are the 1,797 handwritten digits of scikit-learn, with the pixels in a new order for each task. All tasks
# share one output layer, and the network is not told which task it is tested on.

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

import gnt

TASKS = 10
EPOCHS = 2
BATCH = 16

images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
images, labels = images[order].float() / 16, labels[order]
train, test = slice(1400), slice(1400, None)
pixels = [torch.randperm(64, generator=torch.Generator().manual_seed(task)) for task in range(TASKS)]

# %% [markdown]
# Both methods work beside the same optimizer. `methods=[ewc]` adds EWC's penalty to each step, and tells EWC which
# units were replaced, so that it no longer holds their old weights. With `protect=ewc` units that old tasks need are
# replaced later than others. At the end of a task, `end_task` measures which weights the task needs.


# %%
def make_learner(*, ewc=True, rate=0.0, protect=False):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    )
    methods = [gnt.EWC(net, strength=30.0, samples=200)] if ewc else []
    settings = {"loss": "cross_entropy", "opt": "adam", "step_size": 3e-3, "methods": methods}
    if rate == 0:
        return gnt.Backprop(net, **settings)
    settings["protect"] = methods[0] if protect else None
    return gnt.ContinualBackprop(net, replacement_rate=rate, maturity_threshold=50, **settings)


def run(learner):
    """Train on all tasks in turn; after each one test on it and on those before."""
    matrix = gnt.metrics.TaskMatrix(TASKS)
    stream = torch.Generator().manual_seed(1)
    for task in range(TASKS):
        x, y = images[train][:, pixels[task]], labels[train]
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(x), generator=stream).split(BATCH):
                learner.learn(x[batch], y[batch])
        learner.end_task(data=[(x, y)])
        with torch.no_grad():
            for old in range(task + 1):
                answers = learner.net(images[test][:, pixels[old]]).argmax(1)
                matrix.put(task, old, (answers == labels[test]).float().mean())
    return matrix


# %%
kinds = {
    "Adam": {"ewc": False},
    "EWC": {},
    "EWC + CBP 1e-4": {"rate": 1e-4},
    "EWC + CBP 1e-3": {"rate": 1e-3},
    "the same, protected": {"rate": 1e-3, "protect": True},
}
matrices = {name: run(make_learner(**kind)) for name, kind in kinds.items()}
print(f"{'':20}{'all tasks':>12}{'newest task':>14}{'old tasks':>12}")
for name, matrix in matrices.items():
    last = matrix.as_tensor()[-1]
    print(f"{name:20}{last.mean():12.0%}{last[-1]:14.0%}{last[:-1].mean():12.0%}")

# %% [markdown]
# The left picture shows how well each task is learned when it is new, the right one how much of all tasks so far is
# still known.

# %%
figure, axes = plt.subplots(1, 2)
for name, matrix in matrices.items():
    rows = matrix.as_tensor()
    axes[0].plot(range(1, TASKS + 1), rows.diagonal(), label=name)
    axes[1].plot(range(1, TASKS + 1), rows.nanmean(1), label=name)
axes[0].set(title="Newest task", xlabel="task")
axes[1].set(title="All tasks so far", xlabel="task")
for axis in axes:
    axis.yaxis.set_major_formatter("{x:.0%}")
axes[1].legend()
plt.show()

# %% [markdown]
# With EWC each new task is learned worse than the one before: 44% of the tenth, where plain Adam reaches 92%. Continual
# backpropagation makes room again, 55% with a rate of 1e-4 and 74% with 1e-3. But it has its price: of the old tasks
# 31% and 22% are left, in place of 34%. Protection lies between the two.
#
# On all tasks together EWC alone is the best of them here, and it is hardly better than Adam. So the two methods do not
# add up in this small run: replacement moves the balance from old tasks to new ones, and the rate says how far. In the
# larger experiment `permuted_tasks` (`benchmarks/RESULTS.md`, 20 tasks, ten seeds) EWC with a rate of 1e-4 ended 1.9%
# ± 1.6% above EWC alone on all tasks, and 10% above it on the newest. There, experience replay was far better than
# both, with continual backpropagation or without: if samples may be stored, [begin with
# replay](../docs/memory.md#which-method-to-choose).
