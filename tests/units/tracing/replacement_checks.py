"""Checks that replacing units of any groups keeps the model's function, and changes nothing but the units.

Two limits, which the documentation names, are excluded here. Zeros that pad a convolution's input differ from the mean
feature, so convolutions use replicate padding. Norms that couple units pass a new unit's values on to its neighbours,
so there the fresh weights are the old ones. Layers without bias get a bias of zeros, so that means can be transferred.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

import gnt
from gnt.units import Slot, UnitGroup
from tests.units.tracing.consumer_checks import (
    COUPLING,
    changeable_slots,
    is_coupled,
    owned,
    positions,
    same,
    some_units,
    unit_tensors,
    zero_weights,
)
from tests.units.tracing.model_under_test import CONVOLUTIONS, ModelUnderTest

INITIAL_VALUES = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def check_replacement(
    subject: ModelUnderTest, groups: Sequence[UnitGroup], gated: Collection[str] | None = frozenset()
) -> None:
    """Check that replacing units keeps the output if no layer reads them, or if their features are constant.

    All groups are replaced at once, except those whose norm couples units, which are replaced one by one.

    Args:
        subject: the model. Its padding and biases are changed.
        groups: the groups to check.
        gated: names of the groups whose units are multiplied by values of no unit, so that their features cannot be
            constant: the outputs of their consumers must only be kept on average. None: not checked.
    """
    for together in _replaced_together(groups):
        with subject.unchanged():
            check_replacement_of_unread_units(subject, together)
    _add_missing_biases(groups)
    use_replicate_padding(subject.model)
    varying = _varying(subject, groups)
    assert gated is None or {group.name for group in varying} == set(gated)
    for together in _replaced_together([group for group in groups if group not in varying]):
        with subject.unchanged():
            check_transfer_of_constant_features(subject, together)
    for group in varying:
        with subject.unchanged():
            check_transfer_of_mean_features(subject, group)


def _replaced_together(groups: Sequence[UnitGroup]) -> list[list[UnitGroup]]:
    apart = [group for group in groups if not is_coupled(group)]
    return [apart] * bool(apart) + [[group] for group in groups if is_coupled(group)]


def check_replacement_of_unread_units(subject: ModelUnderTest, groups: Sequence[UnitGroup]) -> None:
    """With zero outgoing weights, replacement changes no bit of the output, and nothing outside the units' slices."""
    units = [some_units(group) for group in groups]
    engine = _engine(subject, groups)
    for group, chosen in zip(groups, units, strict=True):
        zero_weights(group.outgoing, chosen)
        if is_coupled(group):
            _reset_except_weights(group, chosen)
    before, tensors = [subject.run(mode) for mode in (False, True)], _snapshot(subject.model)
    engine.replace(units, [_kept(group, chosen) for group, chosen in zip(groups, units, strict=True)])
    for mode, wanted in zip((False, True), before, strict=True):
        assert same(subject.run(mode), wanted), f"replacing unread units changed the output, training={mode}"
    _check_nothing_else_changed(subject.model, groups, units, tensors, biases=False)
    engine.close()


def check_transfer_of_constant_features(subject: ModelUnderTest, groups: Sequence[UnitGroup]) -> None:
    """With constant features, the output is kept up to rounding if their means are transferred to the biases.

    Without the transfer it changes. The model must have biases and replicate padding.
    """
    units = [some_units(group) for group in groups]
    for number, (group, chosen) in enumerate(zip(groups, units, strict=True)):
        make_constant(subject, group, chosen, seed=number)
    moved = {}
    for transfer in (True, False):
        with subject.unchanged():
            engine = _engine(subject, groups, bias_transfer=transfer)
            _forward(subject, groups)
            engine.update()
            means = [group.state.mean_feature[chosen] for group, chosen in zip(engine.groups, units, strict=True)]
            before, tensors = subject.run(), _snapshot(subject.model)
            engine.replace(units, [_kept(group, chosen) for group, chosen in zip(groups, units, strict=True)])
            _check_nothing_else_changed(subject.model, groups, units, tensors, biases=transfer)
            _check_fresh(groups, units, tensors)
            moved[transfer] = _distance(subject.run(), before)
            engine.close()
    assert moved[True] < 1e-7, f"the output moved by {moved[True]} of its size"
    if any((mean.abs() > 1e-9).any() for mean in means):
        assert moved[False] > 1e-6, "the means do not affect the output, so nothing was checked"


@torch.no_grad()
def make_constant(subject: ModelUnderTest, group: UnitGroup, units: Tensor, seed: int) -> None:
    """Make the units' features constant: zero weights and nonzero biases in the last slots that compute them."""
    draw = torch.Generator().manual_seed(seed)
    sources = list(group.incoming)
    if is_coupled(group):
        zero_weights(sources, units)
        _reset_except_weights(group, units)
        last = changeable_slots(subject, group)[0].slots
        if not last:
            return  # a norm without parameters is the last operation
        sources = [slot for slot in last if slot.module is last[0].module]
    zero_weights(sources, units)
    for slot in sources:
        _, bias, *_ = *unit_tensors(slot).values(), None
        if bias is None:  # an RMSNorm: zeros are constant, too
            continue
        mask = owned(slot, bias, units)
        bias[mask] = 1 + torch.rand(int(mask.sum()), generator=draw, dtype=bias.dtype)


def use_replicate_padding(model: nn.Module) -> None:
    """Pad the inputs of convolutions with their border values instead of zeros."""
    for module in model.modules():
        if isinstance(module, CONVOLUTIONS) and module.padding_mode == "zeros":
            module.padding_mode = "replicate"


def _engine(subject: ModelUnderTest, groups: Sequence[UnitGroup], bias_transfer: bool = True) -> gnt.GnT:
    optimizer = torch.optim.Adam(subject.model.parameters())
    generator = torch.Generator().manual_seed(1)
    return gnt.GnT(groups, optimizer, init="default", bias_transfer=bias_transfer, generator=generator)


def check_transfer_of_mean_features(subject: ModelUnderTest, group: UnitGroup) -> None:
    """The mean output of linear consumers over samples is kept for any features of the units."""
    units = some_units(group)
    linear = [slot for slot in group.outgoing if not isinstance(slot.module, CONVOLUTIONS) and slot.block == 1]
    outputs: dict[Slot, list[Tensor]] = {slot: [] for slot in linear}
    engine = _engine(subject, [group])
    with ExitStack() as stack:
        for slot, recorded in outputs.items():
            hook = slot.module.register_forward_hook(
                lambda _m, _a, output, recorded=recorded: recorded.append(output.detach())
            )
            stack.callback(hook.remove)
        if is_coupled(group):
            _reset_except_weights(group, units)
        _forward(subject, [group])
        engine.update()
        engine.replace([units], [_kept(group, units)])
        subject.run()
    for slot, (before, after) in outputs.items():
        fresh = [other.module is slot.module for other in group.incoming]
        means = [value.flatten(0, -2).mean(0) for value in (before, after)]
        assert any(fresh) or torch.allclose(*means), f"{group.name}: {slot.name} has another mean output"
    engine.close()


def _forward(subject: ModelUnderTest, groups: Sequence[UnitGroup]) -> None:
    """One forward that engines record: consumers in training mode, all other modules in evaluation mode."""
    subject.model.eval()
    for group in groups:
        for slot in group.outgoing:
            slot.module.train()
    subject.model(*subject.args, **subject.kwargs)


def _varying(subject: ModelUnderTest, groups: Sequence[UnitGroup]) -> list[UnitGroup]:
    """Groups whose features vary even after `make_constant`."""
    spread = dict.fromkeys(groups, 0.0)

    def measuring(group: UnitGroup, slot: Slot) -> Callable[..., None]:
        def measure(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            dim = args[0].ndim - (module.weight.ndim - 1 if isinstance(module, CONVOLUTIONS) else 1)
            read = args[0].movedim(dim, 0)[positions(slot, some_units(group))].flatten(1)
            spread[group] = max(spread[group], float((read.max(1).values - read.min(1).values).max()))

        return measure

    with subject.unchanged(), ExitStack() as stack:
        for number, group in enumerate(groups):
            make_constant(subject, group, some_units(group), seed=number)
            for slot in group.outgoing:
                stack.callback(slot.module.register_forward_pre_hook(measuring(group, slot)).remove)
        subject.run()
    return [group for group in groups if spread[group] > 1e-9]


def _add_missing_biases(groups: Sequence[UnitGroup]) -> None:
    for group in groups:
        for slot in (*group.incoming, *group.outgoing):
            module = slot.module
            if module.bias is None:
                outputs = module.weight.shape[1 if type(module).__name__ == "Conv1D" else 0]
                module.bias = nn.Parameter(module.weight.new_zeros(outputs))


@torch.no_grad()
def _reset_except_weights(group: UnitGroup, units: Tensor) -> None:
    """Give all tensors of the units except their weights the values that they have after a replacement."""
    for slot in (*group.incoming, *group.scales):
        for name, tensor in unit_tensors(slot).items():
            is_drawn = any(slot is other for other in _drawn(group))
            if not isinstance(slot.module, COUPLING) and not (is_drawn and name == "weight"):
                initial = 0.25 if isinstance(slot.module, nn.PReLU) else (slot.values or INITIAL_VALUES)[name]
                tensor[owned(slot, tensor, units)] = 0.0 if is_drawn else initial


def _drawn(group: UnitGroup) -> list[Slot]:
    """Producers, and depthwise convolutions between producer and consumer."""
    return [*group.incoming, *(slot for slot in group.scales if isinstance(slot.module, CONVOLUTIONS))]


def _kept(group: UnitGroup, units: Tensor) -> list[Tensor] | Tensor | None:
    """The units' present weights as fresh ones for groups whose norm couples units; otherwise None (random)."""
    if not is_coupled(group):
        return None
    kept = []
    for slot in _drawn(group):
        rows = torch.cat([positions(slot, unit[None]) for unit in units])  # in the order of the units
        kept.append(slot.module.weight.detach().index_select(slot.dim, rows).movedim(slot.dim, 0).clone())
    return kept if len(kept) > 1 else kept[0]


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _check_nothing_else_changed(
    model: nn.Module,
    groups: Sequence[UnitGroup],
    units: Sequence[Tensor],
    before: dict[str, Tensor],
    biases: bool,
) -> None:
    """Check that everything but the units' slices, and the consumers' biases if ``biases``, is bit-equal."""
    now = model.state_dict(keep_vars=True)
    names = {id(tensor): name for name, tensor in now.items()}
    may_change = {name: torch.zeros(tensor.shape, dtype=torch.bool) for name, tensor in now.items()}
    for group, chosen in zip(groups, units, strict=True):
        for slot in (*group.incoming, *group.scales):
            for tensor in unit_tensors(slot).values():
                may_change[names[id(tensor)]] |= owned(slot, tensor, chosen)
        for slot in group.outgoing:
            may_change[names[id(slot.module.weight)]] |= owned(slot, slot.module.weight, chosen)
            if biases and slot.module.bias is not None:
                may_change[names[id(slot.module.bias)]].fill_(True)
    for name, tensor in now.items():
        kept = ~may_change[name]
        assert torch.equal(tensor.detach()[kept], before[name][kept]), f"{name} changed outside the replaced units"


def _check_fresh(groups: Sequence[UnitGroup], units: Sequence[Tensor], before: dict[str, Tensor]) -> None:
    """Check that replaced units have nonzero incoming weights, and zero outgoing weights except to replaced units."""
    replaced = [
        (slot, chosen) for group, chosen in zip(groups, units, strict=True) for slot in (*group.incoming, *group.scales)
    ]
    for group, chosen in zip(groups, units, strict=True):
        for slot in group.outgoing:
            weight = slot.module.weight.detach()
            mask = owned(slot, weight, chosen)
            for other, fresh in replaced:
                if other.module is slot.module:
                    mask &= ~owned(other, weight, fresh)
            assert not weight[mask].any(), f"{group.name}: {slot.name} still reads replaced units"
        for slot in group.incoming:
            weight = slot.module.weight.detach()
            assert is_coupled(group) or weight[owned(slot, weight, chosen)].any(), f"{group.name}: not fresh"


def _distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Largest change relative to the largest output."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))
