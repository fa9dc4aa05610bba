"""A numerical check that groups are complete, and summaries of groups and refusals for comparisons."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gnt.units import Groups, Slot, UnitGroup
from tests.units.tracing.consumer_checks import is_coupled


def assert_complete(model: nn.Module, groups: Sequence[UnitGroup], *args: Any, **kwargs: Any) -> None:
    """Assert that zero outgoing weights of units make the outputs independent of the units, bit for bit.

    This is checked for the first, the last and all units of each group, in training and in evaluation mode. It is also
    asserted that the outputs depend on the units before.
    """
    model, groups = copy.deepcopy((model, tuple(groups)))
    for index, group in enumerate(groups):
        all_units = list(range(group.num_units))
        coupled = is_coupled(group)
        for training in (True, False):
            assert _depends_on(model.train(training), groups, index, args, kwargs), (
                f"{group.name} does not affect the outputs"
            )
            for units in [all_units] if coupled else ([0], all_units[-1:], all_units):
                model_copy, group_copies = copy.deepcopy((model, groups))
                group_copy, chosen = group_copies[index], torch.tensor(units)
                for slot in group_copy.outgoing:
                    slot.fill_(slot.weight.detach(), chosen, 0.0)
                before = _run(model_copy, args, kwargs)
                _randomize(group_copy, chosen, seed=1)
                assert _equal(before, _run(model_copy, args, kwargs)), (
                    f"{group.name}: units {units} are also read elsewhere"
                )


def _depends_on(model: nn.Module, groups: Sequence[UnitGroup], index: int, args: Any, kwargs: Any) -> bool:
    before = _run(model, args, kwargs)
    for seed in range(5):  # some random weights may give dead units
        model_copy, group_copies = copy.deepcopy((model, tuple(groups)))
        _randomize(group_copies[index], torch.arange(group_copies[index].num_units), seed)
        if not _equal(before, _run(model_copy, args, kwargs)):
            return True
    return False


def _randomize(group: UnitGroup, units: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for slot in (*group.incoming, *group.scales):
        for parameter in slot.module._parameters.values():
            if parameter is not None:
                noise = 3 * torch.randn(parameter.shape, generator=generator) + parameter.detach()
                slot.copy_(parameter.detach(), noise, units)


def _run(model: nn.Module, args: Any, kwargs: Any) -> list[Any]:
    model = copy.deepcopy(model)  # so that running statistics do not change from run to run
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return [leaf for leaf in tree_leaves(model(*args, **kwargs)) if isinstance(leaf, Tensor)]


def _equal(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def summary(groups: Sequence[UnitGroup]) -> dict[str, str]:
    """Each group in one line: "units activation: producers > scales > consumers".

    Slots show their name with *block, +offset, ~ for given positions, /groups, and their own (activation).
    """
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
    """Reasons of refusal by name."""
    return {one.name: one.reason for one in groups.refused}
