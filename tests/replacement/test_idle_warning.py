"""The warnings that no unit is due for a long time, and that none was replaced in 10000 updates."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

import gnt
from tests.helpers.small_runs import mlp

CASES = {  # settings, and the expected message or None for no warning
    "threshold": ({"maturity_threshold": 20_000}, "no unit has been eligible: maturity_threshold=20000 is longer"),
    "rate": ({"replacement_rate": 1e-9}, "no unit has been due: replacement_rate=1e-09 is low for groups of this size"),
    "stochastic counts": (
        {"replacement_rate": 1e-12, "accumulate": False},
        "no unit has been due: replacement_rate=1e-12 is low",
    ),
    "rate 0": ({"replacement_rate": 0.0}, None),
    "one unit replaced": ({"maturity_threshold": 20_000}, None),
}


@pytest.mark.parametrize(("name", "settings", "message"), [(name, *row) for name, row in CASES.items()], ids=CASES)
@pytest.mark.parametrize("call", ["step", "update"])
def test_warns_once_after_10000_idle_updates_and_names_the_setting(name, settings, message, call):
    engine = gnt.GnT(mlp(1, 2, 1), record=False, **settings)
    features = [torch.rand(2, 2) + 0.1]
    getattr(engine, call)(features)
    if name == "one unit replaced":
        engine.replace([[0]])
    engine.updates = engine.groups[0].state.updates = 9_990  # skip updates in which nothing happens
    engine.groups[0].state.recount_eligible()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for t in range(9_991, 10_003):
            getattr(engine, call)(features)
            assert len(caught) == (message is not None and t >= 10_000)
    assert engine.updates == 10_002
    if call == "update" and "due" in (message or ""):
        message = "GnT.select and GnT.replace, or GnT.step, were never called"
    for warning in caught:
        assert message in str(warning.message)
        assert "10000 updates" in str(warning.message)
        assert "GnT.report()" in str(warning.message)
        assert warning.filename == __file__  # points at the caller


def test_warns_after_10000_actual_updates():
    engine = gnt.GnT(mlp(1, 1, 1), record=False, replacement_rate=1e-9)
    features = [torch.rand(2, 1) + 0.1]
    for _ in range(9_999):
        engine.update(features)
    with pytest.warns(UserWarning, match="gnt has replaced nothing in 10000 updates"):
        engine.update(features)


LATE = {  # settings, and the update after which the first of 4 units is due
    "threshold": ({"maturity_threshold": 10_000}, 12_500),
    "rate": ({"replacement_rate": 1e-9, "maturity_threshold": 50}, 250_000_050),
    "strict": ({"replacement_rate": 2.0**-20, "maturity_threshold": 0, "accumulate": "one"}, 2**18 + 1),
    "beyond int64": ({"maturity_threshold": 2**64}, 2**64 + 2500),
    "soon": ({"maturity_threshold": 7000}, None),
    "never": ({"maturity_threshold": 2**64, "replacement_rate": 0.0}, None),
}


def warnings_of(run: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(("settings", "due"), LATE.values(), ids=LATE)
def test_warns_after_100_steps_if_the_first_unit_is_due_late(settings, due):
    engine = gnt.GnT(mlp(1, 4, 1), record=False, **settings)
    features = [torch.rand(2, 4) + 0.1]

    def steps(count: int) -> None:
        for _ in range(count):
            engine.step(features)

    assert not warnings_of(lambda: steps(99))
    messages = warnings_of(lambda: steps(50))
    assert len(messages) == (due is not None)
    sentence = f"the first unit is due after {engine.first_due()} updates"
    if due is not None:
        # one more if the sum of the shares is rounded down
        assert any(f"the first unit is due after {n} updates" in messages[0] for n in (due, due + 1))
        assert f"maturity_threshold={engine.maturity_threshold}" in messages[0]
    assert (sentence in str(engine.report())) is (engine.first_due() is not None)
    engine.updates = engine.groups[0].state.updates = 9_990
    engine.groups[0].state.recount_eligible()
    late = warnings_of(lambda: steps(20))
    assert bool(late) is (settings == LATE["soon"][0])  # once: not again after 10000 updates
    engine.replace([[0]])
    assert engine.first_due() is None
    assert "none was replaced yet" not in str(engine.report())


def test_the_early_warning_counts_the_units_of_one_member_of_an_ensemble():
    def make_net():
        return mlp(1, 4, 1)

    ensemble = gnt.Ensemble(make_net, [1, 2, 3], maturity_threshold=9_000)
    x, y = torch.randn(3, 2, 1), torch.randn(3, 2, 1)
    messages = warnings_of(lambda: [ensemble.learn(x, y) for _ in range(101)])
    single = gnt.GnT(mlp(1, 4, 1), record=False, maturity_threshold=9_000)
    assert abs(ensemble.gnt.first_due() - single.first_due()) <= 1
    assert len(messages) == 1
    assert f"the first unit is due after {ensemble.report().first_due} updates" in str(ensemble.report())


@pytest.mark.parametrize(("updates", "after"), [(5, 100), (9_000, 100), (9_950, 50), (20_000, 1)])
def test_a_loaded_run_warns_too(updates, after):
    """100 updates after loading, but at the latest after 10000 updates in all."""
    engine = gnt.GnT(mlp(1, 4, 1), record=False, maturity_threshold=30_000)
    state = engine.state_dict()
    engine.load_state_dict({**state, "updates": updates, "groups": [{**state["groups"][0], "updates": updates}]})
    features = [torch.rand(2, 4) + 0.1]
    assert not warnings_of(lambda: [engine.step(features) for _ in range(after - 1)])
    assert len(warnings_of(lambda: [engine.step(features) for _ in range(110)])) == 1
