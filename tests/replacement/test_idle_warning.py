"""The warning after 10000 updates in which no unit was replaced."""

from __future__ import annotations

import warnings

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
