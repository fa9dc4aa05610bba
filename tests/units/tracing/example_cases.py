"""The groups and refusals that are expected for the networks of `example_nets`."""

from __future__ import annotations

from torch import nn

from tests.units.tracing import example_nets as nets
from tests.units.tracing.model_case import ATTENTION, OUTPUT, SHARED, SUM, Case, noise

EXAMPLES: dict[str, Case] = {
    "functional-mlp": Case(
        nets.FunctionalMLP, {"a": (6, "leaky_relu"), "b": (7, "tanh")}, {"head": OUTPUT}, (noise(3, 4),)
    ),
    "functional-conv": Case(
        nets.FunctionalConvNet,
        {"conv1": (4, "relu"), "conv2": (6, "elu"), "fc1": (8, "silu")},
        {"fc2": OUTPUT},
        (noise(2, 1, 14, 14),),
    ),
    "actor-critic": Case(
        nets.ActorCritic,
        {"trunk.0": (8, "tanh"), "trunk.2": (6, "tanh")},
        {"actor": OUTPUT, "critic": OUTPUT},
        (noise(3, 5),),
    ),
    "u-net": Case(
        nets.UNet,
        {"down1": (4, "relu"), "down2": (6, "relu"), "middle": (8, "relu"), "up2": (6, "relu"), "up1": (4, "relu")},
        {"out": OUTPUT},
        (noise(2, 2, 8, 8),),
    ),
    "dense-block": Case(
        lambda: nets.DenseBlock(norms=False),
        {"stem": (4, "relu"), "layers.?": (3, "relu")},
        {"head": OUTPUT},
        (noise(2, 2, 5, 5),),
    ),
    "dense-block-norms": Case(
        lambda: nets.DenseBlock(norms=True),
        {"stem": (4, "relu"), "layers.?": (3, "relu")},
        {"head": OUTPUT},
        (noise(2, 2, 5, 5),),
    ),
    "mixer": Case(
        nets.Mixer,
        {"token.0": (5, "gelu"), "channel.0": (9, "gelu")},
        {"embed": "mixed by 'token.0'", "token.3": SUM, "channel.3": SUM, "head": OUTPUT},
        (noise(2, 3, 8, 8),),
    ),
    "fused-gate": Case(nets.FusedGate, {"both": (6, "gelu")}, {"down": OUTPUT}, (noise(3, 4),)),
    "squeeze-excite": Case(
        nets.SqueezeExcite, {"conv": (6, "silu"), "reduce": (3, "relu")}, {"project": OUTPUT}, (noise(2, 2, 5, 5),)
    ),
    "shuffled": Case(
        nets.Shuffled,
        {"expand": (6, "relu"), "squeeze": (4, "relu")},
        {"head": OUTPUT},
        (noise(2, 4, 5, 5),),
        oracle=False,  # Torch-Pruning does not follow the permutation
    ),
    "generator": Case(nets.Generator, {"conv1": (4, "leaky_relu")}, {"start": ".", "conv2": OUTPUT}, (noise(3, 5),)),
    "shared-encoder": Case(
        nets.SharedEncoder,
        {"encoder": (6, "gelu"), "rebuild.0": (5, "relu")},
        {"classify": OUTPUT, "rebuild.2": OUTPUT},
        (noise(3, 4),),
    ),
    "transformer": Case(
        nets.Transformer,
        {"encoder.layers.?.linear1": (12, "relu")},
        {"*.self_attn": ATTENTION, "*.out_proj": SUM, "*.linear2": SUM, "head": OUTPUT},
        (noise(2, 5, 8),),
        oracle=False,
    ),
    "upscaler": Case(
        nets.Upscaler,
        {"third": (4, "relu")},
        {"first": "conv_transpose", "transposed": "transposed", "second": "mixed", "out": OUTPUT},
        (noise(2, 2, 4, 4),),
    ),
    "two-values": Case(nets.TwoValues, {"hidden": (5, "gelu")}, {"out": OUTPUT}, (noise(3, 4),)),
    "channel-multiplier": Case(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.Conv2d(6, 2, 1)
        ),
        {"0": (3, "relu")},
        {"4": OUTPUT},
        (noise(2, 2, 5, 5),),
        oracle=False,  # Torch-Pruning prunes one of the channels
    ),
    "recurrent": Case(
        nets.Recurrent, {"hidden": (6, "relu")}, {"embed": "rnn|LSTM|lstm", "rnn": "recurrent", "out": OUTPUT},
        (noise(2, 4, 3),), oracle=False,
    ),
    "siamese": Case(
        nets.Siamese, {"head.0": (7, "relu")}, {"tower.?": SHARED, "head.2": OUTPUT}, (noise(3, 4), noise(3, 4) + 1)
    ),
    "auxiliary-head": Case(
        nets.AuxiliaryHead,
        {"second": (5, "relu")},
        {"first": "training", "aux": OUTPUT, "head": OUTPUT},
        (noise(3, 4),),
    ),
    "tied": Case(nets.TiedAutoencoder, {"hidden": (5, "relu")}, {"encoder": SHARED, "out": OUTPUT}, (noise(3, 4),)),
}  # fmt: skip
