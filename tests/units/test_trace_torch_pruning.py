"""`gnt.trace` agrees with Torch-Pruning's dependency graph, an independent tracer based on autograd.

To prune a unit, all tensor slices that belong to it must be found: rows of its producers, entries of its norms, columns
of its consumers. Both libraries must name the same modules and indices for each unit.

They differ where pruning requires less than replacement:

- Channels that are summed (a residual stream) can be pruned together, as one set over many layers. They cannot be
  replaced, because fresh weights in one layer would be added to the outputs of the others. gnt refuses them.
- A value of attention can be pruned with the columns that read it if the whole head is pruned. gnt refuses it, because
  softmax mixes positions, which the engine treats as samples.
- A depthwise convolution is pruned with the channels that it reads. If these are a residual stream, gnt takes the rows
  of the convolution as units, which the following norm separates from the stream.
- Torch-Pruning traces one mode, does not distinguish calls of one layer on two inputs, and does not follow the
  permutation of a channel shuffle. The checks in `test_trace_models` confirm gnt in these cases.
"""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gnt.units import UnitGroup
from tests.units.tracing.consumer_checks import positions
from tests.units.tracing.model_case import ATTENTION
from tests.units.tracing.model_under_test import ModelUnderTest, is_depthwise, is_weight_layer
from tests.units.tracing.model_zoo import CASES, REAL
from tests.units.tracing.traced_models import traced

Owned = dict[str, tuple[set[int], set[int]]]  # by module: rows (or entries of a norm), columns


class Conv1DPruner(tp.BasePruningFunc):
    """Describes transformers' Conv1D to Torch-Pruning; nothing is pruned."""

    def get_out_channels(self, layer: nn.Module) -> int:
        return layer.weight.shape[1]

    def get_in_channels(self, layer: nn.Module) -> int:
        return layer.weight.shape[0]

    def prune_out_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
        raise NotImplementedError

    def prune_in_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
        raise NotImplementedError


class TorchPruningGraph:
    """The slices that belong to a layer's outputs, according to Torch-Pruning."""

    def __init__(self, subject: ModelUnderTest) -> None:
        self.model = subject.model.eval()
        self.names = {module: name for name, module in self.model.named_modules()}
        self.graph = tp.DependencyGraph().build_dependency(
            self.model,
            subject.kwargs or subject.args,
            customized_pruners={Conv1D: Conv1DPruner()},
            output_transform=lambda output: getattr(output, "logits", output),
            verbose=False,
        )

    def group(self, layer: nn.Module, rows: list[int]) -> Owned:
        pruner = self.graph.get_pruner_of_module(layer)
        found: Owned = defaultdict(lambda: (set(), set()))
        for dependency, index in self.graph.get_pruning_group(layer, pruner.prune_out_channels, rows):
            if dependency.target.module in self.names:
                # norms and depthwise convolutions have a single pruning function for both sides
                columns = not self.graph.is_out_channel_pruning_fn(dependency.handler)
                found[self.names[dependency.target.module]][columns].update(index)
        return {name: (rows, columns) for name, (rows, columns) in found.items()}


def slices_of_unit(group: UnitGroup, unit: Tensor) -> Owned:
    """The slices that belong to a unit, according to its group."""
    found: Owned = defaultdict(lambda: (set(), set()))
    for slot in (*group.incoming, *group.scales):
        found[slot.name][0].update(positions(slot, unit).tolist())
    for slot in group.outgoing:
        found[slot.name][1].update(positions(slot, unit).tolist())
    return dict(found)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.oracle and case.groups])
def test_every_unit_owns_the_slices_that_are_pruned_with_it(name):
    subject, groups = traced(name)
    oracle = TorchPruningGraph(subject)
    for group in groups:
        first = group.incoming[0]
        for unit in torch.arange(group.num_units)[:, None]:
            theirs, ours = oracle.group(first.module, positions(first, unit).tolist()), slices_of_unit(group, unit)
            if is_depthwise(first.module):
                assert set(theirs) > set(ours)
                theirs = {name: theirs[name] for name in ours}
            assert ours == theirs, f"{group.name}, unit {unit}"


@pytest.mark.parametrize("name", [name for name, case in REAL.items() if case.oracle and case.groups])
def test_refused_layers_cannot_be_pruned_alone(name):
    """Units that one layer produces and weight layers read are refused only as inner units of attention."""
    subject, groups = traced(name)
    oracle = TorchPruningGraph(subject)
    alone, coupled = [], 0
    for refused in groups.refused:
        layer = oracle.model.get_submodule(refused.name)
        if is_weight_layer(layer):
            found = oracle.group(layer, [0])
            rows = [path for path, (rows, _) in found.items() if rows]
            producers = [path for path in rows if is_weight_layer(oracle.model.get_submodule(path))]
            coupled += len(producers) > 1
            if len(producers) == 1 and any(columns for _, columns in found.values()):
                alone.append(refused)
    assert coupled
    for refused in alone:
        assert ATTENTION in refused.reason, f"{refused.name} is refused, but could be pruned alone: {refused.reason}"
