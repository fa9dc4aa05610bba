"""Golden traces: the engine and the literal twin reproduce every recorded run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gnt import walk
from gnt.replacement.reinitialization import bound
from tests.golden import networks as nets
from tests.golden.compare import Comparison
from tests.golden.runners import EngineReplay, KernelEngineReplay, TwinReplay
from tests.golden.traces import NAMES, Trace


@pytest.mark.parametrize("implementation", [EngineReplay, KernelEngineReplay, TwinReplay])
@pytest.mark.parametrize("name", NAMES)
def test_every_step_equals_the_recorded_one(name: str, implementation: type) -> None:
    trace = Trace(name)
    Comparison(trace, implementation(trace)).replay()


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_have_the_recorded_bounds(name: str) -> None:
    """The published code ignores ``init`` for convolutions and uses the default bound."""
    trace = Trace(name)
    groups = walk(nets.build(trace, torch.float64))
    assert len(groups) == trace.n_hidden_layers
    for group, recorded in zip(
        groups, trace.bounds, strict=False
    ):  # the last recorded bound belongs to the output layer
        init = "default" if isinstance(group.producer, nn.Conv2d) else trace.init
        assert bound(group, init) == pytest.approx(recorded, rel=1e-12), f"group {group.name}, init {init}"


def test_all_traces_are_found() -> None:
    """A missing file would otherwise only remove its tests."""
    assert len(NAMES) == 25
