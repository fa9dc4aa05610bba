"""`LaMAML` reproduces recorded runs of the authors' code (scripts/parity/record_la_maml.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gnt

ARRAYS = np.load(Path(__file__).with_name("memory") / "la_maml.npz")
META = json.loads(str(ARRAYS["meta"]))


@pytest.mark.parametrize("name", META["runs"])
def test_la_maml_trains_as_that_of_its_authors_on_the_same_drawn_items(name: str) -> None:
    x, y, drawn_x, drawn_y, weights, rates = (
        torch.from_numpy(ARRAYS[f"{name}/{key}"]) for key in ("x", "y", "drawn_x", "drawn_y", "weights", "rates")
    )
    hidden, (second_order, limit) = META["hidden"], META["runs"][name]
    layers = [nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3)]
    net = nn.Sequential(*layers).double()
    nn.utils.vector_to_parameters(weights[0], net.parameters())
    meta = gnt.LaMAML(
        net,
        gnt.ReplayBuffer(1),
        loss="cross_entropy",
        step_size=META["alpha_init"],
        rate_step=META["opt_lr"],
        first_order=not second_order,
        after_each=True,
        max_norm=limit,
    )
    for step in range(len(x)):
        meta.buffer = gnt.ReplayBuffer(len(x[0]) + len(drawn_x[0]))
        meta.buffer.add(drawn_x[step], drawn_y[step])
        meta.learn(x[step], y[step])
        found = [nn.utils.parameters_to_vector(net.parameters())]
        found.append(torch.cat([meta.rate(parameter).flatten() for parameter in net.parameters()]))
        for own, expected in zip(found, (weights[step + 1], rates[step]), strict=True):
            torch.testing.assert_close(own.detach(), expected, rtol=1e-9, atol=1e-12)
