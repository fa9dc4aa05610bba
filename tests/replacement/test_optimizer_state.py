"""Optimizer state of replaced units, for every row of the optimizer table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gnt import AdamGnT, GnT
from gnt.replacement.optimizer_state import OptimizerStateReset
from gnt.units import fill_slices, walk
from tests.helpers.training_run import TrainingRun, differences, same_bits
from tests.replacement.optimizer_cases import CASES, PARAMETER_VALUE, OptimizerCase

SETTINGS = {"replacement_rate": 0.5, "maturity_threshold": 1}


def linear() -> nn.Sequential:
    first = [nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh()]
    second = [nn.Linear(5, 4, bias=False), nn.LeakyReLU(), nn.BatchNorm1d(4)]
    return nn.Sequential(*first, *second, nn.Linear(4, 2))


def convolutional() -> nn.Sequential:
    """Channels read by a grouped convolution, then flattened so that each unit is a block of columns."""
    first = [nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.Tanh()]
    second = [nn.Conv2d(4, 6, 2, groups=2), nn.GroupNorm(2, 6), nn.PReLU(6), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*first, *second, nn.Linear(6 * 4, 3), nn.SiLU(), nn.Linear(3, 2))


def matrices() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5, bias=False), nn.Tanh(), nn.Linear(5, 2, bias=False))


NETWORKS = {linear: (3,), convolutional: (2, 6, 6), matrices: (3,)}
REPLACED_UNITS = {linear: [[4, 0], [1]], convolutional: [[1, 2], [5, 0, 3], [2]], matrices: [[3, 1]]}
ROWS = [(c, n) for c in CASES for n in NETWORKS if (n is matrices) == c.matrices_only]
every_row = pytest.mark.parametrize(("case", "build"), ROWS, ids=[f"{c}-{n.__name__}" for c, n in ROWS])


def make_run(case: OptimizerCase, build, dtype: torch.dtype = torch.float32) -> TrainingRun:
    torch.manual_seed(0)
    return TrainingRun(build().to(dtype), NETWORKS[build], case, SETTINGS, seed=0)


@every_row
def test_replaced_slices_have_their_initial_values_and_all_else_is_unchanged(case, build):
    run = make_run(case, build)
    run.train_without_replacement(3)
    units = [torch.tensor(chosen) for chosen in REPLACED_UNITS[build]]
    before, weights = run.optimizer_state(), {param: tensor.detach().clone() for param, tensor in run.tensors().items()}
    run.engine.replace(units)
    after, tensors, owned = run.optimizer_state(), run.tensors(), run.owned_elements(units)
    something_reset = not case.initial
    for param, _ in run.net.named_parameters():
        mask = owned.get(param, torch.zeros_like(tensors[param], dtype=torch.bool))
        for key, initial in case.initial.items():
            something_reset |= bool((before[param, key] != after[param, key]).any())
            expected = before[param, key].clone()
            if initial == PARAMETER_VALUE:  # changes with the bias where bias transfer changes that
                expected += tensors[param] - weights[param]
            expected[mask] = tensors[param][mask] if initial == PARAMETER_VALUE else initial
            assert same_bits(after[param, key], expected), (param, key)
        for key in ("grad", *case.shared):
            if key not in ("row_start", "column_start"):
                assert same_bits(after[param, key], before[param, key]), (param, key)
    assert something_reset, "the test proves nothing: no state had to be reset"
    assert {key for _, key in after} == {"grad", *case.initial, *case.shared}, "the row does not list all of the state"


@pytest.mark.parametrize("case", [c for c in CASES if any(c.initial.values())], ids=str)
def test_initial_values_are_those_the_optimizer_sets(case):
    """Rows with values other than 0: a first step with zero gradients leaves the state at its initial values."""
    run = make_run(case, linear)
    for param in run.net.parameters():
        param.grad = torch.zeros_like(param)
    run.optimizer.step()
    state, tensors = run.optimizer_state(), run.tensors()
    for param, _ in run.net.named_parameters():
        for key, initial in case.initial.items():
            expected = tensors[param] if initial == PARAMETER_VALUE else torch.full_like(tensors[param], initial)
            assert same_bits(state[param, key], expected), (param, key)


@every_row
def test_training_continues_and_changes_outgoing_weights_of_new_units(case, build):
    run = make_run(case, build)
    run.train(12)
    assert all(torch.isfinite(value).all() for value in run.full_state().values())
    units = [torch.arange(1) for _ in run.engine.groups]
    run.engine.replace(units)
    before = [run.tensors()[layer.outgoing][layer.owners[layer.outgoing] == 0] for layer in run.layers]
    run.train_without_replacement(3)
    after = [run.tensors()[layer.outgoing][layer.owners[layer.outgoing] == 0] for layer in run.layers]
    assert all(torch.isfinite(value).all() for value in run.full_state().values())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@every_row
def test_loaded_state_is_reset_like_the_original(case, build):
    run = make_run(case, build)
    run.train(4)
    other = run.restarted()
    other.train(3)  # the loaded state replaces state that is in use
    other.load_checkpoint(run.checkpoint(), run.data.get_state())
    assert run.train(4) == other.train(4)
    assert run.engine.groups[0].state.replaced > 1
    assert not differences(run.full_state(), other.full_state())


def test_replacing_before_the_first_step_creates_no_state():
    for row in CASES:
        run = make_run(row, matrices)
        run.engine.replace([torch.tensor([1])])
        assert {key for _, key in run.optimizer_state()} <= {*row.initial, *row.shared}


def test_initial_values_come_from_the_parameters_own_group():
    net = linear()
    groups = [{"params": net[0].parameters(), "lr": 0.5}, {"params": net[1:].parameters()}]
    optimizer = torch.optim.Rprop(groups, lr=0.25)
    engine = GnT(net, optimizer, record=False)
    for _ in range(3):
        for param in net.parameters():
            param.grad = torch.randn_like(param)
        optimizer.step()
    engine.replace([torch.tensor([2]), torch.tensor([], dtype=torch.int64)])
    assert torch.all(optimizer.state[net[0].weight]["step_size"][2] == 0.5)
    assert torch.all(optimizer.state[net[3].weight]["step_size"][:, 2] == 0.25)


def test_an_engine_without_an_optimizer_changes_no_optimizer_state():
    net = matrices()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    GnT(net, None).replace([torch.arange(5)])
    assert all(torch.all(state["momentum_buffer"] == 1.0) for state in optimizer.state.values())


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adadelta, torch.optim.Adam, AdamGnT])
def test_the_state_that_kernels_write_is_what_a_reset_changes(kind):
    net = linear()
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(net.parameters(), lr=0.1, **options)
    groups = walk(net)
    reset = OptimizerStateReset(optimizer, groups)
    for units in ([0], [1, 3]):
        for _ in range(2):
            optimizer.zero_grad()
            net(torch.randn(8, 3)).square().mean().backward()
            optimizer.step()
        found = [
            (slot, reset.unit_state(param, slot.dim_of(param))) for group in groups for _, param, slot in group.slices()
        ]
        if units == [0]:  # the first reset, for which AdamGnT adds step counts
            assert any(entries is None for _, entries in found) == (kind is AdamGnT)
        else:
            written = {id(tensor): (tensor, tensor.clone()) for _, entries in found for tensor, _ in entries}
            for slot, entries in found:
                for tensor, value in entries:
                    copy = written[id(tensor)][1]
                    fill_slices(copy, slot.dim_of(copy), slot.index(torch.tensor(units)), float(value))
        for group in groups:
            reset.reset(group, torch.tensor(units))
    assert all(torch.equal(tensor, copy) for tensor, copy in written.values())
    owned = {param for group in groups for _, param, _ in group.slices()}
    kept = [value for param in owned for value in optimizer.state[param].values() if value.ndim]
    assert {id(value) for value in kept} == set(written)


def test_state_that_only_a_reset_knows_is_left_to_it():
    class Own(torch.optim.SGD):
        pass

    net = linear()
    groups = walk(net)
    for kind in (Own, torch.optim.Rprop):  # a class of others; an initial value that may change
        optimizer = kind(net.parameters(), lr=0.1)
        net(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
        assert OptimizerStateReset(optimizer, groups).unit_state(net[0].weight, 0) is None
