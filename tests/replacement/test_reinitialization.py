"""What a replacement changes and what it leaves unchanged, for any network, optimizer and choice of units."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.helpers.strategies import training_runs, unit_choices
from tests.helpers.training_run import TrainingRun, same_bits
from tests.replacement.optimizer_cases import PARAMETER_VALUE

STEPS = st.integers(1, 3)
INITIAL_SCALES = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def random_incoming_weights(run: TrainingRun, units: list[Tensor]) -> list[Tensor]:
    """Random incoming weights for the chosen units, to pass to ``replace``."""
    shapes = [group.incoming[0].weight.shape[1:] for group in run.engine.groups]
    return [run.randn(len(chosen), *shape) for chosen, shape in zip(units, shapes, strict=True)]


@given(run=training_runs(), steps=STEPS, data=st.data())
def test_new_units_have_initial_values(run, steps, data):
    """Incoming weights as passed, outgoing weights and bias 0, norms as in a new layer, age and averages 0.

    Exception: outgoing weights to a consumer unit that is new too are that unit's passed incoming weights.
    """
    run.train_without_replacement(steps)
    units = data.draw(unit_choices(run))
    incoming = random_incoming_weights(run, units)
    run.engine.replace(units, incoming)
    tensors, layers = run.tensors(), run.layers
    new_units = [*[set(chosen.tolist()) for chosen in units], set()]
    for number, (layer, chosen) in enumerate(zip(layers, units, strict=True)):
        for unit, weights in zip(chosen.tolist(), incoming[number], strict=True):
            assert same_bits(tensors[layer.incoming][unit], weights)
            if layer.bias is not None:
                assert tensors[layer.bias][unit] == 0.0
            for name in layer.scales:
                values = tensors[name][layer.owners[name] == unit]
                is_prelu = isinstance(run.net[int(name.split(".")[0])], nn.PReLU)
                assert torch.all(values == (0.25 if is_prelu else INITIAL_SCALES[name.split(".")[1]]))
            for consumer_unit, row in enumerate(tensors[layer.outgoing]):
                column = row[layer.owners[layer.outgoing][consumer_unit] == unit]
                if consumer_unit in new_units[number + 1]:
                    position = units[number + 1].tolist().index(consumer_unit)
                    fresh = incoming[number + 1][position][layer.owners[layer.outgoing][consumer_unit] == unit]
                    assert same_bits(column, fresh)
                else:
                    assert not column.any()
        state = run.engine.groups[number].state
        for value in (state.age, state.utility, state.corrected_utility, state.mean_feature):
            assert not value[chosen].any()
        assert not state.corrected_mean_feature[chosen].any()


@given(run=training_runs(), steps=STEPS, data=st.data())
def test_optimizer_state_of_new_units_has_initial_values(run, steps, data):
    run.train_without_replacement(steps)
    units = data.draw(unit_choices(run))
    run.engine.replace(units)
    state, tensors = run.optimizer_state(), run.tensors()
    for name, mask in run.owned_elements(units).items():
        for key, initial in run.case.initial.items():
            if (name, key) in state:
                expected = (
                    tensors[name][mask] if initial == PARAMETER_VALUE else torch.full_like(tensors[name][mask], initial)
                )
                assert same_bits(state[name, key][mask], expected), (name, key)


@given(run=training_runs(), steps=STEPS, data=st.data())
def test_everything_else_is_unchanged_bit_for_bit(run, steps, data):
    """Parameters, buffers, gradients, optimizer state and other units. The next test covers the consumers' biases."""
    run.train_without_replacement(steps)
    run.engine.select()  # fills the accumulators
    units = data.draw(unit_choices(run))
    tensors, optimizer_state, unit_state = run.tensors(), run.optimizer_state(), run.unit_state()
    accumulated = [group.state.accumulated for group in run.engine.groups]
    run.engine.replace(units)

    owned = run.owned_elements(units)
    consumer_biases = {layer.consumer_bias for layer, chosen in zip(run.layers, units, strict=True) if len(chosen)}
    for name, now in run.tensors().items():
        if name not in consumer_biases:
            kept = ~owned[name] if name in owned else ...
            assert same_bits(now[kept], tensors[name][kept]), name
    for (name, key), now in run.optimizer_state().items():
        if key in ("row_start", "column_start"):
            continue  # step counts of AdamGnT, covered by its own tests
        kept = ~owned[name] if key in run.case.initial and name in owned else ...
        if name in consumer_biases and run.case.initial.get(key) == PARAMETER_VALUE:
            continue  # an average of parameters changes with the bias
        assert same_bits(now[kept], optimizer_state[name, key][kept]), (name, key)
    for (number, name), now in run.unit_state().items():
        kept = torch.ones(len(now), dtype=torch.bool)
        kept[units[number]] = False
        assert same_bits(now[kept], unit_state[number, name][kept]), (number, name)
    assert [group.state.accumulated for group in run.engine.groups] == accumulated


@given(run=training_runs(), steps=STEPS, data=st.data())
def test_a_consumers_bias_changes_by_exactly_the_mean_contribution(run, steps, data):
    """b_k + sum_i w_ki f^_i over the replaced units i, each w summed over its kernel or block."""
    run.train_without_replacement(steps)
    units = data.draw(unit_choices(run))
    before = run.tensors()
    means = [group.state.corrected_mean_feature.double() for group in run.engine.groups]
    run.engine.replace(units)
    after = run.tensors()
    new_units = [*units[1:], torch.tensor([], dtype=torch.int64)]
    for layer, chosen, mean, new_consumer_units in zip(run.layers, units, means, new_units, strict=True):
        if layer.consumer_bias is None:
            continue
        bias, now = before[layer.consumer_bias], after[layer.consumer_bias]
        kept = torch.ones(len(bias), dtype=torch.bool)
        kept[new_consumer_units] = False
        if not run.engine.bias_transfer or not len(chosen):
            assert same_bits(now[kept], bias[kept])
            continue
        weight, owner = before[layer.outgoing].double(), layer.owners[layer.outgoing]
        moved = sum((weight * (owner == unit) * mean[unit]).flatten(1).sum(1) for unit in chosen.tolist())
        tolerance = 1e-12 if bias.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(now[kept].double(), (bias.double() + moved)[kept], rtol=tolerance, atol=tolerance)
