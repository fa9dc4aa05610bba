"""Proof by numbers that traced groups are whole: with a unit's outgoing weights at zero, nothing of it matters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gnt.units import Groups, Slot, UnitGroup

_COUPLING = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # one unit's size changes the others' features


def assert_whole(model: nn.Module, groups: Sequence[UnitGroup], *args: Any, **kwargs: Any) -> None:
    """For the first, the last and all units of each group, in training and in evaluation: outgoing weights zero, and
    whatever the unit computes, the outputs are the same bit for bit. Before, they were not.
    """
    model, groups = copy.deepcopy((model, tuple(groups)))
    for index, group in enumerate(groups):
        everyone = list(range(group.num_units))
        coupled = any(isinstance(slot.module, _COUPLING) for slot in group.scales)
        for training in (True, False):
            assert _matters(model.train(training), groups, index, args, kwargs), f"{group.name} does not matter at all"
            for units in [everyone] if coupled else ([0], everyone[-1:], everyone):
                twin, twins = copy.deepcopy((model, groups))
                own, chosen = twins[index], torch.tensor(units)
                for slot in own.outgoing:
                    slot.fill_(slot.weight.detach(), chosen, 0.0)
                before = _run(twin, args, kwargs)
                _disturb(own, chosen, seed=1)
                assert _equal(before, _run(twin, args, kwargs)), f"{group.name}: units {units} are read elsewhere, too"


def _matters(model: nn.Module, groups: Sequence[UnitGroup], index: int, args: Any, kwargs: Any) -> bool:
    before = _run(model, args, kwargs)
    for seed in range(5):  # a draw may leave units dead
        twin, twins = copy.deepcopy((model, tuple(groups)))
        _disturb(twins[index], torch.arange(twins[index].num_units), seed)
        if not _equal(before, _run(twin, args, kwargs)):
            return True
    return False


def _disturb(group: UnitGroup, units: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for slot in (*group.incoming, *group.scales):
        for parameter in slot.module._parameters.values():
            if parameter is not None:
                noise = 3 * torch.randn(parameter.shape, generator=generator) + parameter.detach()
                slot.copy_(parameter.detach(), noise, units)


def _run(model: nn.Module, args: Any, kwargs: Any) -> list[Any]:
    model = copy.deepcopy(model)  # running statistics are not carried from run to run
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return [leaf for leaf in tree_leaves(model(*args, **kwargs)) if isinstance(leaf, Tensor)]


def _equal(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def told(groups: Sequence[UnitGroup]) -> dict[str, str]:
    """Groups in one line each: activation: producers > scales > consumers, with what is special of each slot."""
    return {group.name: _line(group) for group in groups}


def _line(group: UnitGroup) -> str:
    kind = group.activation[0] if group.activation else None
    parts = (group.incoming, group.scales, group.outgoing)
    return f"{group.num_units} {kind}: " + " > ".join(" ".join(_slot(s) for s in slots) for slots in parts if slots)


def _slot(slot: Slot) -> str:
    extra = f"*{slot.block}" if slot.block > 1 else ""
    extra += f"+{slot.offset}" if slot.offset else ""
    extra += "~" if slot.positions is not None else ""
    extra += f"/{slot.groups}" if slot.groups > 1 else ""
    extra += f"({slot.activation[0]})" if slot.activation else ""
    return slot.name + extra


def reasons(groups: Groups) -> dict[str, str]:
    """The refusals by name."""
    return {one.name: one.reason for one in groups.refused}
