"""The known distributions that `init="auto"` compares a layer's weights with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gnt.initialization._distribution import CUT_VARIANCE, SMALL_STD, Distribution, Kind
from gnt.initialization._names import fans
from gnt.units import Activation, Slot, activation_gain

RARE = 3.0  # disadvantage, in units of the log-likelihood, of distributions that few networks start from


@dataclass(frozen=True)
class Known:
    """A known distribution.

    Attributes:
        name: its name.
        disadvantage: the larger, the more likely the values must be under it to be preferred.
    """

    name: str
    disadvantage: float = 0.0


def known_distributions(slot: Slot, activation: Activation | None, members: int) -> dict[Distribution, Known]:
    """Known distributions of the weight at ``slot``.

    Gains are that of the activation, and 1 and sqrt(2), which are used whatever the activation. ``fan_out`` is that of
    one unit and, for grouped convolutions, that of `torch.nn.init`, which counts all groups.

    Args:
        slot: the slot of a producer.
        activation: its activation; None if it is unknown.
        members: number of networks whose weights the layer holds one after the other.
    """
    fan_in, fan_out = fans(slot)
    if not fan_in or not fan_out:
        return {}
    kernel = math.prod(slot.weight.shape[2:])
    fan_outs = tuple(dict.fromkeys((fan_out, slot.weight.shape[slot.dim] // members * kernel)))
    own_gain = (activation_gain(activation) if activation is not None else None) or 1.0
    known = {Distribution("normal", SMALL_STD): Known("normal")}

    def add(kind: Kind, scale: float, name: str, disadvantage: float = 0.0) -> None:
        known.setdefault(Distribution(kind, scale), Known(name, disadvantage))

    def add_both(deviation: float, name: str) -> None:
        add("uniform", math.sqrt(3.0) * deviation, name)
        add("normal", deviation, f"{name}_normal")

    for gain in dict.fromkeys((own_gain, 1.0, math.sqrt(2.0))):
        add_both(gain / math.sqrt(fan_in), "lecun" if gain == 1.0 else "kaiming")
    for gain in dict.fromkeys((own_gain, 1.0)):
        for fan in fan_outs:
            add_both(gain * math.sqrt(2.0 / (fan_in + fan)), "xavier")
    for fan in fan_outs:  # as in ResNet, EfficientNet and DDPG
        add("normal", math.sqrt(2.0 / fan), "kaiming_normal with fan_out", RARE)
        add("uniform", 1.0 / math.sqrt(fan), "default with fan_out", RARE)
    add("truncated_normal", SMALL_STD, "truncated_normal", RARE)
    # with this variance after the cut, as in JAX, TensorFlow and timm
    for gain, name in ((1.0, "lecun"), (math.sqrt(2.0), "kaiming")):
        add("truncated_normal", gain / math.sqrt(fan_in * CUT_VARIANCE), f"{name}, truncated", RARE)
    return known
