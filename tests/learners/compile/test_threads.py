"""Compiled learners in several threads."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import gnt
from tests.helpers.compiled_learners import run_graphs_uncompiled, samples
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, mlp

SEEDS = range(4)


@pytest.fixture(autouse=True)
def short_turns() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)


def trained_weights(seed: int, net: nn.Module, together: threading.Barrier | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    learner = gnt.ContinualBackprop(net, compile=True, generator=generator, **FREQUENT_REPLACEMENT)
    for t in range(8):
        if together is not None and t == 1:  # the step that captures the graph
            together.wait()
        learner.learn(*samples(100 * seed + t, net, 4))
    return torch.cat([each.detach().flatten() for each in net.parameters()])


def test_threads_that_capture_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    run_graphs_uncompiled(monkeypatch)
    nets = [mlp(4, 32, 32, 32, 2, seed=seed) for seed in SEEDS]  # here, as they draw from torch's global generator
    expected = [trained_weights(seed, copy.deepcopy(net)) for seed, net in zip(SEEDS, nets, strict=True)]
    found: dict[int, Tensor] = {}
    together = threading.Barrier(len(SEEDS))

    def run(seed: int) -> None:
        found[seed] = trained_weights(seed, nets[seed], together)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in SEEDS]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    torch.testing.assert_close([found.get(seed) for seed in SEEDS], expected, rtol=0, atol=0)
