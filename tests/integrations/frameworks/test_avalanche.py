"""Avalanche's strategies with the plugin: heads that grow, heads of several tasks, optimizers with an engine."""

from __future__ import annotations

import copy

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch.utils.data import TensorDataset

import gnt
from gnt.integrations.avalanche import ContinualBackprop
from tests.helpers.small_runs import assert_same

SETTINGS = {"replacement_rate": 0.1, "maturity_threshold": 2, "decay_rate": 0.9}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


class Growing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = torch.nn.Linear(6, 16), IncrementalClassifier(16, 2)

    def forward(self, x):
        return self.head(torch.relu(self.hidden(x)))


class Heads(MultiTaskModule):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = torch.nn.Linear(6, 16), MultiHeadClassifier(16, 2)

    def forward(self, x, task_labels):
        return self.head(torch.relu(self.hidden(x)), task_labels)


def benchmark(*, tasks=False):
    """Three experiences of two classes each."""
    y = torch.arange(6).repeat_interleave(16)
    x = torch.randn(len(y), 6, generator=torch.Generator().manual_seed(0)) + y[:, None]
    data = TensorDataset(x, y)
    data.targets = y.tolist()
    order = {"class_ids_from_zero_in_each_exp": True} if tasks else {}
    return nc_benchmark(data, data, 3, task_labels=tasks, shuffle=False, fixed_class_order=list(range(6)), **order)


def strategy(net, optimizer=None, plugins=()):
    optimizer = optimizer or torch.optim.Adam(net.parameters(), lr=0.01)
    plain = {"train_mb_size": 8, "train_epochs": 1, "evaluator": EvaluationPlugin()}
    return Naive(model=net, optimizer=optimizer, plugins=list(plugins), **plain)


@pytest.mark.parametrize("kind", [Growing, Heads])
def test_the_engine_follows_heads_that_grow(kind):
    torch.manual_seed(0)
    plugin, tasks = ContinualBackprop(**SETTINGS), benchmark(tasks=kind is Heads)
    run = strategy(kind(), plugins=[plugin])
    for number, experience in enumerate(tasks.train_stream, 1):
        run.train(experience)
        (group,) = plugin.engine.groups
        assert group.state.age.max() == plugin.engine.updates == 4 * number
        heads = {slot.module for slot in group.outgoing}
        assert heads <= set(run.model.modules())
        assert len(heads) == (number if kind is Heads else 1)
        run.eval(tasks.test_stream)  # makes the heads of classes and tasks that are not trained yet
    assert plugin.engine.groups[0].state.replaced > 8
    values = run.evaluator.get_last_metrics()
    assert values["gnt/replaced"] == plugin.engine.groups[0].state.replaced
    assert values["gnt/dead"] == plugin.engine.figures()["hidden/dead"]


def test_an_optimizer_with_an_engine_is_rebound_and_equals_an_attached_engine():
    runs = []
    for own in (True, False):
        torch.manual_seed(0)
        net, settings = Growing(), {**SETTINGS, "generator": torch.Generator().manual_seed(3)}
        if own:
            optimizer = gnt.optim.CBPAdam(net, lr=0.01, example_inputs=torch.zeros(2, 6), **settings)
            plugin = ContinualBackprop()
        else:
            optimizer, plugin = gnt.AdamGnT(net.parameters(), lr=0.01), ContinualBackprop(**settings)
        run = strategy(net, optimizer, [plugin])
        torch.manual_seed(1)
        for experience in benchmark().train_stream:
            run.train(experience)
        runs.append([dict(net.state_dict()), optimizer.state_dict()])
    assert_same(*runs)
    assert runs[0][1]["gnt"]["updates"] == 12


def test_a_copied_strategy_continues_bit_for_bit():
    torch.manual_seed(0)
    first, second, _ = benchmark().train_stream
    run = strategy(Growing(), plugins=[ContinualBackprop(**SETTINGS)])
    run.train(first)
    other = copy.deepcopy(run)
    states = []
    for each in (run, other):
        torch.manual_seed(1)
        each.train(second)
        states.append([dict(each.model.state_dict()), each.optimizer.state_dict()])
    assert_same(*states)


def test_layers_may_be_given():
    plugin = ContinualBackprop(layers=lambda net: [net.hidden, torch.nn.ReLU(), net.head.classifier], **SETTINGS)
    run = strategy(Growing(), plugins=[plugin])
    for experience in benchmark().train_stream:
        run.train(experience)
    assert plugin.engine.updates == 12
    assert plugin.engine.groups[0].consumers == (run.model.head.classifier,)


def test_wrong_use_is_an_error_before_training():
    with pytest.raises(TypeError, match="unknown setting rate: ContinualBackprop takes layers, include"):
        ContinualBackprop(rate=0.1)
    with pytest.raises(TypeError, match="include and exclude would be ignored"):
        ContinualBackprop(layers=[], include="a")
    with pytest.raises(TypeError, match="exclude must be a pattern or a list of patterns, got 3"):
        ContinualBackprop(exclude=3)
    net = Growing()
    optimizer = gnt.optim.CBPAdam(net, example_inputs=torch.zeros(2, 6))
    run = strategy(net, optimizer, [ContinualBackprop(replacement_rate=0.1)])
    with pytest.raises(ValueError, match="CBPAdam has an engine of its own: settings of ContinualBackprop"):
        run.train(benchmark().train_stream[0])
    assert optimizer.gnt.updates == 0
