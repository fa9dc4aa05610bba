"""Every golden trace, for the whole run: the library and the literal twin against what was recorded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gnt import walk
from gnt.replacement.reinitialization import bound
from tests.golden import networks as nets
from tests.golden.compare import Comparison
from tests.golden.runners import Compiled, Engine, Twin
from tests.golden.traces import NAMES, Trace


@pytest.mark.parametrize("player", [Engine, Compiled, Twin])
@pytest.mark.parametrize("name", NAMES)
def test_a_trace_is_reproduced_for_the_whole_run(name: str, player: type) -> None:
    trace = Trace(name)
    Comparison(trace, player(trace)).play()


@pytest.mark.parametrize("name", NAMES)
def test_fresh_weights_have_the_recorded_bounds(name: str) -> None:
    """The published code ignores `init` for convolutions and takes the default bound."""
    trace = Trace(name)
    groups = walk(nets.build(trace, torch.float64))
    assert len(groups) == trace.n_hidden_layers
    for group, recorded in zip(groups, trace.bounds, strict=False):  # the last bound is of no hidden layer
        init = "default" if isinstance(group.producer, nn.Conv2d) else trace.init
        assert bound(group, init) == pytest.approx(recorded, rel=1e-12), f"group {group.name}, init {init}"


def test_all_traces_are_here() -> None:
    """A trace that is not found is not tested."""
    assert len(NAMES) == 25
