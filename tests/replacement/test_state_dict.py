"""A run that is saved and loaded continues exactly like an uninterrupted run."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

import gnt
from tests.helpers.small_runs import assert_same
from tests.helpers.strategies import engine_settings, training_runs, unit_choices
from tests.helpers.training_run import differences

STEPS = st.integers(0, 5)
runs_with_replacements = training_runs(settings=engine_settings(replacement_rate=0.3, maturity_threshold=1)).filter(
    # torch keeps some factors of NAdam and ASGD in float32 but loads them in the dtype of the parameters
    lambda run: run.dtype == torch.float32 or not {"mu", "mu_product"}.intersection(run.case.shared)
)


@given(run=runs_with_replacements, before=STEPS, after=STEPS)
def test_a_resumed_run_equals_the_uninterrupted_run_bit_for_bit(run, before, after):
    """Network, optimizer, engine and its generator, through a file read with ``weights_only=True``."""
    run.train(before)
    other = run.restarted()
    other.load_checkpoint(run.checkpoint(), run.data.get_state())
    assert not differences(run.full_state(), other.full_state())
    assert run.train(after) == other.train(after)
    assert not differences(run.full_state(), other.full_state())
    for group, other_group in zip(run.engine.groups, other.engine.groups, strict=True):
        assert group.state.accumulated == other_group.state.accumulated
        assert group.state.replaced == other_group.state.replaced
    assert run.engine.updates == other.engine.updates
    assert str(run.engine.report()) == str(other.engine.report())


@given(run=runs_with_replacements, steps=STEPS)
def test_a_saved_state_is_a_copy_and_survives_saving_and_loading(run, steps):
    """A saved or loaded state does not change with later steps; loading and saving it again gives the same state."""
    run.train(steps)
    saved = run.engine.state_dict()
    loaded = run.checkpoint()["gnt"]
    run.train(2)
    assert_same(saved, loaded)
    run.engine.load_state_dict(loaded)
    assert_same(run.engine.state_dict(), saved)
    run.train(2)
    assert_same(loaded, saved)


@given(run=runs_with_replacements, before=STEPS, data=st.data())
def test_a_resumed_run_replaces_chosen_units_like_the_original(run, before, data):
    run.train(before)
    other = run.restarted()
    other.load_checkpoint(run.checkpoint(), run.data.get_state())
    units = data.draw(unit_choices(run))
    run.engine.replace(units)
    other.engine.replace(units)
    assert run.train(2) == other.train(2)
    assert not differences(run.full_state(), other.full_state())


@given(run=runs_with_replacements, steps=st.integers(1, 6))
def test_step_equals_update_select_and_replace(run, steps):
    """`step` and its three parts give the same run, bit for bit."""
    other = run.restarted()
    run.train(steps)
    for _ in range(steps):
        other.train_without_replacement()
        other.engine.replace(other.engine.select())
    assert not differences(run.full_state(), other.full_state())


def test_a_loaded_state_counts_as_loaded_until_the_next_update():
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    engine = gnt.GnT(net)
    for loads in (1, 2):
        engine.load_state_dict(engine.state_dict())
        assert (engine.loaded, engine.loads) == (True, loads)
        net(torch.ones(5, 4)).sum().backward()
        engine.step()
        assert (engine.loaded, engine.loads) == (False, loads)
