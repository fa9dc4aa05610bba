"""Measured utilities do not depend on how a batch is supplied; registered measures and the random measure."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gnt import GnT, register_utility, trace
from gnt.importance import MEASURES, Importance
from tests.helpers.measures import COVERING_MEASURES
from tests.helpers.strategies import BUILT_IN_MEASURES, engine_settings, networks, seeds, training_runs
from tests.helpers.training_run import TrainingRun, differences

DOUBLE = (torch.float64,)
untrained_runs = training_runs(of=networks(dtypes=DOUBLE), settings=engine_settings(), cases=st.none())
MEASURED = ("mean_feature", "corrected_mean_feature", "utility", "corrected_utility", "age")


def assert_same_measurements(engine: GnT, other: GnT) -> None:
    assert engine.updates == other.updates
    for group, other_group in zip(engine.groups, other.groups, strict=True):
        for name in MEASURED:
            a, b = getattr(group.state, name), getattr(other_group.state, name)
            scale = max(1.0, float(b.abs().max()))
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11 * scale, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("utility", [name for name in COVERING_MEASURES if name in BUILT_IN_MEASURES])
@given(
    of=networks(dtypes=DOUBLE),
    sizes=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(sum), min_size=1, max_size=3),
    decay_rate=st.sampled_from([0.0, 0.9]),
    seed=seeds,
)
def test_micro_batches_equal_the_joined_batch(utility, of, sizes, decay_rate, seed):
    """Micro-batches are weighted by their number of samples; an empty one has no effect."""
    settings = {"utility": utility, "decay_rate": decay_rate}
    joined = TrainingRun(of.net, of.shape, None, settings, seed)
    split = joined.restarted()
    for parts in sizes:
        features = joined.consumer_inputs(joined.randn(max(sum(parts), 2), *of.shape))
        features = [feature[: sum(parts)] for feature in features]
        joined.engine.update(features)
        split.engine.update([list(feature.split(parts)) for feature in features])
    assert_same_measurements(joined.engine, split.engine)


@given(
    run=training_runs(
        of=networks(norms=("group", "layer"), dropout=False, dtypes=DOUBLE),
        settings=engine_settings(),
        cases=st.none(),
    ),
    parts=st.lists(st.integers(2, 3), min_size=1, max_size=3),
)
def test_several_recorded_forwards_equal_one_joined_forward(run, parts):
    """Gradient accumulation: forwards without gradients or in eval mode in between are ignored."""
    joined = run.restarted()
    x = run.randn(sum(parts), *run.shape)
    joined.net(x)
    for part in x.split(parts):
        run.net(part)
        with torch.no_grad():
            run.net(100 + part)
    run.net.eval()
    run.net(100 + x)
    run.net.train()
    joined.engine.update()
    run.engine.update()
    assert_same_measurements(run.engine, joined.engine)


@given(run=untrained_runs, updates=st.integers(1, 4))
def test_passed_and_recorded_features_give_the_same_measurements(run, updates):
    passed_run = run.restarted()
    for _ in range(updates):
        seed = int(torch.randint(2**31, (), generator=run.data))
        x = run.randn(3, *run.shape)
        torch.manual_seed(seed)
        features = passed_run.consumer_inputs(x)
        torch.manual_seed(seed)
        run.net(x)
        run.engine.update()
        passed_run.engine.update(features)
    assert_same_measurements(run.engine, passed_run.engine)


@pytest.fixture(autouse=True, scope="module")
def registry():
    """Remove the measure that this module registers."""
    yield
    MEASURES.pop("test_measure", None)


def network(units: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, units), nn.Tanh(), nn.Linear(units, 1))


@given(
    values=st.lists(st.integers(-100, 100), min_size=2, max_size=8, unique=True),
    averaged=st.booleans(),
    corrected=st.booleans(),
)
def test_a_registered_measure_decides_which_units_are_replaced(values: list[int], averaged: bool, corrected: bool):
    """The units with the lowest values are selected, in ascending order of value."""
    utilities = torch.tensor(values, dtype=torch.float32)
    factors = iter((1.0, 4.0))

    def measure(signals) -> Tensor:
        assert signals.magnitude.shape == signals.outgoing.shape == signals.deviation.shape == (len(values), 1)
        assert signals.incoming.shape == (signals.num_units,) == (len(values),)
        return next(factors) * utilities

    register_utility("test_measure", measure, averaged=averaged, corrected=corrected)
    engine = GnT(
        network(len(values)), utility="test_measure", replacement_rate=0.5, maturity_threshold=1, decay_rate=0.5
    )
    for _ in range(2):
        engine.update([torch.randn(3, len(values))])
    corrected_utility = engine.groups[0].state.corrected_utility
    average = (1 / 4 + 4 / 2) / (3 / 4 if corrected else 1.0)
    torch.testing.assert_close(corrected_utility, average * utilities if averaged else 4 * utilities)
    assert engine.select()[0].tolist() == utilities.argsort().tolist()[: len(values) // 2]


@given(units=st.integers(1, 20), seed=seeds, updates=st.integers(1, 3))
def test_the_random_measure_draws_only_from_the_engines_generator(units, seed, updates):
    """torch's global generator does not advance."""
    generator = torch.Generator().manual_seed(seed)
    engine = GnT(network(units), utility="random", generator=generator)
    global_state, expected = torch.random.get_rng_state(), torch.Generator().manual_seed(seed)
    for _ in range(updates):
        engine.update([torch.ones(1, units)])
        drawn = torch.rand(units, generator=expected)
        assert torch.equal(engine.groups[0].state.corrected_utility, drawn)
    assert torch.equal(torch.random.get_rng_state(), global_state)


@given(run=untrained_runs)
def test_replacements_draw_only_from_the_engines_generator(run):
    """Engines whose generators have the same seed draw the same weights, whatever the global generator draws."""
    other = run.restarted()
    units = [torch.arange(0, group.num_units, 2) for group in run.engine.groups]
    global_state = torch.random.get_rng_state()
    run.engine.replace(units)
    assert torch.equal(torch.random.get_rng_state(), global_state)
    torch.rand(5)
    other.engine.replace(units)
    assert not differences(run.full_state(), other.full_state())


@pytest.mark.parametrize("both", [True, False])
def test_the_sum_of_outgoing_weights_is_over_the_consumers_that_ran(both):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.small, self.large = nn.Linear(4, 6), nn.Linear(6, 1), nn.Linear(6, 50)

        def forward(self, x: Tensor, both: bool) -> Tensor:
            h = torch.relu(self.body(x))
            return self.small(h).sum() + (self.large(torch.tanh(h)).square().sum() if both else 0)

    torch.manual_seed(0)
    net, x = Net(), torch.randn(5, 4)
    importance = Importance(trace(net, examples=[(x, True), (x, False)]), "uncorrected_contribution", average="latest")
    net(x, both).backward()
    importance.update()
    with torch.no_grad():
        h = torch.relu(net.body(x))
        expected = h.mean(0) * net.small.weight.abs().sum(0)
        if both:
            expected += torch.tanh(h).mean(0) * net.large.weight.abs().sum(0)
    torch.testing.assert_close(importance.values[0], expected)
