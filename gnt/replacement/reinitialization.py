"""Reinitialisation of units: new incoming weights, transfer of mean contributions, norms.

New incoming weights are uniform in [-bound, bound], with g the gain of the group's activation and the true fan-in of
the producer (in / groups times the kernel size for a convolution):

    default   1 / sqrt(fan_in)                      torch's own for linear and convolution layers
    xavier    g * sqrt(6 / (fan_in + fan_out))      Glorot & Bengio 2010
    lecun     sqrt(3 / fan_in)                      LeCun et al. 1998; always used for selu
    kaiming   g * sqrt(3 / fan_in)                  He et al. 2015
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gnt._utils.initial_values import NORM_INITIAL_VALUES, PRELU_INITIAL_VALUES
from gnt.distributed import dtensor
from gnt.units import Activation, Slot, UnitGroup, activation_gain, activation_names, input_groups

INITS = ("default", "xavier", "lecun", "kaiming")


def check_init(init: str) -> None:
    """Raise ValueError for a name that is not an initial distribution."""
    if init not in INITS:
        raise ValueError(f"init must be one of {', '.join(INITS)}, got {init!r}")


def bound(group: UnitGroup, init: str, slot: Slot | None = None) -> float:
    """Bound of the uniform distribution of a group's new weights at ``slot``; None: the first producer.

    Raises:
        ValueError: unknown ``init``, or one that needs the gain of an unknown activation.
    """
    check_init(init)
    slot = group.incoming[0] if slot is None else slot
    activation = slot.activation or group.activation
    fan_in, fan_out = fans(slot)
    if init == "default" and activation != ("selu", None):
        return 1.0 / math.sqrt(fan_in)
    if init == "lecun" or activation == ("selu", None):
        return math.sqrt(3.0 / fan_in)
    scale = _gain(activation, group.name, init)
    return scale * math.sqrt(6.0 / (fan_in + fan_out) if init == "xavier" else 3.0 / fan_in)


def _gain(activation: Activation | None, group: str, init: str) -> float:
    scale = activation_gain(activation) if activation else None
    if scale is None:
        seen = f"activation {activation[0]!r} has no known gain" if activation else "no activation is seen in the list"
        raise ValueError(
            f"init {init!r} needs the gain of the activation of group {group!r}, but {seen}: pass activation=NAME, one "
            f"of {', '.join(activation_names())}, or init='default' or 'lecun', which need none"
        )
    return scale


def fans(slot: Slot) -> tuple[int, int]:
    """(fan_in, fan_out) of a producer: number of inputs of a unit, and number of units that read one input."""
    weight = slot.weight
    kernel = math.prod(weight.shape[2:])
    return weight.shape[1 - slot.dim] * kernel, weight.shape[slot.dim] // input_groups(slot.module) * kernel


@functools.lru_cache
def representable(limit: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that does not exceed ``limit``, so that rounded weights stay within it."""
    rounded = torch.tensor(limit, dtype=dtype)
    if rounded.item() > limit:
        rounded = torch.nextafter(rounded, torch.zeros_like(rounded))
    return rounded.item()


def fresh_weights(slot: Slot, count: int, limit: float, *generators: torch.Generator) -> Tensor:
    """Incoming weights for ``count`` units, uniform in [-limit, limit]: (count * block, fan-in shape...).

    With several generators, ``count`` units are drawn from each, one generator after the other.
    """
    weight = slot.weight
    limit = representable(limit, weight.dtype)
    wide = torch.promote_types(weight.dtype, torch.float32)
    shape = (len(generators), count * slot.block, *slot.rest)
    drawn = torch.empty(shape, dtype=wide, device=generators[0].device)
    for own, generator in zip(drawn, generators, strict=True):
        own.uniform_(-limit, limit, generator=generator)
    return drawn.flatten(0, 1).to(weight.device, weight.dtype, non_blocking=True)


def transfer_mean(slot: Slot, units: Tensor, mean_feature: Tensor) -> None:
    """Move the mean contribution of the units into the consumer's bias: b_k += sum_i w_ki * f^_i.

    The mean input of the consumers' units then stays the same when the outgoing weights are set to zero. A consumer
    without bias, or with a frozen one, is left unchanged. For convolutions with zero padding this is exact at interior
    positions.

    Args:
        slot: the consumer.
        units: indices, (k,).
        mean_feature: f^, (k,).
    """
    if slot.bias is not None and slot.bias.requires_grad:
        moved = slot.weighted_sum(units, mean_feature)
        bias = slot.bias.detach()
        # a weight sharded along its inputs gives the sums of all outputs; the bias may be sharded as well
        dtensor.local_part(bias).add_(dtensor.local_values(moved, bias).to(bias.dtype))


def set_incoming(slot: Slot, units: Tensor, fresh: Tensor) -> None:
    """Set the units' incoming weights to ``fresh`` and their bias to 0; a frozen bias is left unchanged."""
    slot.write_(units, fresh)
    if slot.bias is not None and slot.bias.requires_grad:
        slot.fill_(slot.bias.detach(), units, 0.0)


def initial_scale_values(module: nn.Module) -> dict[str, float]:
    """Names and initial values of the per-unit tensors that a norm (or PReLU) has."""
    values = PRELU_INITIAL_VALUES if isinstance(module, nn.PReLU) else NORM_INITIAL_VALUES
    return {name: value for name, value in values.items() if isinstance(getattr(module, name, None), Tensor)}


def reset_scale(slot: Slot, units: Tensor) -> None:
    """Set the units' part of a norm to its initial values: weight 1, bias 0, running mean 0, running variance 1.

    Frozen parameters are left unchanged, and running statistics too if all parameters are frozen in evaluation mode.
    """
    module = slot.module
    parameters = [parameter for parameter in module._parameters.values() if parameter is not None]
    fixed = bool(parameters) and not module.training and not any(each.requires_grad for each in parameters)
    for name, value in initial_scale_values(module).items():
        tensor = getattr(module, name)
        if not fixed and (tensor.requires_grad or name not in module._parameters):
            slot.fill_(tensor.detach(), units, value)


def regenerate(group: UnitGroup, units: Tensor, fresh: Sequence[Tensor], mean_features: Tensor | None) -> None:
    """Replace ``units`` of a group in the network.

    The order is: transfer of mean contributions, outgoing weights 0, new incoming weights, initial values of norms.

    Args:
        group: the group.
        units: indices, (k,).
        fresh: new weights for each slot of ``group.drawn``.
        mean_features: mean feature of the units at each tap, (taps, k); None: no transfer.
    """
    numbers = group.tap_numbers
    if mean_features is not None:
        for slot in group.outgoing:
            transfer_mean(slot, units, mean_features.select(0, numbers.index(slot.tap)))
    for slot in group.outgoing:
        slot.fill_(slot.weight.detach(), units, 0.0)
    for slot, rows in zip(group.drawn, fresh, strict=True):
        set_incoming(slot, units, rows)
    for slot in group.scales:
        if slot not in group.drawn:
            reset_scale(slot, units)
