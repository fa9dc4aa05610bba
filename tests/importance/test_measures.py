"""What is measured of a batch does not depend on how the batch came; custom and random measures."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gnt import GnT, register_utility
from gnt.importance import MEASURES
from tests.helpers.strategies import BUILT_IN_MEASURES, engine_settings, networks, seeds, training_runs
from tests.helpers.training_run import TrainingRun, differences

DOUBLE = (torch.float64,)
untrained_runs = training_runs(of=networks(dtypes=DOUBLE), settings=engine_settings(), cases=st.none())
MEASURED = ("mean_feature", "corrected_mean_feature", "utility", "corrected_utility", "age")


def assert_same_measurements(one: GnT, other: GnT) -> None:
    assert one.updates == other.updates
    for mine, theirs in zip(one.groups, other.groups, strict=True):
        for name in MEASURED:
            a, b = getattr(mine.state, name), getattr(theirs.state, name)
            scale = max(1.0, float(b.abs().max()))
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11 * scale, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("utility", BUILT_IN_MEASURES)
@given(
    of=networks(dtypes=DOUBLE),
    sizes=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(sum), min_size=1, max_size=3),
    decay_rate=st.sampled_from([0.0, 0.9]),
    seed=seeds,
)
def test_micro_batches_count_as_the_batch_they_make_up(utility, of, sizes, decay_rate, seed):
    """Each weighted by its samples; an empty one counts nothing."""
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
def test_recorded_forwards_count_as_one(run, parts):
    """Gradient accumulation: several forwards in training mode, then one update. Others leave no trace."""
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
def test_features_given_or_recorded_are_the_same(run, updates):
    given_run = run.restarted()
    for _ in range(updates):
        seed = int(torch.randint(2**31, (), generator=run.data))
        x = run.randn(3, *run.shape)
        torch.manual_seed(seed)
        features = given_run.consumer_inputs(x)
        torch.manual_seed(seed)
        run.net(x)
        run.engine.update()
        given_run.engine.update(features)
    assert_same_measurements(run.engine, given_run.engine)


@pytest.fixture(autouse=True, scope="module")
def registry():
    """What is registered here is forgotten afterwards."""
    yield
    MEASURES.pop("a test's own", None)


def network(units: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, units), nn.Tanh(), nn.Linear(units, 1))


@given(
    worth=st.lists(st.integers(-100, 100), min_size=2, max_size=8, unique=True),
    averaged=st.booleans(),
    corrected=st.booleans(),
)
def test_a_registered_measure_decides(worth: list[int], averaged: bool, corrected: bool):
    """The units of the lowest numbers are replaced, in their order."""
    values = torch.tensor(worth, dtype=torch.float32)
    updates = iter((1.0, 4.0))

    def measure(signals) -> Tensor:
        assert signals.magnitude.shape == signals.outgoing.shape == signals.deviation.shape == (len(worth), 1)
        assert signals.incoming.shape == (signals.num_units,) == (len(worth),)
        return next(updates) * values

    register_utility("a test's own", measure, averaged=averaged, corrected=corrected)
    engine = GnT(
        network(len(worth)), utility="a test's own", replacement_rate=0.5, maturity_threshold=1, decay_rate=0.5
    )
    for _ in range(2):
        engine.update([torch.randn(3, len(worth))])
    found = engine.groups[0].state.corrected_utility
    average = (1 / 4 + 4 / 2) / (3 / 4 if corrected else 1.0)
    torch.testing.assert_close(found, average * values if averaged else 4 * values)
    assert engine.select()[0].tolist() == values.argsort().tolist()[: len(worth) // 2]


@given(units=st.integers(1, 20), seed=seeds, updates=st.integers(1, 3))
def test_the_random_measure_draws_from_the_engines_generator(units, seed, updates):
    """And from no other: torch's global generator stays where it is."""
    generator = torch.Generator().manual_seed(seed)
    engine = GnT(network(units), utility="random", generator=generator)
    untouched, expected = torch.random.get_rng_state(), torch.Generator().manual_seed(seed)
    for _ in range(updates):
        engine.update([torch.ones(1, units)])
        drawn = torch.rand(units, generator=expected)
        assert torch.equal(engine.groups[0].state.corrected_utility, drawn)
    assert torch.equal(torch.random.get_rng_state(), untouched)


@given(run=untrained_runs)
def test_replacements_draw_from_the_engines_generator(run):
    """And from no other: engines with generators of the same seed draw the same, whatever else is drawn."""
    other = run.restarted()
    units = [torch.arange(0, group.num_units, 2) for group in run.engine.groups]
    untouched = torch.random.get_rng_state()
    run.engine.replace(units)
    assert torch.equal(torch.random.get_rng_state(), untouched)
    torch.rand(5)
    other.engine.replace(units)
    assert not differences(run.full_state(), other.full_state())
