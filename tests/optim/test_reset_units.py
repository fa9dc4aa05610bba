"""AdamGnT.reset_units: examples."""

from __future__ import annotations

import copy
import re

import pytest
import torch

from gnt.optim._adam.bias_correction import BiasCorrections
from tests.helpers.small_runs import assert_same
from tests.optim.adam_runs import FULL, HALF, step, stepped


@pytest.mark.parametrize("dtype", [*FULL, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"fused": True}, {"foreach": True}])
@pytest.mark.parametrize(("dim", "index"), [(0, [1]), (1, [0, 2])])
def test_the_first_step_after_a_reset_has_length_lr(dtype, options, dim, index):
    (param,), optimizer = stepped((4, 3), steps=20, dtype=dtype, lr=0.125, **options)
    optimizer.reset_units(param, dim, index)
    param.data.zero_()  # so that bfloat16 can represent the step
    param.grad = torch.tensor([[0.5, -2.0, 8.0]] * 4, dtype=dtype)
    optimizer.step()
    moved = param.detach().index_select(dim, torch.tensor(index)).double()
    expected = -0.125 * param.grad.sign().index_select(dim, torch.tensor(index)).double()
    torch.testing.assert_close(moved, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)


@pytest.mark.parametrize("dtype", [*FULL, *HALF])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"fused": True}])
def test_a_reset_element_without_gradient_does_not_move(dtype, options):
    (param,), optimizer = stepped((4, 3), dtype=dtype, lr=0.25, **options)
    optimizer.reset_units(param, 0, [2])
    before = param.detach().clone()
    for _ in range(3):
        param.grad = torch.ones_like(param)
        param.grad[2] = 0.0
        optimizer.step()
    assert torch.equal(param.detach()[2], before[2])
    assert torch.isfinite(param).all()
    assert not torch.equal(param.detach()[0], before[0])


def test_the_largest_second_moment_is_reset_too():
    (param,), optimizer = stepped((3,), amsgrad=True)
    optimizer.reset_units(param, 0, [1])
    assert optimizer.state[param]["max_exp_avg_sq"].count_nonzero() == 2


def test_the_count_of_an_element_is_the_smaller_one_of_its_row_and_column():
    (param,), optimizer = stepped((2, 2), steps=4, lr=1.0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    optimizer.reset_units(param, 0, [1])
    step(optimizer, generator)
    optimizer.reset_units(param, 1, [1])
    moments = copy.deepcopy(optimizer.state[param])
    param.data.zero_()
    param.grad = torch.full_like(param, 3.0)
    optimizer.step()
    for position, count in {(0, 0): 6, (1, 0): 2, (0, 1): 1, (1, 1): 1}.items():
        m = 0.9 * moments["exp_avg"][position] + 0.1 * 3.0
        v = 0.999 * moments["exp_avg_sq"][position] + 0.001 * 9.0
        expected = -(m / (1 - 0.9**count)) / ((v / (1 - 0.999**count)).sqrt() + 1e-8)
        torch.testing.assert_close(param.detach()[position], expected)


def test_the_columns_of_a_grouped_convolution_are_its_input_channels():
    """Two groups of two channels: channel 2 is the first channel of the second group, read by output rows 3 to 5."""
    (param,), optimizer = stepped((6, 2, 3))
    optimizer.reset_units(param, 1, [2], groups=2)
    cleared = optimizer.state[param]["exp_avg"] == 0
    expected = torch.zeros(6, 2, 3, dtype=torch.bool)
    expected[3:, 0] = True
    assert torch.equal(cleared, expected)
    optimizer.reset_units(param, 0, [0])  # groups is ignored for rows
    optimizer.reset_units(param, 1, [0], groups=2)


@pytest.mark.parametrize("index", [[0, 2], (0, 2), range(0, 3, 2), torch.tensor([2, 0]), torch.tensor([2, 0, 2])])
def test_accepted_forms_of_an_index(index):
    (param,), optimizer = stepped((3, 2))
    optimizer.reset_units(param, 0, index)
    assert optimizer.state[param]["row_start"].tolist() == [3, 0, 3]


@pytest.mark.parametrize("index", [[], torch.tensor([], dtype=torch.int64)])
def test_an_empty_index_changes_nothing(index):
    (param,), optimizer = stepped((3, 2))
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.reset_units(param, 0, index)
    assert_same(optimizer.state_dict(), before)


def test_resetting_a_parameter_without_state_does_nothing():
    params, optimizer = stepped((3, 2), (3,), steps=0)
    optimizer.reset_units(params[0], 1, [0])
    assert not optimizer.state
    with pytest.raises(ValueError, match=re.escape("0..2, got 3")):
        optimizer.reset_units(params[1], 0, [3])


def test_state_has_two_values_per_element_and_one_count_per_row_and_column():
    (param,), optimizer = stepped((5, 7))
    assert set(optimizer.state[param]) == {"step", "exp_avg", "exp_avg_sq"}
    optimizer.reset_units(param, 0, [0])
    optimizer.reset_units(param, 1, [0])
    sizes = {key: value.numel() for key, value in optimizer.state[param].items()}
    assert sizes == {"step": 1, "exp_avg": 35, "exp_avg_sq": 35, "row_start": 5, "column_start": 7}


def test_the_count_of_a_parameter_without_gradient_does_not_change():
    params, optimizer = stepped((2,), (2,))
    params[0].grad = None
    optimizer.step()
    assert [int(optimizer.state[param]["step"]) for param in params] == [3, 4]


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999, 0.9999])
def test_bias_corrections_equal_those_of_torch(beta):
    now = 100_000
    counts = [0, 1, 2, 53, 54, 55, 356, 357, 4095, 4096, 8191, 8192, 36_737, 36_738, 36_739, 65_536, now]
    weight = torch.zeros(len(counts), 2, dtype=torch.float64)
    corrections = BiasCorrections([weight], [{"row_start": now - torch.tensor(counts)}])
    corrections.compute([now], {"betas": (beta, beta), "lr": 0.125})
    (step_sizes, column_step_sizes), (roots, column_roots) = corrections.of(0)
    assert column_step_sizes is None
    assert column_roots is None
    assert step_sizes.flatten().tolist() == [0.125 / (1 - beta**k) if k else float("inf") for k in counts]
    assert roots.flatten().tolist() == [(1 - beta**k) ** 0.5 for k in counts]


def test_counts_restart_after_more_steps_than_float32_can_count():
    (param,), optimizer = stepped((2,), lr=0.5)
    saved = optimizer.state_dict()
    saved["state"][0]["step"] = torch.tensor(2.0**24)
    optimizer.load_state_dict(saved)
    optimizer.reset_units(param, 0, [0])
    for _ in range(3):
        param.grad = torch.ones(2)
        optimizer.step()
    assert int(optimizer.state[param]["step"]) - optimizer.state[param]["row_start"].tolist()[0] == 3


@pytest.mark.parametrize(
    "options", [{"kernels": False}, {"kernels": True}, {"foreach": True}, {"amsgrad": True, "weight_decay": 0.1}]
)
@pytest.mark.parametrize("shape", [(1, 1, 1, 5), (1, 1, 5)])
def test_elements_along_a_single_dimension_are_reset_like_those_of_a_vector(options, shape):
    (param,), optimizer = stepped(shape, steps=0, lr=0.1, **options)
    vector = torch.nn.Parameter(param.detach().flatten().clone())
    twin = type(optimizer)([vector], lr=0.1, **{**options, "kernels": optimizer.kernels})
    generator, every = torch.Generator().manual_seed(1), list(range(5))
    resets = {2: (0, [0], every), 4: (1, [0], every), 6: (len(shape) - 1, [3, 1], [3, 1]), 8: (0, [0], every)}
    resets[7] = len(shape) - 1, [2], [2]
    for number in range(12):
        param.grad = torch.randn(shape, generator=generator)
        vector.grad = param.grad.flatten().clone()
        optimizer.step()
        twin.step()
        assert torch.equal(param.detach().flatten(), vector.detach())
        if number in resets:
            dim, index, same = resets[number]
            optimizer.reset_units(param, dim, index)
            twin.reset_units(vector, 0, same)
            saved = copy.deepcopy(optimizer.state_dict())
            assert {key: len(saved["state"][0][key]) for key in optimizer.start_keys} == {
                "row_start": 5,
                "column_start": 1,
            }
            optimizer.load_state_dict(saved)
            assert_same(optimizer.state_dict(), saved)
    with pytest.raises(ValueError, match=re.escape(f"allowed: 0 (rows), 1 (columns) or {len(shape) - 1} (elements)")):
        optimizer.reset_units(param, 7, [0])


@pytest.mark.parametrize("capturable", [False, True])
def test_input_channels_of_a_grouped_convolution_may_be_reset_first(capturable):
    (param,), optimizer = stepped((8, 4, 3, 3), capturable=capturable, kernels=False)
    optimizer.reset_units(param, 1, [5], groups=2)
    assert optimizer.state[param]["column_start"].tolist() == [0] * 5 + [int(optimizer.state[param]["step"])] + [0] * 2
    moments = optimizer.state[param]["exp_avg"]
    assert not moments[4:, 1].any()
    assert moments[:4, 1].all()
    step(optimizer, torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match=r"groups=1 for a parameter of shape .*, but earlier calls had groups=2"):
        optimizer.reset_units(param, 1, [1])


@pytest.mark.parametrize("kernels", [None, False])
@pytest.mark.parametrize("capturable", [False, True])
def test_a_step_size_of_one_element_may_have_dimensions(kernels, capturable):
    results = []
    for lr in (0.125, torch.full((1, 1), 0.125)):
        (first, second), optimizer = stepped((3,), (4, 2), lr=lr, kernels=kernels, capturable=capturable)
        optimizer.reset_units(second, 0, [1])
        step(optimizer, torch.Generator().manual_seed(1))
        results.append([first.detach().clone(), second.detach().clone()])
    torch.testing.assert_close(*results)
