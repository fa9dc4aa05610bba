"""gnt.walk: groups of a list of layers, and the layers between producers and consumers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt


class WithLayers(nn.Module):
    def __init__(self, layers: nn.Module | list[nn.Module]) -> None:
        super().__init__()
        self.layers = layers


def layers() -> list[nn.Module]:
    return [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)]


def nested() -> nn.Sequential:
    a, relu, b, _, c = layers()
    return nn.Sequential(nn.Sequential(a, relu), nn.Sequential(nn.Sequential(b), relu), c)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (nn.Sequential(*layers()), ["0", "2"]),
        (nn.ModuleList(layers()), ["0", "2"]),
        (layers(), ["0", "2"]),
        (tuple(layers()), ["0", "2"]),
        (iter(layers()), ["0", "2"]),
        (WithLayers(nn.Sequential(*layers())), ["layers.0", "layers.2"]),
        (WithLayers(nn.ModuleList(layers())), ["layers.0", "layers.2"]),
        (WithLayers(layers()), ["layers.0", "layers.2"]),
        (WithLayers(WithLayers(nn.ModuleList(layers()))), ["layers.layers.0", "layers.layers.2"]),
        (nested(), ["0.0", "1.0.0"]),
        ([nested()], ["0.0.0", "0.1.0.0"]),
        ([layers()[0], F.relu, *layers()[2:]], ["0", "2"]),
        ([layers()[0], torch.relu, *layers()[2:]], ["0", "2"]),
        ([layers()[0], torch.relu_, *layers()[2:]], ["0", "2"]),
    ],
)
def test_every_kind_of_container_gives_the_same_groups(given, names):
    first, second = gnt.walk(given)
    assert [first.name, second.name] == names
    assert (first.num_units, second.num_units) == (8, 6)
    assert first.activation == second.activation == ("relu", None)
    assert first.consumers[0] is second.producer
    assert second.consumers[0].out_features == 2
    assert first.incoming[0].dim == 0
    assert first.outgoing[0].dim == 1


def conv(kind: int = 2, out: int = 6) -> nn.Module:
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[kind - 1](3, out, 3)


# list of layers, activation, number of per-unit modules, positions per unit
BETWEEN = {
    "functional tanh": ([nn.Linear(4, 6), torch.tanh, nn.Linear(6, 2)], "tanh", 0, 1),
    "gelu": ([nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)], "gelu", 0, 1),
    "batch norm": ([nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)], "relu", 1, 1),
    "norm after": ([nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 2)], "relu", 1, 1),
    "two norms": ([nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.RMSNorm(6), nn.Linear(6, 2)], "relu", 2, 1),
    "prelu": ([nn.Linear(4, 6), nn.PReLU(), nn.Linear(6, 2)], "prelu", 0, 1),
    "prelu per unit": ([nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 2)], "prelu", 1, 1),
    "no parameters": ([nn.Linear(4, 6), nn.Hardshrink(), nn.Linear(6, 2)], "Hardshrink", 0, 1),
    "a function": ([nn.Linear(4, 6), lambda x: x * x, nn.Linear(6, 2)], "<lambda>", 0, 1),
    "two activations": ([nn.Linear(4, 6), nn.Tanh(), nn.ReLU(), nn.Linear(6, 2)], "relu of tanh", 0, 1),
    "one twice": ([nn.Linear(4, 6), nn.ReLU(), F.relu, nn.Linear(6, 2)], "relu", 0, 1),
    "norm between two": ([nn.Linear(4, 6), nn.ReLU(), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2)], "relu", 1, 1),
    "dropout": ([nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), nn.Identity(), nn.Linear(6, 2)], "relu", 0, 1),
    "random function": ([nn.Linear(4, 6), F.relu, F.dropout, nn.Linear(6, 2)], "relu", 0, 1),
    "flatten": ([conv(), nn.ReLU(), nn.Flatten(), nn.Linear(54, 2)], "relu", 0, 9),
    "flatten function": ([conv(), F.relu, partial(torch.flatten, start_dim=1), nn.Linear(54, 2)], "relu", 0, 9),
    "unlisted view": ([conv(), nn.ReLU(), nn.MaxPool2d(2), nn.Linear(54, 2)], "relu", 0, 9),
    "norm over a view": ([conv(), nn.ReLU(), nn.BatchNorm1d(54), nn.Linear(54, 2)], "relu", 1, 9),
    "layer norm over a view": ([conv(), nn.ReLU(), nn.LayerNorm(54), nn.Linear(54, 2)], "relu", 1, 9),
    "norm within channels": ([conv(), nn.ReLU(), nn.LayerNorm((5, 5)), nn.Flatten(), nn.Linear(150, 2)], "relu", 0, 25),
    "pooled to one": ([conv(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)], "relu", 0, 1),
    "conv norms": ([conv(), nn.BatchNorm2d(6), nn.GroupNorm(2, 6), nn.SiLU(), nn.Conv2d(6, 2, 1)], "silu", 2, 1),
    "instance norm": ([conv(), nn.InstanceNorm2d(6, affine=True), nn.ReLU(), nn.Conv2d(6, 2, 1)], "relu", 1, 1),
    "conv layer norm": ([conv(), nn.LayerNorm((6, 5, 5)), nn.ReLU(), nn.Conv2d(6, 2, 1)], "relu", 1, 1),
    "upsampled": ([conv(), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(6, 2, 1)], "relu", 0, 1),
    "pooled by a function": ([conv(), F.relu, lambda x: F.max_pool2d(x, 2), nn.Conv2d(6, 2, 1)], "relu", 0, 1),
    "conv1d": ([conv(1), nn.ReLU(), nn.MaxPool1d(2), nn.BatchNorm1d(6), nn.Conv1d(6, 2, 1)], "relu", 1, 1),
    "conv3d": ([conv(3), nn.ReLU(), nn.AvgPool3d(2), nn.Dropout3d(), nn.Conv3d(6, 2, 1)], "relu", 0, 1),
    "grouped consumer": ([conv(), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2)], "relu", 0, 1),
    "embedding before": ([nn.Embedding(9, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)], "relu", 0, 1),
    "tail": ([nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.Unflatten(1, (2, 2))], "relu", 0, 1),
}


@pytest.mark.parametrize(("given", "activation", "norms", "block"), BETWEEN.values(), ids=BETWEEN)
def test_layers_between_producer_and_consumer_are_recognised(given, activation, norms, block):
    (group,) = gnt.walk(given)
    assert group.activation[0] == activation
    assert (group.num_units, len(group.norms), group.outgoing[0].block) == (6, norms, block)


class Noise(nn.Module):
    """A random module without parameters, which is probed; it counts its calls."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return x + torch.rand(1)


def test_probing_does_not_change_the_layer_and_the_generator():
    noise = Noise()
    layers = [nn.Linear(4, 6), F.relu, noise, nn.Linear(6, 2)]
    before = torch.get_rng_state()
    gnt.walk(layers)
    assert torch.equal(torch.get_rng_state(), before)
    assert noise.training
    assert noise.calls == 0


def test_in_a_sequential_a_linear_layer_does_not_read_the_channels_of_a_convolution_without_flatten():
    net = nn.Sequential(nn.Conv1d(1, 8, 3, padding=1), nn.ReLU(), nn.Linear(8, 2))
    assert net(torch.zeros(3, 1, 8)).shape == (3, 8, 2)  # its inputs are the positions
    with pytest.raises(
        gnt.units.WalkError, match=r"'2' \(Linear\) reads the last dimension .* '0' \(Conv1d\) .*Flatten\(\)"
    ):
        gnt.walk(net)
    assert gnt.walk(list(net))[0].outgoing[0].block == 1  # the forward that runs a list may flatten
    with_flatten = nn.Sequential(*net[:2], nn.Flatten(), nn.Linear(64, 2))
    assert gnt.walk(with_flatten)[0].outgoing[0].block == 8


def test_weights_that_share_a_part_of_their_memory_are_tied():
    first, second = nn.Linear(6, 6), nn.Linear(6, 3)
    second.weight = nn.Parameter(first.weight.data[3:])
    layers = [first, nn.ReLU(), second, nn.ReLU(), nn.Linear(3, 2)]
    with pytest.raises(gnt.units.WalkError, match=r"'0' and '2' share their weight \(tied weights\)"):
        gnt.walk(layers)
    flat = torch.randn(54)  # parameters may be parts of one tensor that do not overlap
    first.weight, second.weight = nn.Parameter(flat[:36].view(6, 6)), nn.Parameter(flat[36:].view(3, 6))
    assert len(gnt.walk(layers)) == 2


def test_the_activation_argument_applies_where_the_list_contains_none():
    plain = [nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)]
    assert [g.activation for g in gnt.walk(plain)] == [None, None]
    assert [g.activation for g in gnt.walk(plain, activation="tanh")] == [("tanh", None)] * 2
    assert [g.activation for g in gnt.walk(nn.ModuleList(plain), activation="Swish")] == [("silu", None)] * 2
    # a Sequential computes exactly its list, which contains no activation
    assert [g.activation for g in gnt.walk(nn.Sequential(*plain))] == [("identity", None)] * 2
    # the forward of a model may apply an activation between its layers
    assert [g.activation for g in gnt.walk(WithLayers(nn.Sequential(*plain)))] == [None, None]
    assert [g.activation for g in gnt.walk(nn.Sequential(*plain), activation="relu")] == [("relu", None)] * 2
    # activations in the list take precedence, except a function without known gain
    activated = [nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), lambda x: x.relu(), nn.Linear(5, 2)]
    assert [g.activation for g in gnt.walk(activated, activation="relu")] == [("tanh", None), ("relu", None)]


def test_leaky_activations_have_their_slope():
    activated = [nn.Linear(4, 6), nn.LeakyReLU(0.3), nn.Linear(6, 5), nn.RReLU(0.1, 0.3), nn.Linear(5, 2)]
    assert [g.activation for g in gnt.walk(activated)] == [("leaky_relu", 0.3), ("rrelu", 0.2)]


def test_a_group_prints_its_slots():
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 4, 3, groups=2), nn.Softplus(), nn.Flatten()),
        nn.Linear(36, 2, bias=False),
    )
    first, second = (str(group).splitlines() for group in gnt.walk(net))
    assert first == [
        "0: 6 units, relu",
        "  producer  0 Conv2d (rows)",
        "  norm      1 BatchNorm2d (rows)",
        "  consumer  3 Conv2d (columns, groups=2)",
    ]
    assert second == [
        "3: 4 units, softplus",
        "  producer  3 Conv2d (rows)",
        "  consumer  6 Linear (columns, 9 per unit), no bias: the mean feature is not transferred",
    ]
    assert str(gnt.walk(layers()[:1] + layers()[2:3])[0]).startswith("0: 8 units, unknown activation")


def test_groups_of_a_model_and_of_a_part_of_it_have_the_same_tensors():
    net = nested()
    (whole, _), (part,) = gnt.walk(net), gnt.walk([net[0], net[1][0]])
    assert [id(p) for _, p, _ in whole.slices()] == [id(p) for _, p, _ in part.slices()]
