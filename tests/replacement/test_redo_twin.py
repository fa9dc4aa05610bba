"""ReDo against a literal reference implementation ("twin"): same data and draws, each step, float64, with Adam."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import gnt
from tests.twins.networks import NETWORKS, NORMS, WEIGHT_LAYERS, Builder, TwinNetworks, mlp1
from tests.twins.redo import ReDo

STEPS, PERIOD, TAU = 60, 4, 0.95


def assert_close(actual: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12, msg=lambda text: f"{name}: {text}")


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
        expected = twin.step(features)
        replaced = redo.step()
        assert [units.tolist() for units in replaced] == expected, f"step {t}"
        twin_state = pair.twin_net.state_dict()
        for name, value in pair.net.state_dict().items():
            assert_close(value, twin_state[name], f"step {t}: {name}")
            twin_state[name].copy_(value)
        for p, q in zip(pair.net.parameters(), pair.twin_net.parameters(), strict=True):
            for key, value in pair.opt.state[p].items():
                assert_close(value, pair.twin_opt.state[q][key], f"step {t}: {key}")
                pair.twin_opt.state[q][key].copy_(value)
        count += sum(map(len, expected))
        adjacent += any(a and b for a, b in pairwise(expected))
    assert count > 10
    assert adjacent or build is mlp1
    assert [group.state.replaced for group in redo.groups] == [row[3] for row in redo.report().groups]
    assert sum(row[3] for row in redo.report().groups) == count
