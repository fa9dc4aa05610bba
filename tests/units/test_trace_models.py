"""The groups of `gnt.trace` in published architectures are right and complete, checked by running the models."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn

import gnt
from tests.units.tracing.consumer_checks import check_consumers
from tests.units.tracing.model_case import Case
from tests.units.tracing.model_under_test import ModelUnderTest, is_weight_layer
from tests.units.tracing.model_zoo import CASES, mixtral
from tests.units.tracing.replacement_checks import check_replacement
from tests.units.tracing.traced_models import traced


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.groups])
def test_groups_are_right_and_complete(name):
    """Groups and refusals are as expected; consumers are right; replacement keeps the function."""
    case = CASES[name]
    subject, groups = traced(name)
    expect_groups(case, groups)
    expect_refusals(case, groups.refused)
    known = {slot.name for group in groups for slot in (*group.incoming, *group.scales)}
    expect_every_layer_named(subject.model, known | {refused.name.partition("[")[0] for refused in groups.refused})
    printed = str(groups)
    assert all(str(group) in printed for group in groups)
    assert all(refused.name in printed and refused.reason in printed for refused in groups.refused)
    for group in groups:
        check_consumers(subject, group)
    check_replacement(subject, groups, gated=case.gated)


def expect_groups(case: Case, groups: gnt.Groups) -> None:
    matched = set()
    for group in groups:
        pattern = next((p for p in case.groups if fnmatchcase(group.name, p)), None)
        assert pattern, f"{group.name} was not expected to be found"
        units, activation = case.groups[pattern]
        assert group.num_units == (units or group.num_units), group.name
        assert group.activation is not None, group.name
        assert group.activation[0] == activation, group.name
        matched.add(pattern)
    assert matched == set(case.groups)


def expect_every_layer_named(model: nn.Module, known: set[str]) -> None:
    """Every weight layer is a producer or scale of a group, or is refused."""
    missing = {path for path, module in model.named_modules() if is_weight_layer(module)} - known
    assert not missing, f"neither found nor refused: {missing}"


def expect_refusals(case: Case, found: tuple[gnt.Refused, ...]) -> None:
    matched = set()
    for refused in found:
        pattern = next((p for p in case.refused if fnmatchcase(refused.name, p)), None)
        assert pattern, f"{refused.name} was not expected to be refused: {refused.reason}"
        assert re.search(case.refused[pattern], refused.reason), f"{refused.name}: {refused.reason}"
        matched.add(pattern)
    assert matched == set(case.refused)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.groups])
def test_models_without_groups_are_refused_with_reasons(name):
    subject = ModelUnderTest(CASES[name].build(), CASES[name].args, CASES[name].kwargs)
    with pytest.raises(gnt.TraceError) as error:
        gnt.trace(subject.model, *subject.args, **subject.kwargs)
    expect_every_layer_named(
        subject.model, set(re.findall(r"^  ([^\s\[]+)\S*: ", str(error.value), flags=re.MULTILINE))
    )


def test_data_dependent_routing_cannot_be_traced():
    """Experts are called only for the tokens routed to them, so that the calls depend on the data."""
    model = mixtral("eager")
    with pytest.raises(gnt.TraceError, match="data-dependent"):
        gnt.trace(model, **CASES["mixtral"].kwargs)


def test_the_model_is_left_unchanged():
    """Tracing changes neither modes, state, gradients nor the random generator of torch."""
    case = CASES["bert"]
    model = case.build()
    model.encoder = None
    model.bert.encoder.layer[0].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    gnt.trace(model, **case.kwargs)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_model_that_returns_a_cache_has_the_same_groups(name: str) -> None:
    case = CASES[name]
    without = gnt.trace(case.build(), **case.kwargs)
    with_cache = gnt.trace(case.build(), input_ids=case.kwargs["input_ids"], use_cache=True)
    assert [str(group) for group in with_cache] == [str(group) for group in without]
