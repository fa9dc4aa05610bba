"""Saved and loaded, a life goes on as if it had never been interrupted."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.strategies import choices, engine_settings, lives
from tests.helpers.training import differences

STEPS = st.integers(0, 5)
busy = lives(settings=engine_settings(replacement_rate=0.3, maturity_threshold=1)).filter(
    # torch loads the factors that NAdam and ASGD keep in float32 as the parameters' dtype, and goes on in that
    lambda life: life.dtype == torch.float32 or not {"mu", "mu_product"}.intersection(life.case.shared)
)


@given(life=busy, before=STEPS, after=STEPS)
def test_a_resumed_life_is_the_uninterrupted_one_bit_for_bit(life, before, after):
    """Network, optimizer, engine and its generator, through a file read with ``weights_only=True``."""
    life.live(before)
    other = life.again()
    other.resume(life.saved(), life.data.get_state())
    assert not differences(life.everything(), other.everything())
    assert life.live(after) == other.live(after)
    assert not differences(life.everything(), other.everything())
    for mine, theirs in zip(life.engine.groups, other.engine.groups, strict=True):
        assert mine.state.accumulated == theirs.state.accumulated
        assert mine.state.replaced == theirs.state.replaced
    assert life.engine.updates == other.engine.updates
    assert str(life.engine.report()) == str(other.engine.report())


@given(life=busy, steps=STEPS)
def test_a_saved_state_is_a_copy_and_comes_back_as_it_was(life, steps):
    """What was saved, or loaded, does not change as the engine lives on; loaded and saved again it is the same."""
    life.live(steps)
    saved = life.engine.state_dict()
    there_and_back = life.saved()["gnt"]
    life.live(2)
    assert_same(saved, there_and_back)
    life.engine.load_state_dict(there_and_back)
    assert_same(life.engine.state_dict(), saved)
    life.live(2)
    assert_same(there_and_back, saved)


@given(life=busy, before=STEPS, data=st.data())
def test_a_resumed_life_takes_a_users_choice_too(life, before, data):
    life.live(before)
    other = life.again()
    other.resume(life.saved(), life.data.get_state())
    units = data.draw(choices(life))
    life.engine.replace(units)
    other.engine.replace(units)
    assert life.live(2) == other.live(2)
    assert not differences(life.everything(), other.everything())


@given(life=busy, steps=st.integers(1, 6))
def test_a_step_is_update_select_replace(life, steps):
    """`step` and its three parts by hand give the same life, bit by bit."""
    twin = life.again()
    life.live(steps)
    for _ in range(steps):
        twin.learn()
        twin.engine.replace(twin.engine.select())
    assert not differences(life.everything(), twin.everything())


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
