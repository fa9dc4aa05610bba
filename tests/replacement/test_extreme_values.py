"""Measures with extreme or wrong values, edited selections, and incoming weights of a wrong kind."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import gnt
from gnt.importance import MEASURES
from gnt.replacement import selection
from tests.helpers.small_runs import assert_same, mlp

LARGEST = torch.finfo(torch.float32).max


@pytest.fixture
def measure(monkeypatch):
    """Registers a measure under the name "own", for one test."""

    def register(function, **settings):
        monkeypatch.setitem(MEASURES, "own", None)
        gnt.register_utility("own", function, **settings)

    return register


def engine_with_own_measure(**settings) -> gnt.GnT:
    return gnt.GnT(
        mlp(2, 6, 1), record=False, utility="own", **{"replacement_rate": 0.3, "maturity_threshold": 3, **settings}
    )


@pytest.mark.parametrize("value", [LARGEST, -LARGEST])
@pytest.mark.parametrize("averaged", [True, False])
def test_units_below_the_maturity_threshold_are_never_selected(measure, value, averaged):
    measure(lambda s: torch.full((s.num_units,), value), averaged=averaged)
    engine = engine_with_own_measure()
    state, total = engine.groups[0].state, 0
    for _ in range(30):
        age = state.age + 1
        (units,) = engine.step([torch.rand(2, 6)])
        assert (age[units] > 3).all()
        total += len(units)
    assert total > 5
    engine.load_state_dict(engine.state_dict())
    before = state.eligible
    state.recount_eligible()
    assert state.eligible == before


def test_overflowed_utilities_rank_below_units_that_are_not_eligible():
    utility = torch.tensor([torch.inf, torch.nan, 1.0, -torch.inf, 5.0, 0.0])
    eligible = torch.tensor([True, True, True, True, False, False])
    assert selection.lowest(utility, eligible, 4).tolist()[:2] == [3, 2]
    assert sorted(selection.lowest(utility, eligible, 4).tolist()) == [0, 1, 2, 3]
    assert selection.lowest_of_each(utility, eligible, 2, members=1).tolist() == [3, 2]


WRONG_MEASURES = {
    "complex": (lambda s: torch.ones(6, dtype=torch.complex64), ValueError, "floating point tensor of shape .6,.*comp"),
    "integers": (lambda s: torch.ones(6, dtype=torch.int64), ValueError, "'own' must return a dense floating point"),
    "bools": (lambda s: torch.ones(6, dtype=torch.bool), ValueError, "got dtype torch.bool"),
    "on meta": (lambda s: torch.ones(6, device="meta"), ValueError, "on meta"),
    "sparse": (lambda s: torch.ones(6).to_sparse(), ValueError, "layout torch.sparse_coo"),
    "inf": (lambda s: torch.full((6,), torch.inf), FloatingPointError, "values of utility 'own' of group '0' .* not"),
    "NaN": (lambda s: torch.full((6,), torch.nan), FloatingPointError, "values of utility 'own' of group '0' .* not"),
    "wider": (lambda s: torch.full((6,), 1e300, dtype=torch.float64), FloatingPointError, "values of utility 'own'"),
    "a number": (lambda s: 1.0, ValueError, "got float"),
}


@pytest.mark.parametrize(("function", "kind", "message"), WRONG_MEASURES.values(), ids=WRONG_MEASURES)
def test_wrong_values_of_a_measure_are_refused_by_name(measure, function, kind, message):
    measure(function)
    engine = engine_with_own_measure()
    before = copy.deepcopy(engine.state_dict())
    with pytest.raises(kind, match=message):
        engine.step([torch.rand(2, 6)])
    assert_same(engine.state_dict(), before)


def edit(units, how):
    if how == "in place":
        units[0] = units[1]
    elif how == "by numpy":
        units.numpy()[0] = units[1]
    elif how == "as .data":
        units.data[0] = units[1]
    else:
        units.resize_(len(units) + 1)[-1] = units[0]


@pytest.mark.parametrize("how", ["in place", "by numpy", "as .data", "resized"])
def test_a_unit_named_twice_in_an_edited_selection_is_refused(how):
    engine = gnt.GnT(mlp(2, 6, 1), record=False, replacement_rate=0.5, maturity_threshold=0)
    engine.update([torch.rand(2, 6)])
    (units,) = engine.select()
    before = copy.deepcopy(engine.state_dict())
    edit(units, how)
    with pytest.raises(ValueError, match="units of group '0' must be distinct"):
        engine.replace([units])
    assert_same(engine.state_dict(), before)


def test_after_an_edited_selection_the_count_of_eligible_units_is_right():
    engine = gnt.GnT(mlp(2, 6, 1), record=False, replacement_rate=0.5, maturity_threshold=2)
    state = engine.groups[0].state
    for _ in range(3):
        engine.update([torch.rand(2, 6)])
    engine.replace([[0]])
    engine.update([torch.rand(2, 6)])
    (units,) = engine.select()
    assert 0 not in units.tolist()
    units[0] = 0  # a unit that is not eligible
    engine.replace([units])
    eligible = state.eligible
    assert eligible == int(state.mature.sum())


def test_an_ensemble_refuses_an_edited_selection():
    ensemble = gnt.Ensemble(lambda: mlp(2, 6, 1), [1, 2], replacement_rate=0.5, maturity_threshold=0)
    engine = ensemble.gnt
    engine.update([torch.rand(2, 12)])
    (units,) = engine.select()
    units[0] = 1
    with pytest.raises(ValueError, match="replaces what its select"):
        engine.replace([units])


@pytest.mark.parametrize(
    ("incoming", "message"),
    [
        (torch.ones(1, 2, dtype=torch.complex64), "incoming weights of group '0' must be real numbers, got torch.comp"),
        ([[1j, 1.0]], "must be real numbers, got torch.complex64"),
        (torch.ones(1, 2, dtype=torch.bool), "must be real numbers, got torch.bool"),
        (torch.ones(1, 2, device="meta"), "must be real numbers, got torch.float32 on meta"),
        ("ab", "incoming weights of group '0' must be a tensor of shape .1, 2., got str"),
        ({}, "must be a tensor of shape .1, 2., got dict"),
        (torch.full((1, 2), 1e300, dtype=torch.float64), "must be finite"),
    ],
)
def test_incoming_weights_that_are_not_real_numbers_are_refused(incoming, message):
    net = mlp(2, 6, 1)
    engine = gnt.GnT(net, record=False)
    before = copy.deepcopy([net.state_dict(), engine.state_dict()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message):
            engine.replace([[3]], [incoming])
        for units in ([torch.ones(1, dtype=torch.complex64)], [torch.ones(1, dtype=torch.int64, device="meta")]):
            with pytest.raises(ValueError, match="must be a 1-d tensor of integer indices"):
                engine.replace(units)
    assert_same([net.state_dict(), engine.state_dict()], before)
