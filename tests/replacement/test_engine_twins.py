"""The engine against the literal twins: the same data and fresh weights, step by step, in float64."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from gnt import GnT
from tests.twins.engine import MEASURES, ArxivEquations, HiddenLayer, NatureAlgorithm, mean_per_sum
from tests.twins.networks import NETWORKS, Builder, TwinNetworks, conv_flatten, grouped, mlp3, mlp_norms

STEPS = 90


def same(found: object, wanted: object, what: str) -> None:
    """Equal to 1e-12 of the largest entry."""
    a, b = (torch.as_tensor(value).detach().double() for value in (found, wanted))
    difference, size = float((a - b).abs().max()), float(b.abs().max())
    assert difference <= 1e-12 * size, f"{what} differs by {difference:.3g}, the largest entry is {size:.3g}"


def assert_same_end_of_step(gnt: GnT, pair: TwinNetworks, utility: str, t: int) -> None:
    """Units and networks as they stand after the replacements; the next step starts from the same weights."""
    for group, layer in zip(gnt.groups, pair.layers, strict=True):
        where = f"step {t}, group {group.name}:"
        assert group.state.age.tolist() == layer.age.tolist(), f"{where} age"
        assert group.state.accumulated == layer.accumulated, f"{where} accumulated"
        same(group.state.utility, layer.utility * mean_per_sum(layer, utility), f"{where} utility")
    theirs = pair.twin_net.state_dict()
    for name, value in pair.net.state_dict().items():
        same(value, theirs[name], f"step {t}: {name}")
        theirs[name].copy_(value)  # or batch norm, step by step, would blow the rounding up


def assert_same_measurements(gnt: GnT, pair: TwinNetworks, utility: str, t: int) -> None:
    """What was measured before anything was chosen."""
    for group, layer in zip(gnt.groups, pair.layers, strict=True):
        state, where = group.state, f"step {t}, group {group.name}:"
        scale = mean_per_sum(layer, utility)
        same(state.corrected_utility, layer.corrected_utility * scale, f"{where} corrected_utility")
        same(state.mean_feature, layer.mean_feature, f"{where} mean_feature")
        same(state.corrected_mean_feature, layer.corrected_mean_feature, f"{where} corrected_mean_feature")


def assert_no_tie(layer: HiddenLayer, chosen: Sequence[int], maturity: int, t: int) -> None:
    """A choice that rests on a tie would prove nothing, in either direction."""
    rest = [i for i in range(layer.num_units) if layer.age[i] > maturity and i not in chosen]
    if chosen and rest:
        low, high = max(layer.corrected_utility[chosen]), min(layer.corrected_utility[rest])
        assert high - low > 1e-9 * high, f"step {t}: {low} and {high} are as good as equal; take another seed"


def play(pair: TwinNetworks, gnt: GnT, twin: ArxivEquations, utility: str) -> int:
    """Engine and twin make their own choices, with the same fresh weights. Returns how many were replaced."""
    count = 0
    for t in range(STEPS):
        features = pair.learn()
        gnt.update()
        twin.update(features)
        assert_same_measurements(gnt, pair, utility, t)
        selected, wanted = gnt.select(), twin.select()
        chosen = [units.tolist() for units in selected]
        for layer, units in zip(pair.layers, wanted, strict=True):
            assert_no_tie(layer, units, twin.maturity, t)
        assert [sorted(units) for units in chosen] == [sorted(units) for units in wanted], f"step {t}"
        fresh = [{i: pair.draw_incoming(number) for i in units} for number, units in enumerate(chosen)]
        _, incoming = pair.stack(fresh)
        gnt.replace(selected, incoming=incoming)
        twin.replace(chosen, [rows.numpy() for rows in incoming])
        assert_same_end_of_step(gnt, pair, utility, t)
        count += sum(map(len, wanted))
    return count


@pytest.mark.parametrize("utility", MEASURES)
@pytest.mark.parametrize("build", NETWORKS)
def test_the_engine_equals_the_equations(build: Builder, utility: str) -> None:
    pair = TwinNetworks(build)
    rules = {"replacement_rate": 0.043, "maturity_threshold": 12, "decay_rate": 0.93}
    gnt = GnT(pair.net, pair.opt, utility=utility, **rules)
    assert play(pair, gnt, ArxivEquations(pair.layers, *rules.values(), utility), utility) > 20


@pytest.mark.parametrize("build", [mlp3, conv_flatten, grouped])
def test_the_engine_equals_the_equations_with_stochastic_counts(build: Builder) -> None:
    """And with several units of a group replaced at once."""

    class Engine(GnT):
        draws = random.Random(6)

        def _uniform(self) -> float:
            return self.draws.random()

    class Twin(ArxivEquations):
        draws = random.Random(6)

        def uniform(self, number: int) -> float:
            return self.draws.random()

    pair, utility = TwinNetworks(build), "zero_contribution"
    rules = {"replacement_rate": 0.45, "maturity_threshold": 6, "decay_rate": 0.9}
    gnt = Engine(pair.net, pair.opt, utility=utility, accumulate=False, **rules)
    twin = Twin(pair.layers, *rules.values(), utility, accumulate=False)
    assert play(pair, gnt, twin, utility) > 100


@pytest.mark.parametrize("build", NETWORKS)
def test_fed_with_the_choices_of_algorithm_1_the_engine_equals_it(build: Builder) -> None:
    """Utilities, ages, accumulators, counts and networks agree; the choice agrees among units of one age.

    Algorithm 1 does not correct for age, so of two units that are worth the same it replaces the younger.
    """
    pair = TwinNetworks(build)
    rules = {"replacement_rate": 0.009, "maturity_threshold": 15, "decay_rate": 0.97}
    gnt = GnT(pair.net, pair.opt, utility="contribution", bias_transfer=False, **rules)
    twin = NatureAlgorithm(pair.layers, *rules.values())
    chosen_before = [False] * len(pair.layers)
    for t in range(STEPS):
        features = pair.learn()
        gnt.update()
        ages = [group.state.age.numpy().copy() for group in gnt.groups]
        raw = [group.state.utility.clone() for group in gnt.groups]
        fresh = twin.step(features, pair.draw_incoming)
        for number, (units, layer) in enumerate(zip(gnt.select(), pair.layers, strict=True)):
            where, uncorrected, wanted = (
                f"step {t}, layer {number}:",
                layer.corrected_utility,
                [*fresh[number]],
            )
            same(raw[number], uncorrected * mean_per_sum(layer, "contribution"), f"{where} utility")
            corrected = uncorrected / (1 - twin.decay ** ages[number])
            eligible = [i for i in range(layer.num_units) if ages[number][i] > twin.maturity]
            lowest = sorted(eligible, key=corrected.__getitem__)[: len(wanted)]
            assert units.tolist() == lowest, f"{where} the engine's choice"
            if wanted and not chosen_before[number]:
                assert units.tolist() == wanted, f"{where} the first choice, among units of one age"
                chosen_before[number] = True
        units, incoming = pair.stack(fresh)
        gnt.replace(units, incoming=incoming)
        assert_same_end_of_step(gnt, pair, "contribution", t)
    assert all(chosen_before)


@pytest.mark.parametrize("build", [mlp3, mlp_norms, conv_flatten, grouped])
def test_the_engine_is_algorithm_1_where_the_age_correction_has_died_out(build: Builder) -> None:
    """With decay^maturity below rounding the correction is 1: both make their own choices, and they agree."""
    pair = TwinNetworks(build)
    rules = {"replacement_rate": 0.017, "maturity_threshold": 60, "decay_rate": 0.5}
    assert 1 - 0.5**60 == 1
    gnt = GnT(pair.net, pair.opt, utility="contribution", bias_transfer=False, **rules)
    twin = NatureAlgorithm(pair.layers, *rules.values())
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
