"""What the engines of several processes must have in common before their first joint step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from gnt.distributed import dtensor
from gnt.distributed.process_group import Processes
from gnt.initialization import SlotInit
from gnt.units import UnitGroup

_ADVICE = {
    "groups": "build the engine from the same layers, in the same order, on every rank",
    "settings": "give the engine the same settings on every rank",
    "initial distributions": "build the engine after DistributedDataParallel, from the same weights on every rank, or "
    "name the distribution: init=NAME",
    "ages": "load the same checkpoint on every rank",
    "protected units": "protect the same units on every rank, at the same step",
    "networks": "wrap the network in DistributedDataParallel; where every process trains a network of its own, "
    "pass process_group=False",
}


def synchronize(
    processes: Processes,
    groups: Sequence[UnitGroup],
    settings: str,
    slot_inits: Sequence[Sequence[SlotInit]],
    generators: Sequence[torch.Generator],
) -> None:
    """Check that all processes have the same groups, settings, ages and weights; share the first rank's random state.

    Equal settings may still mean different initial distributions, if they were chosen by different weights.

    Raises:
        ValueError: on all ranks, if they differ.
    """
    descriptions = {
        "groups": "; ".join(map(_described, groups)),
        "settings": settings,
        "ages": _ages(groups),
        "protected units": _protection(groups),
        "networks": _weight_sums(groups),
        "initial distributions": "; ".join(str(init) for slots in slot_inits for init in slots),
    }
    processes.synchronize(descriptions, _ADVICE, ("networks",), generators, groups[0].incoming[0].weight.device)


def _described(group: UnitGroup) -> str:
    """Name and size; the activations, which determine new weights, where one is known."""
    activations = [str(each) for each in (group.activation, *(slot.activation for slot in group.incoming)) if each]
    return f"{group.name} ({', '.join([f'{group.num_units} units', *activations])})"


def _ages(groups: Sequence[UnitGroup]) -> str:
    states = [group.state for group in groups]
    births = hashlib.sha256(b"".join(bytes(f"{s.born.tolist()} {s.accumulated}", "ascii") for s in states)).hexdigest()[
        :8
    ]
    updates = ", ".join(str(count) for count in dict.fromkeys(state.updates for state in states))
    return f"{updates} updates, {[s.replaced for s in states]} units replaced, births {births}"


def _protection(groups: Sequence[UnitGroup]) -> str:
    counts = [group.state.num_protected for group in groups]
    tensors = [tensor for g in groups for tensor in (g.state.protected, g.state.unprotected_share)]
    if all(tensor is None for tensor in tensors):
        return "none"
    values = "".join("" if tensor is None else str(tensor.tolist()) for tensor in tensors)
    return f"{counts}, hash {hashlib.sha256(values.encode()).hexdigest()[:8]}"


def _weight_sums(groups: Sequence[UnitGroup]) -> str:
    weights = [slot.weight.detach() for group in groups for slot in (*group.incoming, *group.outgoing)]
    return str([w.double().sum().item() for w in weights if not dtensor.is_dtensor(w)])
