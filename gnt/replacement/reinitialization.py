"""Reinitialisation of units: transfer of mean contributions, zero outgoing weights, new incoming weights, norms.

New incoming weights are drawn by `gnt.initialization`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from gnt.distributed import dtensor
from gnt.initialization import uniform_bound
from gnt.units import Slot, UnitGroup, initial_scale_values

INITS = ("default", "xavier", "lecun", "kaiming")  # those that are uniform; all names: `gnt.initialization.INITS`


def bound(group: UnitGroup, init: str, slot: Slot | None = None) -> float:
    """Bound of the uniform distribution of a group's new weights at ``slot``; None: the first producer.

    Raises:
        ValueError: ``init`` is not one of `INITS`, or needs the gain of an unknown activation.
    """
    if init not in INITS:
        raise ValueError(f"init must be one of {', '.join(INITS)}, got {init!r}")
    slot = group.incoming[0] if slot is None else slot
    return uniform_bound(init, slot, slot.activation or group.activation, group.name)


def transfer_mean(slot: Slot, units: Tensor, mean_feature: Tensor, movable: Tensor | None = None) -> None:
    """Move the mean contribution of the units into the consumer's bias: b_k += sum_i w_ki * f^_i.

    The mean input of the consumers' units then stays the same when the outgoing weights are set to zero. A consumer
    without bias, or with a frozen one, is left unchanged. For convolutions with zero padding this is exact at interior
    positions. For a linear layer that reads flattened channels, every position of a channel gets the mean over all of
    them, which is exact if the means of its positions are equal.

    Args:
        slot: the consumer.
        units: indices, (k,).
        mean_feature: f^, (k,).
        movable: which entries of the bias may be changed, bool (n,); the others keep their bits. None: all.
    """
    if slot.bias is not None and slot.bias.requires_grad:
        moved = slot.weighted_sum(units, mean_feature)
        bias = slot.bias.detach()
        # a weight sharded along its inputs gives the sums of all outputs; the bias may be sharded as well
        own, moved = dtensor.local_part(bias), dtensor.local_values(moved, bias).to(bias.dtype)
        if movable is None:
            own.add_(moved)
        else:  # adding 0 would change -0.0
            own.copy_(torch.where(dtensor.local_values(movable, bias), own + moved, own))


def set_incoming(slot: Slot, units: Tensor, fresh: Tensor, biases: Tensor | None) -> None:
    """Set the units' incoming weights to ``fresh``, and their biases to ``biases``; None: to 0.

    A frozen bias is left unchanged.
    """
    slot.write_(units, fresh)
    if slot.bias is None or not slot.bias.requires_grad:
        return
    if biases is None:
        slot.fill_(slot.bias.detach(), units, 0.0)
    else:
        slot.write_biases_(units, biases)


def changed_scale_tensors(slot: Slot) -> dict[str, float]:
    """Names and initial values of the tensors of a norm (or PReLU) that a replacement changes.

    Frozen parameters are left unchanged, and running statistics too if all parameters are frozen in evaluation mode.
    """
    module = slot.module
    parameters = [parameter for parameter in module._parameters.values() if parameter is not None]
    if parameters and not module.training and not any(each.requires_grad for each in parameters):
        return {}
    values = initial_scale_values(slot).items()
    return {k: v for k, v in values if k not in module._parameters or getattr(module, k).requires_grad}


def reset_scale(slot: Slot, units: Tensor) -> None:
    """Set the units' part of a norm to its initial values: weight 1, bias 0, running mean 0, running variance 1.

    Those of a module of another kind are given by ``slot.values``.
    """
    for name, value in changed_scale_tensors(slot).items():
        slot.fill_(getattr(slot.module, name).detach(), units, value)


def disconnect(
    group: UnitGroup, units: Tensor, mean_features: Tensor | None, movable: Mapping[int, Tensor] = MappingProxyType({})
) -> None:
    """The first half of a replacement: mean contributions into the consumers' biases, and outgoing weights 0.

    Args:
        group: the group.
        units: indices, (k,).
        mean_features: mean feature of the units at each tap, (taps, k); None: no transfer.
        movable: which entries of consumers' biases may be changed, by the id of the bias; of others all may.
    """
    numbers = group.tap_numbers
    if mean_features is not None:
        for slot in group.outgoing:
            mean_feature = mean_features.select(0, numbers.index(slot.tap))
            transfer_mean(slot, units, mean_feature, movable.get(id(slot.bias)))
    for slot in group.outgoing:
        slot.fill_(slot.weight.detach(), units, 0.0)


def renew(group: UnitGroup, units: Tensor, fresh: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
    """The second half, after the first one of all groups: new incoming weights, and initial values of norms.

    A weight between units that are both replaced then is the new one of the consumer, whatever the order of the groups.

    Args:
        group: the group.
        units: indices, (k,).
        fresh: new weights for each slot of ``group.drawn``.
        biases: new biases for each of them; None: 0.
    """
    for slot, rows, own in zip(group.drawn, fresh, biases, strict=True):
        set_incoming(slot, units, rows, own)
    for slot in group.scales:
        if slot not in group.drawn:
            reset_scale(slot, units)
