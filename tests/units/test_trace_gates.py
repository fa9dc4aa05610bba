"""Gates that units compute of themselves: a layer is a producer and a consumer of the same units."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from tests.units.tracing.group_checks import reasons, summary
from tests.units.tracing.soundness import sound_groups

VECTORS, IMAGES = torch.randn(5, 4), torch.randn(3, 4, 5, 5)


class Net(nn.Module):
    """Units of ``a`` with gates from ``b`` (and ``c``), read by ``out``."""

    def __init__(self, layer, forward, width=6):
        super().__init__()
        self.a, self.b, self.c, self.out = layer(4, 6), layer(width, width), layer(6, 6), layer(width, 3)
        self.own_forward = forward

    def forward(self, x):
        return self.own_forward(self, x)


def convolution(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 1)


def plain(net, x):
    h = F.relu(net.a(x))
    return net.out(h * torch.sigmoid(net.b(h)) + 0 * net.c(torch.zeros_like(h)).sum())


def without_activation(net, x):
    h = net.a(x)
    return net.out(h * torch.sigmoid(net.b(h)) + 0 * net.c(torch.zeros_like(h)).sum())


def effective_squeeze_excite(net, x):
    h = F.relu(net.a(x))
    return net.out(h * F.hardsigmoid(net.b(h.mean((2, 3), keepdim=True))) + 0 * net.c(torch.zeros_like(h)).sum())


def two_gates(net, x):
    h = F.relu(net.a(x))
    h = h * torch.sigmoid(net.b(h))
    return net.out(h * torch.sigmoid(net.c(h)))


def flipped_gate(net, x):
    h = F.relu(net.a(x))
    return net.out(h * torch.sigmoid(net.b(h)).flip(-1) + 0 * net.c(torch.zeros_like(h)).sum())


GATES = {
    "gate": (nn.Linear, plain, VECTORS, "6 relu: a b(sigmoid) > b out"),
    "gate of a layer without activation": (nn.Linear, without_activation, VECTORS, "6 identity: a b(sigmoid) > b out"),
    "effective squeeze-excite": (convolution, effective_squeeze_excite, IMAGES, "6 relu: a b(hardsigmoid) > b out"),
    "two gates": (nn.Linear, two_gates, VECTORS, "6 relu: a b(sigmoid) c(sigmoid) > b c out"),
    "gates in another order": (nn.Linear, flipped_gate, VECTORS, "6 relu: a b~(sigmoid) > b out"),
}


@pytest.mark.parametrize("case", GATES)
def test_a_layer_that_gates_its_own_inputs_belongs_to_their_units(case):
    layer, forward, x, expected = GATES[case]
    groups = sound_groups(Net(layer, forward), x)
    assert summary(groups)["a"] == expected
    reads = [slot.tap for slot in groups[0].outgoing]
    assert len(set(reads)) == len(reads)  # each consumer reads another value of the units, with another mean


def test_channel_attention_over_units_and_other_channels_is_divided():
    """As in CSP blocks: only some of the channels that are concatenated and gated are units."""

    def forward(net, x):
        h = torch.cat([F.silu(net.a(x)), x], 1)
        return net.out(
            h * F.hardsigmoid(net.b(h.mean((2, 3), keepdim=True))) + 0 * net.c(torch.zeros(1, 6, 1, 1)).sum()
        )

    groups = gnt.trace(Net(convolution, forward, width=10), IMAGES)
    assert summary(groups)["a"] == "6 silu: a b(hardsigmoid) > b out"
    assert "does not have the same units" in reasons(groups)["b[6:10]"]


def test_engines_train_with_a_gate():
    net = Net(nn.Linear, two_gates)
    optimizer = torch.optim.Adam(net.parameters())
    engine = gnt.GnT(gnt.trace(net, VECTORS), optimizer, replacement_rate=0.5, maturity_threshold=1)
    for _ in range(3):
        optimizer.zero_grad()
        net(VECTORS).square().mean().backward()
        optimizer.step()
        replaced = engine.step()[0]
    assert len(replaced)
    assert not net.out.weight[:, replaced].any()
    kept = [i for i in range(6) if i not in replaced]
    assert not net.b.weight[kept][:, replaced].any()
    assert net.b.weight[replaced].any()
