"""Permutation equivariance: permuting the units with all their tensors permutes the replaced units."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.strategies import BUILT_IN_MEASURES, engine_settings, networks, training_runs
from tests.helpers.training_run import TrainingRun
from tests.replacement.optimizer_cases import CASES

DETERMINISTIC_MEASURES = [name for name in BUILT_IN_MEASURES if name != "random"]
# SGD only: optimizers that divide by the gradient's magnitude amplify rounding errors of tiny gradients
SGD_CASES = [case for case in CASES if case.name.startswith("SGD")]


@st.composite
def permutations(draw: st.DrawFn, run: TrainingRun) -> list[Tensor]:
    """For each layer, the unit that moves to each position.

    Units are permuted only within convolution groups and GroupNorm groups, so they keep their inputs and consumers.
    """
    orders = []
    for layer in run.layers:
        order = torch.arange(layer.units)
        for kind in layer.exchange_class.unique():
            positions = torch.nonzero(layer.exchange_class == kind).flatten().tolist()
            order[positions] = torch.tensor(draw(st.permutations(positions)))
        orders.append(order)
    return orders


def permute(run: TrainingRun, orders: list[Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with every unit at its new position, element by element by the owner maps."""
    moved = {name: value.clone() for name, value in tensors.items()}
    for layer, order in zip(run.layers, orders, strict=True):
        for name, owner in layer.owners.items():
            if name in moved:
                old = moved[name].clone()
                for position, unit in enumerate(order.tolist()):
                    moved[name][owner == position] = old[owner == unit]
    return moved


def nearly_tied(run: TrainingRun, chosen: list[Tensor]) -> bool:
    """True if a selection depends on rounding: a kept unit's utility is nearly equal to a selected unit's."""
    for group, units in zip(run.engine.groups, chosen, strict=True):
        utility = group.state.corrected_utility
        kept = group.state.mature.clone()
        kept[units] = False
        if (
            len(units)
            and kept.any()
            and utility[kept].min() - utility[units].max() <= 1e-7 * utility.max().clamp_min(0.01)
        ):
            return True
    return False


def assert_close(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1e-3, float(value.abs().max())) if value.numel() else 1.0
        torch.testing.assert_close(actual[name], value, rtol=0, atol=1e-8 * scale, msg=lambda m, n=name: f"{n}: {m}")


@given(
    run=training_runs(
        of=networks(dropout=False, dtypes=(torch.float64,)),
        settings=st.sampled_from(DETERMINISTIC_MEASURES).flatmap(
            lambda measure: engine_settings(replacement_rate=0.4, maturity_threshold=1, utility=measure)
        ),
        cases=st.sampled_from(SGD_CASES),
    ),
    steps=st.integers(2, 6),
    data=st.data(),
)
def test_permuted_networks_replace_the_permuted_units(run, steps, data):
    """Parameters, norms, momentum, ages and averages agree after each step, up to rounding of reordered sums."""
    orders = data.draw(permutations(run))
    other = run.restarted()
    for net in (run.net, other.net):
        for module in net:
            if hasattr(module, "eps"):
                module.eps = 0.1  # with a small eps a norm amplifies rounding errors of constant features
    draws = torch.Generator().manual_seed(run.seed)
    other.net.load_state_dict(permute(run, orders, run.tensors()))
    for _ in range(steps):
        run.train_without_replacement()
        other.train_without_replacement()
        selected, other_selected = run.engine.select(), other.engine.select()
        if nearly_tied(run, selected):
            return
        for units, permuted, order in zip(selected, other_selected, orders, strict=True):
            assert sorted(order[permuted].tolist()) == sorted(units.tolist())

        fresh = {
            layer.incoming: torch.randn(layer.producer.weight.shape, generator=draws, dtype=run.dtype)
            for layer in run.layers
        }
        permuted_fresh = permute(run, orders, fresh)
        run.engine.replace(selected, [fresh[layer.incoming][u] for layer, u in zip(run.layers, selected, strict=True)])
        other.engine.replace(
            other_selected, [permuted_fresh[la.incoming][u] for la, u in zip(run.layers, other_selected, strict=True)]
        )

        assert_close(other.tensors(), permute(run, orders, run.tensors()))
        for key in run.case.initial:
            state, other_state = (
                {name: value for (name, k), value in one.optimizer_state().items() if k == key} for one in (run, other)
            )
            assert_close(other_state, permute(run, orders, state))
        expected = {(number, name): value[orders[number]] for (number, name), value in run.unit_state().items()}
        assert_close(other.unit_state(), expected)
