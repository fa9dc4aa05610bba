"""Saved and loaded, a life goes on as if it had never been interrupted."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.strategies import engine_settings, training_runs, unit_choices
from tests.helpers.training_run import differences

STEPS = st.integers(0, 5)
busy = training_runs(settings=engine_settings(replacement_rate=0.3, maturity_threshold=1)).filter(
    # torch loads the factors that NAdam and ASGD keep in float32 as the parameters' dtype, and goes on in that
    lambda run: run.dtype == torch.float32 or not {"mu", "mu_product"}.intersection(run.case.shared)
)


@given(run=busy, before=STEPS, after=STEPS)
def test_a_resumed_life_is_the_uninterrupted_one_bit_for_bit(run, before, after):
    """Network, optimizer, engine and its generator, through a file read with ``weights_only=True``."""
    run.train(before)
    other = run.restarted()
    other.load_checkpoint(run.checkpoint(), run.data.get_state())
    assert not differences(run.full_state(), other.full_state())
    assert run.train(after) == other.train(after)
    assert not differences(run.full_state(), other.full_state())
    for mine, theirs in zip(run.engine.groups, other.engine.groups, strict=True):
        assert mine.state.accumulated == theirs.state.accumulated
        assert mine.state.replaced == theirs.state.replaced
    assert run.engine.updates == other.engine.updates
    assert str(run.engine.report()) == str(other.engine.report())


@given(run=busy, steps=STEPS)
def test_a_saved_state_is_a_copy_and_comes_back_as_it_was(run, steps):
    """What was saved, or loaded, does not change as the engine lives on; loaded and saved again it is the same."""
    run.train(steps)
    saved = run.engine.state_dict()
    there_and_back = run.checkpoint()["gnt"]
    run.train(2)
    assert_same(saved, there_and_back)
    run.engine.load_state_dict(there_and_back)
    assert_same(run.engine.state_dict(), saved)
    run.train(2)
    assert_same(there_and_back, saved)


@given(run=busy, before=STEPS, data=st.data())
def test_a_resumed_life_takes_a_users_choice_too(run, before, data):
    run.train(before)
    other = run.restarted()
    other.load_checkpoint(run.checkpoint(), run.data.get_state())
    units = data.draw(unit_choices(run))
    run.engine.replace(units)
    other.engine.replace(units)
    assert run.train(2) == other.train(2)
    assert not differences(run.full_state(), other.full_state())


@given(run=busy, steps=st.integers(1, 6))
def test_a_step_is_update_select_replace(run, steps):
    """`step` and its three parts by hand give the same run, bit by bit."""
    twin = run.restarted()
    run.train(steps)
    for _ in range(steps):
        twin.train_without_replacement()
        twin.engine.replace(twin.engine.select())
    assert not differences(run.full_state(), twin.full_state())


def assert_same(a: object, b: object) -> None:
    """The same nested dicts and lists, with tensors of the same bits."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif hasattr(a, "shape"):
        assert not differences({"": a}, {"": b})
    else:
        assert a == b
