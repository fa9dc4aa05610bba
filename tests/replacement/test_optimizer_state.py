"""The optimizer's state of replaced units: every row of the table, and every refusal."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gnt import GnT
from tests.helpers.training import Life, differences, same_bits
from tests.replacement.optimizer_cases import CASES, THE_WEIGHT, OptimizerCase

SETTINGS = {"replacement_rate": 0.5, "maturity_threshold": 1}


def linear() -> nn.Sequential:
    first = [nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh()]
    second = [nn.Linear(5, 4, bias=False), nn.LeakyReLU(), nn.BatchNorm1d(4)]
    return nn.Sequential(*first, *second, nn.Linear(4, 2))


def convolutional() -> nn.Sequential:
    """Channels read by a grouped convolution, and flattened into blocks of columns."""
    first = [nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.Tanh()]
    second = [nn.Conv2d(4, 6, 2, groups=2), nn.GroupNorm(2, 6), nn.PReLU(6), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*first, *second, nn.Linear(6 * 4, 3), nn.SiLU(), nn.Linear(3, 2))


def matrices() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5, bias=False), nn.Tanh(), nn.Linear(5, 2, bias=False))


NETWORKS = {linear: (3,), convolutional: (2, 6, 6), matrices: (3,)}
CHOSEN = {linear: [[4, 0], [1]], convolutional: [[1, 2], [5, 0, 3], [2]], matrices: [[3, 1]]}
ROWS = [(c, n) for c in CASES for n in NETWORKS if (n is matrices) == c.matrices_only]
every_row = pytest.mark.parametrize(("case", "build"), ROWS, ids=[f"{c}-{n.__name__}" for c, n in ROWS])


def life_of(case: OptimizerCase, build, dtype: torch.dtype = torch.float32) -> Life:
    torch.manual_seed(0)
    return Life(build().to(dtype), NETWORKS[build], case, SETTINGS, seed=0)


@every_row
def test_replaced_slices_are_as_at_birth_and_all_else_is_untouched(case, build):
    life = life_of(case, build)
    life.learn(3)
    units = [torch.tensor(chosen) for chosen in CHOSEN[build]]
    before, weights = life.memory(), {param: tensor.detach().clone() for param, tensor in life.tensors().items()}
    life.engine.replace(units)
    after, tensors, owned = life.memory(), life.tensors(), life.owned(units)
    forgotten = not case.birth
    for param, _ in life.net.named_parameters():
        mask = owned.get(param, torch.zeros_like(tensors[param], dtype=torch.bool))
        for key, birth in case.birth.items():
            forgotten |= bool((before[param, key] != after[param, key]).any())
            expected = before[param, key].clone()
            if birth == THE_WEIGHT:  # it moves with the bias, where the transfer moves that
                expected += tensors[param] - weights[param]
            expected[mask] = tensors[param][mask] if birth == THE_WEIGHT else birth
            assert same_bits(after[param, key], expected), (param, key)
        for key in ("grad", *case.shared):
            if key not in ("row_start", "column_start"):
                assert same_bits(after[param, key], before[param, key]), (param, key)
    assert forgotten, "the test proves nothing: there was nothing to forget"
    assert {key for _, key in after} == {"grad", *case.birth, *case.shared}, "the row does not tell all of the state"


@pytest.mark.parametrize("case", [c for c in CASES if any(c.birth.values())], ids=str)
def test_values_at_birth_are_the_optimizers_own(case):
    """The rows that are not all 0: a first step without gradient leaves the state as it was made."""
    life = life_of(case, linear)
    for param in life.net.parameters():
        param.grad = torch.zeros_like(param)
    life.optimizer.step()
    memory, tensors = life.memory(), life.tensors()
    for param, _ in life.net.named_parameters():
        for key, birth in case.birth.items():
            expected = tensors[param] if birth == THE_WEIGHT else torch.full_like(tensors[param], birth)
            assert same_bits(memory[param, key], expected), (param, key)


@every_row
def test_training_goes_on_and_new_units_find_readers(case, build):
    life = life_of(case, build)
    life.live(12)
    assert all(torch.isfinite(value).all() for value in life.everything().values())
    units = [torch.arange(1) for _ in life.engine.groups]
    life.engine.replace(units)
    new = [life.tensors()[layer.outgoing][layer.owners[layer.outgoing] == 0] for layer in life.layers]
    life.learn(3)
    now = [life.tensors()[layer.outgoing][layer.owners[layer.outgoing] == 0] for layer in life.layers]
    assert all(torch.isfinite(value).all() for value in life.everything().values())
    assert all(not torch.equal(a, b) for a, b in zip(new, now, strict=True))


@every_row
def test_saved_and_loaded_state_is_reset_as_the_original(case, build):
    life = life_of(case, build)
    life.live(4)
    other = life.again()
    other.live(3)  # the loaded state takes the place of one that was in use
    other.resume(life.saved(), life.data.get_state())
    assert life.live(4) == other.live(4)
    assert life.engine.groups[0].state.replaced > 1
    assert not differences(life.everything(), other.everything())


def test_before_the_first_step_there_is_nothing_to_reset():
    for row in CASES:
        life = life_of(row, matrices)
        life.engine.replace([torch.tensor([1])])
        assert {key for _, key in life.memory()} <= {*row.birth, *row.shared}


def test_the_value_at_birth_is_that_of_the_parameters_own_group():
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


def test_without_an_optimizer_its_state_is_left_alone():
    net = matrices()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    GnT(net, None).replace([torch.arange(5)])
    assert all(torch.all(state["momentum_buffer"] == 1.0) for state in optimizer.state.values())
