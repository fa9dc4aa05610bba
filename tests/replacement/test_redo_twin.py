"""ReDo against its literal twin: the same data and draws, step by step, in float64, with Adam's moments."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import gnt
from tests.twins.networks import NETWORKS, NORMS, WEIGHT_LAYERS, Builder, TwinNetworks, mlp1
from tests.twins.redo import ReDo

STEPS, PERIOD, TAU = 60, 4, 0.95


def near(found: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("build", NETWORKS)
def test_redo_equals_its_twin(build: Builder) -> None:
    pair = TwinNetworks(build)
    pair.opt = torch.optim.Adam(pair.net.parameters(), lr=0.01)
    pair.twin_opt = torch.optim.Adam(pair.twin_net.parameters(), lr=0.01)
    redo = gnt.ReDo(pair.net, pair.opt, tau=TAU, period=PERIOD, generator=torch.Generator().manual_seed(7))
    at = [i for i, module in enumerate(pair.twin_net) if isinstance(module, WEIGHT_LAYERS)]
    modules = [
        (pair.twin_net[a], pair.twin_net[b], [m for m in pair.twin_net[a:b] if isinstance(m, NORMS)])
        for a, b in pairwise(at)
    ]
    twin = ReDo(modules, pair.twin_opt, TAU, PERIOD, torch.Generator().manual_seed(7))
    count = adjacent = 0
    for t in range(STEPS):
        features = pair.learn()
        wanted = twin.step(features)
        found = redo.step()
        assert [units.tolist() for units in found] == wanted, f"step {t}"
        theirs = pair.twin_net.state_dict()
        for name, value in pair.net.state_dict().items():
            near(value, theirs[name], f"step {t}: {name}")
            theirs[name].copy_(value)
        for p, q in zip(pair.net.parameters(), pair.twin_net.parameters(), strict=True):
            for key, value in pair.opt.state[p].items():
                near(value, pair.twin_opt.state[q][key], f"step {t}: {key}")
                pair.twin_opt.state[q][key].copy_(value)
        count += sum(map(len, wanted))
        adjacent += any(a and b for a, b in pairwise(wanted))
    assert count > 10
    assert adjacent or build is mlp1
    assert [group.state.replaced for group in redo.groups] == [row[3] for row in redo.report().groups]
    assert sum(row[3] for row in redo.report().groups) == count
