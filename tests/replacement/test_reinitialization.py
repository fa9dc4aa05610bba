"""What a replacement changes, and what it must not touch, for any network, optimizer and choice of units."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.helpers.strategies import training_runs, unit_choices
from tests.helpers.training_run import TrainingRun, same_bits
from tests.replacement.optimizer_cases import THE_WEIGHT

STEPS = st.integers(1, 3)
SCALES_AT_BIRTH = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def given_weights(run: TrainingRun, units: list[Tensor]) -> list[Tensor]:
    """Incoming weights to hand to ``replace``."""
    shapes = [group.incoming[0].weight.shape[1:] for group in run.engine.groups]
    return [run.randn(len(chosen), *shape) for chosen, shape in zip(units, shapes, strict=True)]


@given(run=training_runs(), steps=STEPS, data=st.data())
def test_a_new_unit_is_as_at_birth(run, steps, data):
    """Incoming weights as given, outgoing 0, bias 0, norms as in a new layer; no age, no averages.

    Of its outgoing weights one kind is not 0: to a consumer's unit that is new as well, whose incoming weight it is.
    """
    run.train_without_replacement(steps)
    units = data.draw(unit_choices(run))
    incoming = given_weights(run, units)
    run.engine.replace(units, incoming)
    tensors, layers = run.tensors(), run.layers
    newborn = [*[set(chosen.tolist()) for chosen in units], set()]
    for number, (layer, chosen) in enumerate(zip(layers, units, strict=True)):
        for unit, weights in zip(chosen.tolist(), incoming[number], strict=True):
            assert same_bits(tensors[layer.incoming][unit], weights)
            if layer.bias is not None:
                assert tensors[layer.bias][unit] == 0.0
            for name in layer.scales:
                mine = tensors[name][layer.owners[name] == unit]
                is_prelu = isinstance(run.net[int(name.split(".")[0])], nn.PReLU)
                assert torch.all(mine == (0.25 if is_prelu else SCALES_AT_BIRTH[name.split(".")[1]]))
            for reader, row in enumerate(tensors[layer.outgoing]):
                column = row[layer.owners[layer.outgoing][reader] == unit]
                if reader in newborn[number + 1]:
                    position = units[number + 1].tolist().index(reader)
                    fresh = incoming[number + 1][position][layer.owners[layer.outgoing][reader] == unit]
                    assert same_bits(column, fresh)
                else:
                    assert not column.any()
        state = run.engine.groups[number].state
        for value in (state.age, state.utility, state.corrected_utility, state.mean_feature):
            assert not value[chosen].any()
        assert not state.corrected_mean_feature[chosen].any()


@given(run=training_runs(), steps=STEPS, data=st.data())
def test_the_optimizer_remembers_nothing_of_a_new_unit(run, steps, data):
    run.train_without_replacement(steps)
    units = data.draw(unit_choices(run))
    run.engine.replace(units)
    memory, tensors = run.optimizer_state(), run.tensors()
    for name, mask in run.owned_elements(units).items():
        for key, birth in run.case.birth.items():
            if (name, key) in memory:
                expected = tensors[name][mask] if birth == THE_WEIGHT else torch.full_like(tensors[name][mask], birth)
                assert same_bits(memory[name, key][mask], expected), (name, key)


@given(run=training_runs(), steps=STEPS, data=st.data())
def test_nothing_else_changes_by_a_bit(run, steps, data):
    """Parameters, buffers, gradients, the optimizer's state, other units. The consumers' bias is the next test's."""
    run.train_without_replacement(steps)
    run.engine.select()  # fills the accumulators
    units = data.draw(unit_choices(run))
    tensors, memory, others = run.tensors(), run.optimizer_state(), run.unit_state()
    accumulated = [group.state.accumulated for group in run.engine.groups]
    run.engine.replace(units)

    mine = run.owned_elements(units)
    readers = {layer.consumer_bias for layer, chosen in zip(run.layers, units, strict=True) if len(chosen)}
    for name, now in run.tensors().items():
        if name not in readers:
            kept = ~mine[name] if name in mine else ...
            assert same_bits(now[kept], tensors[name][kept]), name
    for (name, key), now in run.optimizer_state().items():
        if key in ("row_start", "column_start"):
            continue  # AdamGnT's own counts, of which its own tests tell
        kept = ~mine[name] if key in run.case.birth and name in mine else ...
        if name in readers and run.case.birth.get(key) == THE_WEIGHT:
            continue  # an average of parameters moves with the bias
        assert same_bits(now[kept], memory[name, key][kept]), (name, key)
    for (number, name), now in run.unit_state().items():
        kept = torch.ones(len(now), dtype=torch.bool)
        kept[units[number]] = False
        assert same_bits(now[kept], others[number, name][kept]), (number, name)
    assert [group.state.accumulated for group in run.engine.groups] == accumulated


@given(run=training_runs(), steps=STEPS, data=st.data())
def test_a_consumers_bias_moves_by_the_mean_contribution_and_by_nothing_else(run, steps, data):
    """b_k + sum_i w_ki f^_i over the replaced units i, each w summed over its kernel or block."""
    run.train_without_replacement(steps)
    units = data.draw(unit_choices(run))
    before = run.tensors()
    means = [group.state.corrected_mean_feature.double() for group in run.engine.groups]
    run.engine.replace(units)
    after = run.tensors()
    newborn = [*units[1:], torch.tensor([], dtype=torch.int64)]
    for layer, chosen, mean, new_readers in zip(run.layers, units, means, newborn, strict=True):
        if layer.consumer_bias is None:
            continue
        bias, now = before[layer.consumer_bias], after[layer.consumer_bias]
        old_readers = torch.ones(len(bias), dtype=torch.bool)
        old_readers[new_readers] = False
        if not run.engine.bias_transfer or not len(chosen):
            assert same_bits(now[old_readers], bias[old_readers])
            continue
        weight, owner = before[layer.outgoing].double(), layer.owners[layer.outgoing]
        moved = sum((weight * (owner == unit) * mean[unit]).flatten(1).sum(1) for unit in chosen.tolist())
        tolerance = 1e-12 if bias.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(
            now[old_readers].double(), (bias.double() + moved)[old_readers], rtol=tolerance, atol=tolerance
        )
