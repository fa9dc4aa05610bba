"""The network of Permuted MNIST: fully connected layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import nn

from ..nets import mlp

PIXELS: Final = 784
CLASSES: Final = 10


def network_factory(hidden: str, init: str, device: str) -> Callable[[str], nn.Module]:
    """A function method -> network with layers 784-hidden-10, for ``hidden`` such as "300-150".

    Args:
        hidden: sizes of the hidden layers.
        init: "default" for torch's initial weights; "kaiming" for weights uniform in +-sqrt(6 / fan_in) in layers
            before a ReLU and +-sqrt(3 / fan_in) in the last one, and zero biases.
        device: the device of the network.
    """
    sizes = (PIXELS, *map(int, hidden.split("-")), CLASSES)

    def make(method: str) -> nn.Module:
        net = mlp(sizes, method)
        linear = [layer for layer in net if isinstance(layer, nn.Linear)]
        if init == "kaiming":
            for layer in linear:
                gain = nn.init.calculate_gain("linear" if layer is linear[-1] else "relu")
                bound = gain * (3 / layer.in_features) ** 0.5
                nn.init.uniform_(layer.weight, -bound, bound)
                nn.init.zeros_(layer.bias)
        return net.to(device)

    return make
