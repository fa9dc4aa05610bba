# %% [markdown]
# # Has my network lost plasticity?
#
# `gnt.plasticity_check` answers this for any model: it trains copies of your network and of a fresh one on new data,
# and compares how well they learn. Your network is not changed. Here the model is a small convolutional network that
# has been retrained, again and again, on digits whose labels were exchanged each time.

# %%
import torch
from sklearn.datasets import load_digits

import gnt

ROUNDS = 20
STEPS = 100
SEEDS = 3

images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
images = images.float().view(-1, 1, 8, 8) / 16


class Net(torch.nn.Module):
    """Stands for your own model: any module will do."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 8, 3)
        self.fc1 = torch.nn.Linear(72, 64)
        self.fc2 = torch.nn.Linear(64, 10)

    def forward(self, x):
        x = torch.nn.functional.max_pool2d(self.conv(x).relu(), 2)
        return self.fc2(self.fc1(x.flatten(1)).relu())


def adam(params):
    return torch.optim.Adam(params, lr=1e-2)


# %% [markdown]
# The past of the network: in each round the ten labels are exchanged at random, and it learns 500 digits with them.


# %%
def retrain(net, optimizer):
    stream = torch.Generator().manual_seed(1)
    for _ in range(ROUNDS):
        exchanged = torch.randperm(10, generator=stream)
        for batch in torch.randperm(len(images), generator=stream)[:500].repeat(3).split(20):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images[batch]), exchanged[labels[batch]]).backward()
            optimizer.step()


torch.manual_seed(0)
net = Net()
retrain(net, adam(net.parameters()))

# %% [markdown]
# The check needs the model, a function that makes the optimizer, data that are new to the network, and the loss. The
# new data are the next exchange of the labels. `lost` is the share of a fresh network's progress that the present one
# misses.

# %%
next_labels = torch.randperm(10, generator=torch.Generator().manual_seed(2))[labels]
data = (images, next_labels)
check = gnt.plasticity_check(net, adam, data, "cross_entropy", steps=STEPS, seeds=SEEDS, progress=False)
print(check)

# %%
check.plot()

# %% [markdown]
# `gnt.suggest` gives settings of continual backpropagation for a network and the length of its tasks. The same past,
# with them:

# %%
torch.manual_seed(0)
renewed = Net()
optimizer = adam(renewed.parameters())
groups = gnt.trace(renewed, images[:1])
found = gnt.suggest(groups, batch_size=20, steps_per_task=75)
print(found.settings)
gnt.GnT(groups, optimizer, **found.settings).attach()
retrain(renewed, optimizer)
after = gnt.plasticity_check(renewed, adam, data, "cross_entropy", steps=STEPS, seeds=SEEDS, progress=False)
print(after.sentence)

# %% [markdown]
# The verdict is "some": half of the progress is missed at first, and a part of it is caught up. Two thirds of the units
# of `fc1` are dead, and all weights have grown. But the copy with a fresh output layer learns as well as a fresh
# network, dead units or not, and a fresh output layer is the first thing that the check advises.
#
# Replacing hidden units did not help here: 65% is lost instead of 46%, and again most of it is due to the output layer.
# It has large weights for the labels as they were, and its units, the classes, are never replaced. Where new *inputs*
# come, as in [A network that dies](mlp_that_dies.md), it is the other way round: the hidden units are what fails, and
# replacing them is what helps.
