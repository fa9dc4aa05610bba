"""The network of Slowly-Changing Regression: 5 hidden units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from torch import nn

from .inputs import BITS

HIDDEN: Final = 5

Nonlinearity = Literal["sigmoid", "tanh", "relu", "leaky_relu", "linear"]  # of `torch.nn.init.calculate_gain`

# activation -> module, and the nonlinearity whose gain the authors use for the Kaiming-uniform distribution
ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], Nonlinearity]] = {
    "sigmoid": (nn.Sigmoid, "sigmoid"),
    "tanh": (nn.Tanh, "tanh"),
    "elu": (nn.ELU, "relu"),
    "relu": (nn.ReLU, "relu"),
    "leaky_relu": (nn.LeakyReLU, "leaky_relu"),
    "swish": (nn.SiLU, "relu"),
    "linear": (nn.Identity, "linear"),
}


def network_factory(activation: str) -> Callable[[str], nn.Sequential]:
    """A function method -> 20-5-1 network with this activation: Kaiming-uniform hidden weights, outgoing weights
    uniform in +-sqrt(3/5), zero biases.
    """
    module, nonlinearity = ACTIVATIONS[activation]

    def make(method: str) -> nn.Sequential:
        net = nn.Sequential(nn.Linear(BITS, HIDDEN), module(), nn.Linear(HIDDEN, 1))
        for layer, gain in ((net[0], nn.init.calculate_gain(nonlinearity)), (net[2], 1.0)):
            assert isinstance(layer, nn.Linear)
            bound = gain * (3 / layer.in_features) ** 0.5
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)
        return net

    return make
