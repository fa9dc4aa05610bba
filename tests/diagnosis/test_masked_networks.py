"""`plasticity_check` of a module that holds a network and its `HAT`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import gnt
from tests.helpers.small_runs import assert_same, mlp


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4, 8, 6, 3)
        self.hat = gnt.HAT(self.net, gnt.walk(self.net), generator=torch.Generator().manual_seed(1))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return output


def test_the_embedding_keeps_its_values_in_fresh_networks():
    module = Masked()
    optimizer = torch.optim.SGD(module.net.parameters(), lr=0.1)
    module.hat.begin(0, optimizer, steps_per_epoch=5)
    x, y = torch.randn(32, 4), torch.randint(3, (32,))
    before = {name: each.clone() for name, each in module.state_dict().items() if isinstance(each, Tensor)}
    found = gnt.plasticity_check(module, optimizer, (x, y), "cross_entropy", steps=2, seeds=2, progress=False)
    assert set(found.losses) >= {"present", "fresh"}
    assert_same({name: each for name, each in module.state_dict().items() if isinstance(each, Tensor)}, before)
    fresh = gnt.diagnosis._reinitialize.fresh_tensors(module, 3, None)
    assert_same(fresh["hat.embedding"], module.hat.embedding.detach())
    assert not fresh["net.0.weight"].equal(module.net[0].weight)
