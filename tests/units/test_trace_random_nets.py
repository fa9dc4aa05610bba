"""In random networks the groups of `gnt.trace` are right, and no unit that is mixed with nothing else is missed."""

from __future__ import annotations

import torch
from hypothesis import given, settings

import gnt
from tests.units.tracing.consumer_checks import check_consumers, positions
from tests.units.tracing.model_under_test import ModelUnderTest, is_depthwise, is_weight_layer, nan_readers
from tests.units.tracing.random_nets import RandomNet, random_nets
from tests.units.tracing.replacement_checks import check_replacement

Unit = tuple[str, int]


def found_in(subject: ModelUnderTest) -> gnt.Groups | tuple[()]:
    try:
        return gnt.trace(subject.model, *subject.args)
    except gnt.TraceError as error:
        if "no group" not in str(error):
            raise
        return ()


@settings(max_examples=settings.default.max_examples // 2)  # each runs its network many times
@given(random_nets())
def test_groups_are_right_and_no_separate_unit_is_missed(example):
    net, x = example
    subject = ModelUnderTest(net, (x,))
    groups = found_in(subject)
    for group in groups:
        check_consumers(subject, group)
    names = {name for name, _ in net.steps}
    # comparisons do not pass nan on; a sum of units and what a depthwise convolution computes of them is refused
    if not names & {"sort", "chosen by one"} and not names >= {"depthwise", "add"}:
        found = {
            (slot.name, row)
            for group in groups
            for slot in group.incoming
            for row in positions(slot, torch.arange(group.num_units)).tolist()
        }
        missed = separate_units(net, subject, x.shape[1]) - found
        assert not missed
    if groups:
        check_replacement(subject, groups, gated=None)


def separate_units(net: RandomNet, subject: ModelUnderTest, channels: int) -> set[Unit]:
    """Outputs of layers that only weight layers read, at positions where nothing else is read, found by nan.

    Depthwise convolutions are left out, as their outputs may belong to the units that they read. Outputs that coincide
    with others at their readers may be gates (one unit) or sums (refused), which nan cannot distinguish.
    """
    named = {name: module for name, module in net.named_modules() if is_weight_layer(module)}
    depthwise = [module for module in named.values() if is_depthwise(module)]
    read = {
        (name, row): nan_readers(subject, [(module, torch.tensor([row]))], depthwise)
        for name, module in named.items()
        for row in range(module.weight.shape[0])
        if not any(module is other for other in depthwise)
    }
    read |= {("input", i): nan_readers(subject, [], depthwise, [i]) for i in range(channels)}
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
