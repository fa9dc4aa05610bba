"""Whatever `gnt.trace` finds in a random network is right, and it finds every unit that nothing else is mixed with."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from torch import nn

import gnt
from tests.units.tracing.net_grammar import RandomNet, random_nets
from tests.units.tracing.proofs import positions, prove_consumers
from tests.units.tracing.replacement_proofs import prove_replacement
from tests.units.tracing.subjects import CONVOLUTIONS, Subject, reads_units, where_read

Unit = tuple[str, int]


def found_in(subject: Subject) -> gnt.Groups | tuple[()]:
    try:
        return gnt.trace(subject.model, *subject.args)
    except gnt.TraceError as error:
        if "no group" not in str(error):
            raise
        return ()


@settings(max_examples=settings.default.max_examples // 2)  # most of the time goes into torch.export
@given(random_nets())
def test_groups_are_right_and_no_unit_that_stands_alone_is_missed(example):
    net, x = example
    subject = Subject(net, (x,))
    groups = found_in(subject)
    for group in groups:
        prove_consumers(subject, group)
    if not any(name in ("sort", "chosen by one") for name, _ in net.steps):  # comparisons hide nan
        found = {
            (slot.name, row)
            for group in groups
            for slot in group.incoming
            for row in positions(slot, torch.arange(group.num_units)).tolist()
        }
        missed = units_by_themselves(net, subject, x.shape[1]) - found
        assert not missed
    if groups:
        prove_replacement(subject, groups, gated=None)


def units_by_themselves(net: RandomNet, subject: Subject, channels: int) -> set[Unit]:
    """Outputs of layers that only weight layers read, at positions where nothing else can be read; by where nan goes.

    Those of depthwise convolutions are left out, as they may belong to the unit before. Outputs that meet others at
    their readers may be gates (one unit) or sums (refused), which nan cannot tell.
    """
    named = {name: module for name, module in net.named_modules() if reads_units(module)}
    depthwise = [module for module in named.values() if isinstance(module, CONVOLUTIONS) and is_depthwise(module)]
    read = {
        (name, row): where_read(subject, [(module, torch.tensor([row]))], depthwise)
        for name, module in named.items()
        for row in range(module.weight.shape[0])
        if not any(module is other for other in depthwise)
    }
    read |= {("input", i): where_read(subject, [], depthwise, [i]) for i in range(channels)}
    readers: dict[tuple[str, int], set[Unit]] = {}
    for unit, places in read.items():
        for name, where in places.items():
            for position in where:
                readers.setdefault((name, position), set()).add(unit)
    return {
        (name, row)
        for (name, row), places in read.items()
        if name in named and places and "" not in places
        if all(readers[reader, p] == {(name, row)} for reader in places for p in places[reader])
    }


def is_depthwise(module: nn.Module) -> bool:
    return module.groups > 1 and module.weight.shape[1] == 1
