# %% [markdown]
# # A small GPT with tied embeddings and SwiGLU
#
# A transformer has no list of layers, so `gnt.trace` finds the units: it follows one example through the model. Here
# each block has a SwiGLU layer, in which a row of `gate` and a row of `up` together make one unit, and the output layer
# shares its weights with the embedding. The text is real, and changes: first the English of Python's documentation,
# then the code of some of its modules.

# %%
import argparse
import inspect
import pydoc_data.topics
import typing
import unittest.mock

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

import gnt

STEPS = 200
CONTEXT = 32
BATCH = 16
WIDTH = 64

english = "".join(pydoc_data.topics.topics.values()).encode("ascii", "ignore").decode()  # Python's own documentation
code = "".join(map(inspect.getsource, (argparse, typing, unittest.mock)))
letters = sorted(set(english + code))
number = {letter: i for i, letter in enumerate(letters)}
texts = [torch.tensor([number[letter] for letter in text]) for text in (english, code)]
print(f"{len(letters)} letters; {len(texts[0]):,} of English, {len(texts[1]):,} of code")


# %%
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.gate, self.up, self.down = nn.Linear(WIDTH, 128), nn.Linear(WIDTH, 128), nn.Linear(128, WIDTH)

    def forward(self, x):
        heads = self.qkv(self.norm1(x)).unflatten(-1, (3, 4, WIDTH // 4))  # 4 heads
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.position = nn.Embedding(len(letters), WIDTH), nn.Parameter(torch.zeros(CONTEXT, WIDTH))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, len(letters), bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.head.weight = self.embedding.weight  # tied

    def forward(self, tokens):
        return self.head(self.norm(self.blocks(self.embedding(tokens) + self.position)))


# %% [markdown]
# What can be replaced, and what cannot, with the reasons:

# %%
torch.manual_seed(0)
net = GPT()
print(gnt.trace(net, torch.zeros(1, CONTEXT, dtype=torch.long)))

# %% [markdown]
# Training with AdamW, and with `CBPAdamW`, which takes the network and an example in place of the parameters. The
# learning rate follows a warm-up for each text. The loss is measured on each batch before it is learned.


# %%
def train(rate):
    torch.manual_seed(0)
    net = GPT()
    if rate == 0:
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.1)
    else:
        example = torch.zeros(1, CONTEXT, dtype=torch.long)
        settings = {"replacement_rate": rate, "maturity_threshold": 50, "example_inputs": example}
        optimizer = gnt.optim.CBPAdamW(net, lr=2e-3, weight_decay=0.1, **settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step % STEPS + 1) / 20))
    losses = []
    for text in texts:
        for _ in range(STEPS):
            batch = torch.stack([text[i : i + CONTEXT + 1] for i in torch.randint(len(text) - CONTEXT, (BATCH,))])
            loss = F.cross_entropy(net(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return torch.tensor(losses), optimizer


results = {"AdamW": train(0), "CBPAdamW": train(1e-3)}
for name, (losses, _) in results.items():
    halves = losses.view(2, STEPS)[:, -50:].mean(1)
    print(f"{name:9} loss in the last 50 steps: English {halves[0]:.2f}, code {halves[1]:.2f}")
print(results["CBPAdamW"][1].gnt.report())

# %%
figure, axis = plt.subplots()
for name, (losses, _) in results.items():
    axis.plot(losses.unfold(0, 20, 5).mean(1), label=name)
axis.axvline(STEPS / 5, color="gray", linestyle=":")
axis.set(title="Loss of each batch before learning it: English, then code", xlabel="step / 5, means of 20")
axis.legend()
plt.show()

# %% [markdown]
# The two curves lie on each other, and so they should: in 400 steps this network loses no plasticity that new units
# could give back. What the example shows is that 42 of the 128 units of each SwiGLU layer were replaced on the way
# without harm, with tied embeddings, weight decay and a schedule. [The plasticity check](plasticity_check.md) tells
# whether a model of yours has a loss to repair.
