"""The engine against literal reference implementations ("twins"): same data and fresh weights, each step, float64."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from gnt import GnT
from gnt.units import UnitGroup
from tests.twins.engine import MEASURES, ArxivEquations, HiddenLayer, NatureAlgorithm, mean_per_sum
from tests.twins.networks import NETWORKS, Builder, TwinNetworks, conv_flatten, grouped, mlp3, mlp_norms

STEPS = 90


def assert_close(actual: object, expected: object, name: str) -> None:
    """Equal up to 1e-12 of the largest entry."""
    a, b = (torch.as_tensor(value).detach().double() for value in (actual, expected))
    difference, size = float((a - b).abs().max()), float(b.abs().max())
    assert difference <= 1e-12 * size, f"{name} differs by {difference:.3g}, the largest entry is {size:.3g}"


def assert_same_end_of_step(gnt: GnT, pair: TwinNetworks, utility: str, t: int) -> None:
    """Compare units and networks after the replacements, then copy the weights so both start the next step equal."""
    for group, layer in zip(gnt.groups, pair.layers, strict=True):
        where = f"step {t}, group {group.name}:"
        assert group.state.age.tolist() == layer.age.tolist(), f"{where} age"
        assert group.state.accumulated == layer.accumulated, f"{where} accumulated"
        assert_close(group.state.utility, layer.utility * mean_per_sum(layer, utility), f"{where} utility")
    twin_state = pair.twin_net.state_dict()
    for name, value in pair.net.state_dict().items():
        assert_close(value, twin_state[name], f"step {t}: {name}")
        twin_state[name].copy_(value)  # otherwise batch norm amplifies rounding errors over the steps


def assert_same_measurements(gnt: GnT, pair: TwinNetworks, utility: str, t: int) -> None:
    """Compare utilities and mean features before units are selected."""
    for group, layer in zip(gnt.groups, pair.layers, strict=True):
        state, where = group.state, f"step {t}, group {group.name}:"
        scale = mean_per_sum(layer, utility)
        assert_close(state.corrected_utility, layer.corrected_utility * scale, f"{where} corrected_utility")
        assert_close(state.mean_feature, layer.mean_feature, f"{where} mean_feature")
        assert_close(state.corrected_mean_feature, layer.corrected_mean_feature, f"{where} corrected_mean_feature")


def assert_no_tie(layer: HiddenLayer, chosen: Sequence[int], maturity: int, t: int) -> None:
    """Fail if the selection depends on a near tie, where engine and twin may differ by rounding."""
    kept = [i for i in range(layer.num_units) if layer.age[i] > maturity and i not in chosen]
    if chosen and kept:
        low, high = max(layer.corrected_utility[chosen]), min(layer.corrected_utility[kept])
        assert high - low > 1e-9 * high, f"step {t}: {low} and {high} are nearly equal; use another seed"


def run_side_by_side(pair: TwinNetworks, gnt: GnT, twin: ArxivEquations, utility: str) -> int:
    """Run both; each selects units itself, with the same fresh weights. Returns the number of replaced units."""
    count = 0
    for t in range(STEPS):
        features = pair.learn()
        gnt.update()
        twin.update(features)
        assert_same_measurements(gnt, pair, utility, t)
        selected, expected = gnt.select(), twin.select()
        chosen = [units.tolist() for units in selected]
        for layer, units in zip(pair.layers, expected, strict=True):
            assert_no_tie(layer, units, twin.maturity, t)
        assert [sorted(units) for units in chosen] == [sorted(units) for units in expected], f"step {t}"
        fresh = [{i: pair.draw_incoming(number) for i in units} for number, units in enumerate(chosen)]
        _, incoming = pair.stack(fresh)
        gnt.replace(selected, incoming=incoming)
        twin.replace(chosen, [rows.numpy() for rows in incoming])
        assert_same_end_of_step(gnt, pair, utility, t)
        count += sum(map(len, expected))
    return count


@pytest.mark.parametrize("utility", MEASURES)
@pytest.mark.parametrize("build", NETWORKS)
def test_engine_equals_the_arxiv_equations(build: Builder, utility: str) -> None:
    pair = TwinNetworks(build)
    settings = {"replacement_rate": 0.043, "maturity_threshold": 12, "decay_rate": 0.93}
    gnt = GnT(pair.net, pair.opt, utility=utility, **settings)
    assert run_side_by_side(pair, gnt, ArxivEquations(pair.layers, *settings.values(), utility), utility) > 20


@pytest.mark.parametrize("build", [mlp3, grouped])
def test_engine_equals_the_arxiv_equations_where_some_biases_may_not_move(build: Builder) -> None:
    class EveryOther:
        def protected(self, group: UnitGroup) -> None:
            return None

        def movable_bias(self, bias: Tensor) -> Tensor:
            return torch.arange(len(bias)) % 2 == 0

    pair = TwinNetworks(build)
    settings = {"replacement_rate": 0.043, "maturity_threshold": 12, "decay_rate": 0.93}
    for layer in pair.layers:
        layer.movable = [k % 2 == 0 for k in range(len(layer.consumer_weight))]
    twin = ArxivEquations(pair.layers, *settings.values(), "contribution")
    assert run_side_by_side(pair, GnT(pair.net, pair.opt, protect=EveryOther(), **settings), twin, "contribution") > 20


@pytest.mark.parametrize("build", [mlp3, conv_flatten, grouped])
def test_engine_equals_the_arxiv_equations_with_stochastic_counts(build: Builder) -> None:
    """The rate is high enough that several units of a group are replaced at once."""

    class Engine(GnT):
        draws = random.Random(6)

        def _uniform(self) -> float:
            return self.draws.random()

    class Twin(ArxivEquations):
        draws = random.Random(6)

        def uniform(self, number: int) -> float:
            return self.draws.random()

    pair, utility = TwinNetworks(build), "zero_contribution"
    settings = {"replacement_rate": 0.45, "maturity_threshold": 6, "decay_rate": 0.9}
    gnt = Engine(pair.net, pair.opt, utility=utility, accumulate=False, **settings)
    twin = Twin(pair.layers, *settings.values(), utility, accumulate=False)
    assert run_side_by_side(pair, gnt, twin, utility) > 100


@pytest.mark.parametrize("build", NETWORKS)
def test_engine_equals_algorithm_1_when_it_replaces_the_same_units(build: Builder) -> None:
    """Utilities, ages, accumulators, counts and networks agree; selections agree among units of equal age.

    Algorithm 1 does not correct for age, so of two units with the same utility it replaces the younger.
    """
    pair = TwinNetworks(build)
    settings = {"replacement_rate": 0.009, "maturity_threshold": 15, "decay_rate": 0.97}
    gnt = GnT(pair.net, pair.opt, utility="contribution", bias_transfer=False, **settings)
    twin = NatureAlgorithm(pair.layers, *settings.values())
    selected_before = [False] * len(pair.layers)
    for t in range(STEPS):
        features = pair.learn()
        gnt.update()
        ages = [group.state.age.numpy().copy() for group in gnt.groups]
        raw = [group.state.utility.clone() for group in gnt.groups]
        fresh = twin.step(features, pair.draw_incoming)
        for number, (units, layer) in enumerate(zip(gnt.select(), pair.layers, strict=True)):
            where = f"step {t}, layer {number}:"
            uncorrected, expected = layer.corrected_utility, [*fresh[number]]
            assert_close(raw[number], uncorrected * mean_per_sum(layer, "contribution"), f"{where} utility")
            corrected = uncorrected / (1 - twin.decay ** ages[number])
            eligible = [i for i in range(layer.num_units) if ages[number][i] > twin.maturity]
            lowest = sorted(eligible, key=corrected.__getitem__)[: len(expected)]
            assert units.tolist() == lowest, f"{where} the engine's selection"
            if expected and not selected_before[number]:
                assert units.tolist() == expected, f"{where} the first selection, among units of equal age"
                selected_before[number] = True
        units, incoming = pair.stack(fresh)
        gnt.replace(units, incoming=incoming)
        assert_same_end_of_step(gnt, pair, "contribution", t)
    assert all(selected_before)


@pytest.mark.parametrize("build", [mlp3, mlp_norms, conv_flatten, grouped])
def test_engine_equals_algorithm_1_once_the_age_correction_is_1(build: Builder) -> None:
    """With decay^maturity below rounding, the correction is exactly 1, and both select the same units."""
    pair = TwinNetworks(build)
    settings = {"replacement_rate": 0.017, "maturity_threshold": 60, "decay_rate": 0.5}
    assert 1 - 0.5**60 == 1
    gnt = GnT(pair.net, pair.opt, utility="contribution", bias_transfer=False, **settings)
    twin = NatureAlgorithm(pair.layers, *settings.values())
    count = 0
    for t in range(2 * STEPS):
        features = pair.learn()
        gnt.update()
        units, incoming = pair.stack(twin.step(features, pair.draw_incoming))
        chosen = gnt.select()
        assert [some.tolist() for some in chosen] == [some.tolist() for some in units], f"step {t}"
        gnt.replace(chosen, incoming=incoming)
        assert_same_end_of_step(gnt, pair, "contribution", t)
        count += sum(map(len, chosen))
    assert count > 10
