"""`UnitGroup`: the units of one hidden layer with every tensor slice that belongs to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from gnt.units._activations import Activation
from gnt.units._containers import Container
from gnt.units._layer_types import CONV_LAYERS
from gnt.units._slot import Slot


@dataclass(eq=False)
class UnitGroup:
    """The units of one hidden layer, and all tensor slices that change together when a unit is replaced.

    A unit consists of its row in the producer's weight and bias, its entry in each norm between producer and consumer,
    and its columns in the weight of each consumer.

    Attributes:
        name: name of the producer in the list or the model.
        num_units: number of units (output features of a linear layer, output channels of a convolution).
        incoming: slots of the producers (rows of weight and bias).
        scales: slots of the norms between producer and consumer (affine parameters and running statistics).
        outgoing: slots of the consumers (columns of the weight).
        activation: the activation between producer and consumer, as its name and parameter, or None if unknown.
        couplings: norms between producer and consumers whose statistics cover several units (LayerNorm, RMSNorm,
            GroupNorm, GRN), with or without parameters: replacing a unit changes the normalized values of the others.
        containers: the containers around these modules, as they were when the group was found; an engine refuses to
            step after a change in them.
        members: number of networks of one shape whose units the group holds one after the other; 1 except in an
            ensemble.
        state: ages, running averages and accumulator of the units; set by the engine that owns the group.

    ``producer``, ``norms`` and ``consumers`` are the modules of these slots.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> print(gnt.walk(net)[0])
    0: 8 units, relu
      producer  0 Linear (rows)
      consumer  2 Linear (columns)
    """

    name: str
    num_units: int
    incoming: tuple[Slot, ...]
    outgoing: tuple[Slot, ...]
    scales: tuple[Slot, ...] = ()
    activation: Activation | None = None
    couplings: tuple[str, ...] = ()
    containers: tuple[Container, ...] = field(default=(), repr=False)
    members: int = field(default=1, repr=False)
    state: Any = field(init=False, repr=False)

    @property
    def producer(self) -> nn.Module:
        """The module whose rows are the units' incoming weights; the first one if several modules produce a unit."""
        return self.incoming[0].module

    @property
    def norms(self) -> tuple[nn.Module, ...]:
        """Norms and other modules with per-unit parameters between producer and consumers."""
        return tuple(slot.module for slot in self.scales)

    @property
    def consumers(self) -> tuple[nn.Module, ...]:
        """The modules that read the units' features."""
        return tuple(slot.module for slot in self.outgoing)

    @cached_property
    def drawn(self) -> tuple[Slot, ...]:
        """Slots whose weights are drawn at random for a replaced unit: producers and depthwise convolutions."""
        return (*self.incoming, *(slot for slot in self.scales if isinstance(slot.module, CONV_LAYERS)))

    @cached_property
    def taps(self) -> tuple[Slot, ...]:
        """The first consumer of each tap number: one slot for each distinct value of the units that is read."""
        return tuple({slot.tap: slot for slot in reversed(self.outgoing)}[tap] for tap in self.tap_numbers)

    @cached_property
    def tap_numbers(self) -> tuple[int, ...]:
        """The distinct tap numbers, in the order of the consumers."""
        return tuple(dict.fromkeys(slot.tap for slot in self.outgoing))

    def slices(self) -> Iterator[tuple[str, Tensor, Slot]]:
        """Yield (name, parameter, slot) for every parameter of which the units own a part.

        Per-weight optimizer state of the units exists for exactly these parameters.
        """
        for slot in (*self.incoming, *self.scales):
            for key, parameter in slot.module._parameters.items():
                if parameter is not None and key in (slot.values or ("weight", "bias")):
                    yield f"{slot.name}.{key}", parameter, slot
        for slot in self.outgoing:
            yield f"{slot.name}.weight", slot.weight, slot

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots of all modules: producers, norms, consumers."""
        return (*self.incoming, *self.scales, *self.outgoing)

    def __str__(self) -> str:
        activation = self.activation[0] if self.activation else "unknown activation"
        lines = [f"{self.name}: {self.num_units} units, {activation}"]
        for label, slots in (("producer", self.incoming), ("norm", self.scales), ("consumer", self.outgoing)):
            for slot in slots:
                no_bias = label == "consumer" and slot.bias is None
                note = ", no bias: the mean feature is not transferred" if no_bias else ""
                lines.append(f"  {label:<9} {slot}{note}")
        coupled = "replacing a unit changes the normalized values of the others"
        lines += [f"  coupled   {norm}: {coupled}" for norm in self.couplings]
        return "\n".join(lines)
