"""gnt.trace finds every group of hidden units, with all slots, in small models of many architectures."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from tests.units.tracing.group_checks import assert_complete, reasons, summary


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3, self.norm = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2), nn.BatchNorm1d(8)

    def forward(self, x):
        x = F.dropout(F.relu(self.norm(self.fc1(x))), 0.1, self.training)
        return self.fc3(torch.tanh(self.fc2(x)))


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(8)
        self.conv2, self.slope = nn.Conv2d(8, 6, 3, groups=2), nn.PReLU(6)
        self.fc1, self.fc2 = nn.Linear(6 * 9, 5), nn.Linear(5, 2)

    def forward(self, x):
        x = F.max_pool2d(F.leaky_relu(self.norm(self.conv1(x)), 0.2), 2)
        x = F.adaptive_avg_pool2d(self.slope(self.conv2(x)), 3)
        return self.fc2(F.selu(self.fc1(x.flatten(1))))


class Basic(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv1, self.norm1 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv2, self.norm2, self.fc = nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6, 2)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


class Bottleneck(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 6, 1)

    def forward(self, x):
        return x + self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 2)
        self.norm1, self.tokens1, self.tokens2 = nn.LayerNorm(6), nn.Linear(16, 10), nn.Linear(10, 16)
        self.norm2, self.channels1, self.channels2 = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.tokens2(F.gelu(self.tokens1(self.norm1(x).transpose(1, 2)))).transpose(1, 2)
        x = x + self.channels2(F.gelu(self.channels1(self.norm2(x))))
        return self.head(x.mean(1))


class Gelu(nn.Module):
    """Written by hand, as in GPT-2."""

    def forward(self, x):
        return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0))))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.norm1, self.norm2, self.fc1, self.fc2 = (
            nn.LayerNorm(8),
            nn.LayerNorm(8),
            nn.Linear(8, 16),
            nn.Linear(16, 8),
        )
        self.act = Gelu()

    def forward(self, x):
        y = self.norm1(x)
        q, k, v = (p(y).unflatten(-1, (2, 4)).transpose(1, 2) for p in (self.query, self.key, self.value))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class SwiGlu(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        return x + self.down(self.up(x) * F.silu(self.gate(x)))


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up, self.down = nn.Linear(4, 12), nn.Linear(6, 4)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(gate * torch.sigmoid(gate) * up)


class Interleaved(Fused):
    def forward(self, x):
        both = self.gate_up(x)
        return self.down((both[..., 1::2] + 1) * F.gelu(both[..., ::2]))


class Glu(Fused):
    def forward(self, x):
        return self.down(F.glu(self.gate_up(x)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.middle, self.up1, self.out = (
            nn.Conv2d(5, 6, 3, padding=1), nn.Conv2d(11, 4, 3, padding=1), nn.Conv2d(8, 2, 1),
        )  # fmt: skip

    def forward(self, x):
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        c = F.interpolate(F.relu(self.middle(F.max_pool2d(b, 2))), scale_factor=2)
        c = F.interpolate(F.relu(self.up1(torch.cat([c, b], 1))), scale_factor=2, mode="bilinear")
        return self.out(torch.cat([c, a], 1))


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv0, self.conv1, self.conv2 = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 8))
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(c) for c in (4, 8, 12))
        self.fc = nn.Linear(12, 2)

    def forward(self, x):
        x = self.conv0(x)
        x = torch.cat([x, self.conv1(F.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.conv2(F.relu(self.norm2(x)))], 1)
        return self.fc(F.relu(self.norm3(x)).mean((2, 3)))


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.actor, self.critic = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x):
        h = torch.tanh(self.trunk(x))
        return self.actor(h), self.critic(h)


class Inverted(nn.Module):
    """A depthwise convolution and a squeeze-excite gate between expansion and projection."""

    def __init__(self, multiplier=1):
        super().__init__()
        wide = 6 * multiplier
        self.expand, self.norm1 = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.depth, self.norm2 = nn.Conv2d(6, wide, 3, padding=1, groups=6), nn.BatchNorm2d(wide)
        self.squeeze, self.excite, self.project = nn.Conv2d(wide, 2, 1), nn.Conv2d(2, wide, 1), nn.Conv2d(wide, 3, 1)

    def forward(self, x):
        h = F.hardswish(self.norm2(self.depth(F.hardswish(self.norm1(self.expand(x))))))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(h.mean((2, 3), keepdim=True)))))
        return x + self.project(h * gate)


class ConvNeXt(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head, self.scale = nn.Conv2d(3, 6, 2, 2), nn.Linear(6, 2), nn.Parameter(torch.ones(6))
        self.depth, self.norm = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.LayerNorm(6)
        self.wide, self.narrow = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        x = x + (self.scale * self.narrow(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


class TwoDecoders(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 6), nn.ELU())
        self.left, self.right = (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)) for _ in range(2))

    def forward(self, x):
        code = self.encoder(x)
        return self.left(code), self.right(code)


class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = (
            nn.Conv2d(4, 12, 1, groups=2),
            nn.BatchNorm2d(12),
            nn.Conv2d(12, 4, 1, groups=2),
        )
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12)

    def forward(self, x):
        h = F.relu(self.norm(self.first(x)))
        h = h.unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2)
        return x + self.last(self.depth(h))


class Concatenated(nn.Module):
    """The input of a layer contains two different values of the same units."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(12, 3)

    def forward(self, x):
        h = self.first(x)
        return self.last(torch.cat([F.relu(h), F.relu(-h)], -1))


class Halves(nn.Module):
    """The two halves of one layer have different activations and consumers."""

    def __init__(self):
        super().__init__()
        self.first, self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        left, right = self.first(x).split(4, -1)
        return self.a(F.relu(left)) + self.b(torch.tanh(right))


FAMILIES = {
    "mlp": (Mlp, (5, 4), {"fc1": "8 relu: fc1 > norm > fc2", "fc2": "6 tanh: fc2 > fc3"}),
    "conv": (
        ConvNet, (2, 3, 12, 12),
        {
            "conv1": "8 leaky_relu: conv1 > norm > conv2/2",
            "conv2": "6 prelu: conv2 > slope > fc1*9",
            "fc1": "5 selu: fc1 > fc2",
        },
    ),
    "resnet basic": (Basic, (2, 3, 8, 8), {"conv1": "5 relu: conv1 > norm1 > conv2"}),
    "resnet bottleneck": (
        Bottleneck, (2, 6, 5, 5), {"conv1": "4 relu: conv1 > conv2", "conv2": "5 relu: conv2 > conv3"},
    ),
    "mixer": (
        Mixer, (2, 3, 16, 16),
        {"tokens1": "10 gelu: tokens1 > tokens2", "channels1": "12 gelu: channels1 > channels2"},
    ),
    "transformer": (Block, (2, 5, 8), {"fc1": "16 gelu: fc1 > fc2"}),
    "swiglu": (SwiGlu, (3, 4), {"gate": "6 silu: gate up(identity) > down"}),
    "swiglu fused": (Fused, (3, 4), {"gate_up": "6 silu: gate_up gate_up+6(identity) > down"}),
    "geglu interleaved": (Interleaved, (3, 4), {"gate_up": "6 gelu: gate_up~ gate_up~(identity) > down"}),
    "glu": (Glu, (3, 4), {"gate_up": "6 sigmoid: gate_up+6 gate_up(identity) > down"}),
    "unet": (
        UNet, (2, 3, 8, 8),
        {
            "down1": "4 relu: down1 > down2 out+4",
            "down2": "5 relu: down2 > middle up1+6",
            "middle": "6 relu: middle > up1",
            "up1": "4 relu: up1 > out",
        },
    ),
    "densenet": (
        DenseNet, (2, 3, 6, 6),
        {
            "conv0": "4 relu: conv0 > norm1 norm2 norm3 > conv1 conv2 fc",
            "conv1": "4 relu: conv1 > norm2+4 norm3+4 > conv2+4 fc+4",
            "conv2": "4 relu: conv2 > norm3+8 > fc+8",
        },
    ),
    "actor and critic": (ActorCritic, (3, 4), {"trunk": "8 tanh: trunk > actor critic"}),
    "depthwise, squeeze-excite": (
        Inverted, (2, 3, 6, 6),
        {
            "expand": "6 hardswish: expand excite(hardsigmoid) > norm1 depth norm2 > squeeze project",
            "squeeze": "2 relu: squeeze > excite",
        },
    ),
    "depthwise of two channels each": (
        lambda: Inverted(2), (2, 3, 6, 6),
        {
            "expand": "6 hardswish: expand > norm1 > depth/6",
            "depth": "12 hardswish: depth excite(hardsigmoid) > norm2 > squeeze project",
            "squeeze": "2 relu: squeeze > excite",
        },
    ),
    "convnext": (
        ConvNeXt, (2, 3, 8, 8), {"depth": "6 identity: depth > norm > wide", "wide": "12 gelu: wide > narrow"},
    ),
    "shared encoder": (
        TwoDecoders, (3, 4),
        {
            "encoder.0": "8 silu: encoder.0 > encoder.2",
            "encoder.2": "6 elu: encoder.2 > left.0 right.0",
            "left.0": "5 relu: left.0 > left.2",
            "right.0": "5 relu: right.0 > right.2",
        },
    ),
    "channel shuffle": (Shuffle, (2, 4, 5, 5), {"first": "12 relu: first > norm depth~ > last~/2"}),
    "concatenated with itself": (Concatenated, (3, 4), {"first": "6 relu: first > last last+6"}),
    "halves": (Halves, (3, 4), {"first[0:4]": "4 relu: first > a", "first[4:8]": "4 tanh: first+4 > b"}),
}  # fmt: skip


@functools.cache
def _traced(family):
    torch.manual_seed(0)
    build, shape, _ = FAMILIES[family]
    model, x = build(), torch.randn(shape)
    return model, x, gnt.trace(model, x)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_group_is_found_with_all_slots(family):
    assert summary(_traced(family)[2]) == FAMILIES[family][2]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_consumers_of_every_group_are_complete(family):
    model, x, groups = _traced(family)
    assert_complete(model, groups, x)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_layer_is_in_a_group_or_refused(family):
    model, _, groups = _traced(family)
    named = {slot.name for group in groups for slot in (*group.incoming, *group.scales)} | {*reasons(groups)}
    assert {name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))} <= named


@pytest.mark.parametrize("family", FAMILIES)
def test_an_engine_accepts_the_groups(family):
    model, x, groups = copy.deepcopy(_traced(family))
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01)
    engine = gnt.GnT(groups, optimizer, replacement_rate=0.3, maturity_threshold=1)
    for _ in range(4):
        optimizer.zero_grad()
        outputs = model(x)
        sum(out.square().mean() for out in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
        optimizer.step()
        engine.step()
    assert all(group.state.replaced for group in engine.groups)


def test_consumers_of_the_same_value_have_the_same_tap():
    (trunk,) = _traced("actor and critic")[2]
    assert [slot.tap for slot in trunk.outgoing] == [0, 0]
    for family in ("unet", "concatenated with itself"):
        assert [slot.tap for slot in _traced(family)[2][0].outgoing] == [0, 1]


def test_scattered_positions_follow_the_shuffle():
    (group,) = _traced("channel shuffle")[2]
    order = torch.arange(12).unflatten(0, (3, 4)).T.flatten()  # position -> unit
    consumer = group.outgoing[0].positions
    assert consumer is not None
    assert torch.equal(order[consumer.flatten()], torch.arange(12))


@pytest.mark.parametrize("drop", [nn.Dropout, nn.AlphaDropout, nn.Dropout1d])
@pytest.mark.parametrize("inplace", [False, True])
def test_dropout_of_any_kind_keeps_units_separate(drop, inplace):
    """In-place dropout is exported as a product with a mask of the features' shape, which is not a residual stream."""
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), drop(0.2, inplace=inplace), nn.Linear(8, 2))
    groups = gnt.trace(net, torch.randn(3, 4))
    assert [(group.name, group.consumers) for group in groups] == [("0", (net[3],))]
