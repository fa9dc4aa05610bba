"""Proofs that replacing units of any groups leaves the model's function as it is, and touches nothing but them.

Two things stand in the way of exactness, and both are set aside here (the README names them as limits): zeros that
pad a convolution's input differ from the mean, so convolutions repeat their borders instead; and norms that couple
units carry a new unit's values to its neighbours, so there the fresh weights are the old ones. Layers without bias get
one of zeros, which changes nothing, so that means can be moved into it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

import gnt
from gnt.units import Slot, UnitGroup
from tests.units.tracing.proofs import (
    COUPLING,
    is_coupled,
    owned,
    positions,
    same,
    silence,
    some_units,
    unit_tensors,
    ways,
)
from tests.units.tracing.subjects import CONVOLUTIONS, Subject

BIRTH = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def prove_replacement(
    subject: Subject, groups: Sequence[UnitGroup], gated: Collection[str] | None = frozenset()
) -> None:
    """Replacing units changes no output if nobody listens to them, or if all they say is their mean.

    All groups at once; those whose norm couples units one by one, as what is replaced before the norm is felt behind.

    Args:
        subject: the model. It has other paddings, and more biases, afterwards.
        groups: what is proved right.
        gated: names of the groups whose units are multiplied with something beside them, so that no feature is a
            constant: their consumers must say the same on average only. None: whichever these are.
    """
    for together in _separated(groups):
        with subject.unchanged():
            prove_silent_replacement(subject, together)
    _give_biases(groups)
    repeat_borders(subject.model)
    varying = _varying(subject, groups)
    assert gated is None or {group.name for group in varying} == set(gated)
    for together in _separated([group for group in groups if group not in varying]):
        with subject.unchanged():
            prove_moved_means(subject, together)
    for group in varying:
        with subject.unchanged():
            prove_moved_averages(subject, group)


def _separated(groups: Sequence[UnitGroup]) -> list[list[UnitGroup]]:
    apart = [group for group in groups if not is_coupled(group)]
    return [apart] * bool(apart) + [[group] for group in groups if is_coupled(group)]


def prove_silent_replacement(subject: Subject, groups: Sequence[UnitGroup]) -> None:
    """With outgoing weights of zero before: no bit of the output changes, in either mode, and no parameter outside
    the units' slices.
    """
    units = [some_units(group) for group in groups]
    engine = _engine(subject, groups)
    for group, chosen in zip(groups, units, strict=True):
        silence(group.outgoing, chosen)
        if is_coupled(group):
            _as_at_birth(group, chosen)
    before, tensors = [subject.run(mode) for mode in (False, True)], _snapshot(subject.model)
    engine.replace(units, [_kept(group, chosen) for group, chosen in zip(groups, units, strict=True)])
    for mode, wanted in zip((False, True), before, strict=True):
        assert same(subject.run(mode), wanted), f"replacing unheard units changed the output, training={mode}"
    _prove_nothing_else_changed(subject.model, groups, units, tensors, biases=False)
    engine.close()


def prove_moved_means(subject: Subject, groups: Sequence[UnitGroup]) -> None:
    """With constant features: the output stays, up to rounding, when their means move into the consumers' biases.

    Without that transfer it changes. (The model must have biases, and repeat its borders.)
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
            _prove_nothing_else_changed(subject.model, groups, units, tensors, biases=transfer)
            _prove_reborn(groups, units, tensors)
            moved[transfer] = _distance(subject.run(), before)
            engine.close()
    assert moved[True] < 1e-7, f"the output moved by {moved[True]} of its size"
    if any((mean.abs() > 1e-9).any() for mean in means):
        assert moved[False] > 1e-6, "the means meant nothing, so nothing was proved"


@torch.no_grad()
def make_constant(subject: Subject, group: UnitGroup, units: Tensor, seed: int) -> None:
    """Let the units' features be constants: where they are made, weights 0, and biases of some size."""
    draw = torch.Generator().manual_seed(seed)
    sources = list(group.incoming)
    if is_coupled(group):
        silence(sources, units)
        _as_at_birth(group, units)
        behind = ways(subject, group)[0].slots
        sources = [slot for slot in behind if slot.module is behind[0].module]
    silence(sources, units)
    for slot in sources:
        bias = slot.module.bias
        mask = owned(slot, bias, units)
        bias[mask] = 1 + torch.rand(int(mask.sum()), generator=draw, dtype=bias.dtype)


def repeat_borders(model: nn.Module) -> None:
    """Convolutions read on beyond the border what stands there, not zeros."""
    for module in model.modules():
        if isinstance(module, CONVOLUTIONS) and module.padding_mode == "zeros":
            module.padding_mode = "replicate"


def _engine(subject: Subject, groups: Sequence[UnitGroup], bias_transfer: bool = True) -> gnt.GnT:
    optimizer = torch.optim.Adam(subject.model.parameters())
    generator = torch.Generator().manual_seed(1)
    return gnt.GnT(groups, optimizer, init="default", bias_transfer=bias_transfer, generator=generator)


def prove_moved_averages(subject: Subject, group: UnitGroup) -> None:
    """Linear consumers say the same on average over samples, whatever the units' features are."""
    units = some_units(group)
    linear = [slot for slot in group.outgoing if not isinstance(slot.module, CONVOLUTIONS) and slot.block == 1]
    said: dict[Slot, list[Tensor]] = {slot: [] for slot in linear}
    engine = _engine(subject, [group])
    with ExitStack() as stack:
        for slot, heard in said.items():
            hook = slot.module.register_forward_hook(lambda _m, _a, output, heard=heard: heard.append(output.detach()))
            stack.callback(hook.remove)
        if is_coupled(group):
            _as_at_birth(group, units)
        _forward(subject, [group])
        engine.update()
        engine.replace([units], [_kept(group, units)])
        subject.run()
    for slot, (before, after) in said.items():
        fresh = [other.module is slot.module for other in group.incoming]
        means = [value.flatten(0, -2).mean(0) for value in (before, after)]
        assert any(fresh) or torch.allclose(*means), f"{group.name}: {slot.name} says something else on average"
    engine.close()


def _forward(subject: Subject, groups: Sequence[UnitGroup]) -> None:
    """One forward that engines record: consumers in training mode, the rest in evaluation."""
    subject.model.eval()
    for group in groups:
        for slot in group.outgoing:
            slot.module.train()
    subject.model(*subject.args, **subject.kwargs)


def _varying(subject: Subject, groups: Sequence[UnitGroup]) -> list[UnitGroup]:
    """Groups whose features are no constants even where all that makes them says so."""
    spread = dict.fromkeys(groups, 0.0)

    def looking(group: UnitGroup, slot: Slot) -> Callable[..., None]:
        def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            dim = args[0].ndim - (module.weight.ndim - 1 if isinstance(module, CONVOLUTIONS) else 1)
            read = args[0].movedim(dim, 0)[positions(slot, some_units(group))].flatten(1)
            spread[group] = max(spread[group], float((read.max(1).values - read.min(1).values).max()))

        return look

    with subject.unchanged(), ExitStack() as stack:
        for number, group in enumerate(groups):
            make_constant(subject, group, some_units(group), seed=number)
            for slot in group.outgoing:
                stack.callback(slot.module.register_forward_pre_hook(looking(group, slot)).remove)
        subject.run()
    return [group for group in groups if spread[group] > 1e-9]


def _give_biases(groups: Sequence[UnitGroup]) -> None:
    for group in groups:
        for slot in (*group.incoming, *group.outgoing):
            module = slot.module
            if module.bias is None:
                outputs = module.weight.shape[1 if type(module).__name__ == "Conv1D" else 0]
                module.bias = nn.Parameter(module.weight.new_zeros(outputs))


@torch.no_grad()
def _as_at_birth(group: UnitGroup, units: Tensor) -> None:
    """Give the units what a replacement will, but for their weights: what stands before a coupling norm is felt."""
    for slot in (*group.incoming, *group.scales):
        for name, tensor in unit_tensors(slot).items():
            is_drawn = any(slot is other for other in _drawn(group))
            if not isinstance(slot.module, COUPLING) and not (is_drawn and name == "weight"):
                born = 0.25 if isinstance(slot.module, nn.PReLU) else BIRTH[name]
                tensor[owned(slot, tensor, units)] = 0.0 if is_drawn else born


def _drawn(group: UnitGroup) -> list[Slot]:
    """Producers, and depthwise convolutions on the way."""
    return [*group.incoming, *(slot for slot in group.scales if isinstance(slot.module, CONVOLUTIONS))]


def _kept(group: UnitGroup, units: Tensor) -> list[Tensor] | Tensor | None:
    """For groups whose norm couples units, their own weights as the fresh ones; else None, for draws."""
    if not is_coupled(group):
        return None
    kept = []
    for slot in _drawn(group):
        rows = torch.cat([positions(slot, unit[None]) for unit in units])  # in the order of the units
        kept.append(slot.module.weight.detach().index_select(slot.dim, rows).movedim(slot.dim, 0).clone())
    return kept if len(kept) > 1 else kept[0]


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _prove_nothing_else_changed(
    model: nn.Module,
    groups: Sequence[UnitGroup],
    units: Sequence[Tensor],
    before: dict[str, Tensor],
    biases: bool,
) -> None:
    """Bit by bit: what the units do not own is as it was, but for the consumers' biases."""
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


def _prove_reborn(groups: Sequence[UnitGroup], units: Sequence[Tensor], before: dict[str, Tensor]) -> None:
    """Replaced units have weights of their own again, and nobody listens, other than units that are new themselves."""
    newborn = [
        (slot, chosen) for group, chosen in zip(groups, units, strict=True) for slot in (*group.incoming, *group.scales)
    ]
    for group, chosen in zip(groups, units, strict=True):
        for slot in group.outgoing:
            weight = slot.module.weight.detach()
            heard = owned(slot, weight, chosen)
            for other, fresh in newborn:
                if other.module is slot.module:
                    heard &= ~owned(other, weight, fresh)
            assert not weight[heard].any(), f"{group.name}: {slot.name} still reads replaced units"
        for slot in group.incoming:
            weight = slot.module.weight.detach()
            assert is_coupled(group) or weight[owned(slot, weight, chosen)].any(), f"{group.name}: not fresh"


def _distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Largest change, in units of the largest output."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))
