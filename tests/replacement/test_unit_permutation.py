"""Units have no order: exchange them, with all that is theirs, and the same units are replaced, exchanged."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.strategies import BUILT_IN_MEASURES, engine_settings, networks, training_runs
from tests.helpers.training_run import TrainingRun
from tests.replacement.optimizer_cases import CASES

RULES = [name for name in BUILT_IN_MEASURES if name != "random"]
# Adam and its variants divide by the gradient's size, which would amplify differences of rounding
LINEAR = [case for case in CASES if case.name.startswith("SGD")]


@st.composite
def permutations(draw: st.DrawFn, run: TrainingRun) -> list[Tensor]:
    """For each layer, which unit comes to stand at each place; units go only where they keep their inputs and readers,
    that is within the groups of convolutions and of GroupNorm.
    """
    orders = []
    for layer in run.layers:
        order = torch.arange(layer.units)
        for kind in layer.exchange_class.unique():
            places = torch.nonzero(layer.exchange_class == kind).flatten().tolist()
            order[places] = torch.tensor(draw(st.permutations(places)))
        orders.append(order)
    return orders


def exchange(run: TrainingRun, orders: list[Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with every unit at its new place, element by element as the owner maps say."""
    moved = {name: value.clone() for name, value in tensors.items()}
    for layer, order in zip(run.layers, orders, strict=True):
        for name, owner in layer.owners.items():
            if name in moved:
                old = moved[name].clone()
                for place, unit in enumerate(order.tolist()):
                    moved[name][owner == place] = old[owner == unit]
    return moved


def tied(run: TrainingRun, chosen: list[Tensor]) -> bool:
    """Whether some choice hangs on rounding: the worst of those that stay is hardly better than the best that goes."""
    for group, units in zip(run.engine.groups, chosen, strict=True):
        worth = group.state.corrected_utility
        stay = group.state.mature.clone()
        stay[units] = False
        if len(units) and stay.any() and worth[stay].min() - worth[units].max() <= 1e-7 * worth.max().clamp_min(0.01):
            return True
    return False


def assert_close(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        scale = max(1e-3, float(value.abs().max())) if value.numel() else 1.0
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-8 * scale, msg=lambda m, n=name: f"{n}: {m}")


@given(
    run=training_runs(
        of=networks(dropout=False, dtypes=(torch.float64,)),
        settings=st.sampled_from(RULES).flatmap(
            lambda rule: engine_settings(replacement_rate=0.4, maturity_threshold=1, utility=rule)
        ),
        cases=st.sampled_from(LINEAR),
    ),
    steps=st.integers(2, 6),
    data=st.data(),
)
def test_exchanged_units_live_exchanged_lives(run, steps, data):
    """Parameters, norms, momentum, ages and averages, step by step, up to the rounding of sums in another order."""
    orders = data.draw(permutations(run))
    other = run.restarted()
    for net in (run.net, other.net):
        for module in net:
            if hasattr(module, "eps"):
                module.eps = 0.1  # or a norm would blow up the rounding of a feature that is always the same
    draws = torch.Generator().manual_seed(run.seed)
    other.net.load_state_dict(exchange(run, orders, run.tensors()))
    for _ in range(steps):
        run.train_without_replacement()
        other.train_without_replacement()
        mine, theirs = run.engine.select(), other.engine.select()
        if tied(run, mine):
            return
        for units, exchanged, order in zip(mine, theirs, orders, strict=True):
            assert sorted(order[exchanged].tolist()) == sorted(units.tolist())

        fresh = {
            layer.incoming: torch.randn(layer.producer.weight.shape, generator=draws, dtype=run.dtype)
            for layer in run.layers
        }
        same_fresh = exchange(run, orders, fresh)
        run.engine.replace(mine, [fresh[layer.incoming][u] for layer, u in zip(run.layers, mine, strict=True)])
        other.engine.replace(theirs, [same_fresh[la.incoming][u] for la, u in zip(run.layers, theirs, strict=True)])

        assert_close(other.tensors(), exchange(run, orders, run.tensors()))
        for key in run.case.birth:
            memory, other_memory = (
                {name: value for (name, k), value in one.optimizer_state().items() if k == key} for one in (run, other)
            )
            assert_close(other_memory, exchange(run, orders, memory))
        wanted = {(number, name): value[orders[number]] for (number, name), value in run.unit_state().items()}
        assert_close(other.unit_state(), wanted)
