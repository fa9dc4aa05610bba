"""Torch-Pruning's dependency graph, an independent tracer by autograd, agrees with `gnt.trace`.

To prune a unit is to find everything that must go with it: rows of its producers, entries of its norms, columns of its
consumers. That is a unit of a group here, so both must name the same modules and indices, unit by unit.

Where they part, because pruning asks for less than replacing does:

- Channels that are summed (a residual stream) can be pruned together, as one coupled set over many layers. They cannot
  be replaced: fresh weights in one layer would be added to what the others say. gnt refuses them.
- A value of attention can be pruned with the columns that read it, if the whole head goes. gnt refuses it, as softmax
  mixes positions that the engine takes for samples.
- A depthwise convolution is pruned with the channels that it reads. Where these are a residual stream, gnt takes the
  convolution's own rows for the unit, which the norm behind it sets apart from the stream.
- It traces one mode, and calls of one layer on two inputs look like one to it; it does not follow the permutation of a
  channel shuffle. There gnt is right, by the proofs in `test_trace_models`.
"""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gnt.units import UnitGroup
from tests.units.tracing.model_zoo import CASES, REAL
from tests.units.tracing.proofs import positions
from tests.units.tracing.subjects import CONVOLUTIONS, Subject, reads_units
from tests.units.tracing.traced_case import ATTENTION
from tests.units.tracing.traced_once import traced

Owned = dict[str, tuple[set[int], set[int]]]  # by module: rows (or entries of a norm), columns


class Transposed(tp.BasePruningFunc):
    """Tells Torch-Pruning of transformers' Conv1D; nothing is pruned here."""

    def get_out_channels(self, layer: nn.Module) -> int:
        return layer.weight.shape[1]

    def get_in_channels(self, layer: nn.Module) -> int:
        return layer.weight.shape[0]

    def prune_out_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
        raise NotImplementedError

    def prune_in_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
        raise NotImplementedError


class Oracle:
    """What must go with a layer's outputs, according to Torch-Pruning."""

    def __init__(self, subject: Subject) -> None:
        self.model = subject.model.eval()
        self.names = {module: name for name, module in self.model.named_modules()}
        self.graph = tp.DependencyGraph().build_dependency(
            self.model,
            subject.kwargs or subject.args,
            customized_pruners={Conv1D: Transposed()},
            output_transform=lambda output: getattr(output, "logits", output),
            verbose=False,
        )

    def group(self, layer: nn.Module, rows: list[int]) -> Owned:
        pruner = self.graph.get_pruner_of_module(layer)
        found: Owned = defaultdict(lambda: (set(), set()))
        for dependency, index in self.graph.get_pruning_group(layer, pruner.prune_out_channels, rows):
            if dependency.target.module in self.names:
                # norms and depthwise convolutions have one function for both
                columns = not self.graph.is_out_channel_pruning_fn(dependency.handler)
                found[self.names[dependency.target.module]][columns].update(index)
        return {name: (rows, columns) for name, (rows, columns) in found.items()}


def told(group: UnitGroup, unit: Tensor) -> Owned:
    """The same of our group."""
    found: Owned = defaultdict(lambda: (set(), set()))
    for slot in (*group.incoming, *group.scales):
        found[slot.name][0].update(positions(slot, unit).tolist())
    for slot in group.outgoing:
        found[slot.name][1].update(positions(slot, unit).tolist())
    return dict(found)


def is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, CONVOLUTIONS) and module.groups > 1 and module.weight.shape[1] == 1


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.oracle and case.groups])
def test_every_unit_owns_what_would_be_pruned_with_it(name):
    subject, groups = traced(name)
    oracle = Oracle(subject)
    for group in groups:
        first = group.incoming[0]
        for unit in torch.arange(group.num_units)[:, None]:
            theirs, ours = oracle.group(first.module, positions(first, unit).tolist()), told(group, unit)
            if is_depthwise(first.module):
                assert set(theirs) > set(ours)
                theirs = {name: theirs[name] for name in ours}
            assert ours == theirs, f"{group.name}, unit {unit}"


@pytest.mark.parametrize("name", [name for name, case in REAL.items() if case.oracle and case.groups])
def test_what_is_refused_could_not_be_pruned_alone(name):
    """What a single layer makes and weight layers read is refused as attention's only."""
    subject, groups = traced(name)
    oracle = Oracle(subject)
    alone, coupled = [], 0
    for refused in groups.refused:
        layer = oracle.model.get_submodule(refused.name)
        if reads_units(layer):
            found = oracle.group(layer, [0])
            rows = [path for path, (rows, _) in found.items() if rows]
            producers = [path for path in rows if reads_units(oracle.model.get_submodule(path))]
            coupled += len(producers) > 1
            if len(producers) == 1 and any(columns for _, columns in found.values()):
                alone.append(refused)
    assert coupled
    for refused in alone:
        assert ATTENTION in refused.reason, f"{refused.name} is refused, but could be pruned alone: {refused.reason}"
