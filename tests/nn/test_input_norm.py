"""`gnt.nn.InputNorm`: agreement with the literal twin, shapes, evaluation, engines, errors."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gnt
from tests.twins.matrices import input_norm


@pytest.mark.parametrize("sizes", [[1] * 6, [5, 2, 1, 3]], ids=str)
def test_outputs_agree_with_the_twin(sizes: list[int]) -> None:
    torch.manual_seed(0)
    norm = gnt.nn.InputNorm(4, decay=0.9, eps=1e-3).double()
    batches = [torch.randn(size, 4, dtype=torch.float64) * 3 + 50 * number for number, size in enumerate(sizes)]
    for number, x in enumerate(batches):
        expected = input_norm([each.numpy() for each in batches[: number + 1]], 0.9, 1e-3)
        np.testing.assert_allclose(norm(x).numpy(), expected, rtol=1e-8, atol=1e-10)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    assert torch.equal(norm.eval()(batches[-1]), norm.train(False)(batches[-1]))
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])


def test_statistics_over_channels_and_of_half_precision_inputs() -> None:
    torch.manual_seed(0)
    norm = gnt.nn.InputNorm((3, 1, 1))
    out = norm((torch.randn(8, 3, 5, 5) * 4 + 7).to(torch.bfloat16))
    assert out.dtype is torch.bfloat16
    torch.testing.assert_close(out.float().mean((0, 2, 3)), torch.zeros(3), atol=0.02, rtol=0)
    torch.testing.assert_close(out.float().std((0, 2, 3)), torch.ones(3), atol=0.02, rtol=0)
    assert norm.mean.dtype is torch.float32


def test_reset_parameters_forgets_all_batches() -> None:
    norm = gnt.nn.InputNorm((3, 1, 1))
    norm(torch.randn(8, 3, 5, 5) * 4 + 7)
    norm.reset_parameters()
    new = gnt.nn.InputNorm((3, 1, 1)).state_dict()
    assert all(torch.equal(value, new[name]) for name, value in norm.state_dict().items())


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_batch_counts_once_under_activation_checkpointing(reentrant: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(gnt.nn.InputNorm(4), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    checkpointed = copy.deepcopy(plain)
    for number in range(3):
        x = torch.randn(16, 4) * 3 + number
        plain(x).square().mean().backward()
        checkpoint(checkpointed, x.clone().requires_grad_(), use_reentrant=reentrant).square().mean().backward()
    for mine, theirs in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)  # type: ignore[arg-type]
    for mine, theirs in zip(checkpointed.buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_engines_take_a_network_that_begins_with_it() -> None:
    net = nn.Sequential(gnt.nn.InputNorm(4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    before = net[0].mean.clone()
    traced = gnt.trace(net, torch.randn(2, 4))
    assert torch.equal(net[0].mean, before)
    assert [group.num_units for group in traced] == [8]
    assert [group.num_units for group in gnt.GnT(net).groups] == [8]


def test_errors_name_the_argument_and_change_nothing() -> None:
    for shape in (0, (3, 0), (), 2.5):
        with pytest.raises((ValueError, TypeError), match="shape"):
            gnt.nn.InputNorm(shape)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="decay must be a number in"):
        gnt.nn.InputNorm(3, decay=1.0)
    with pytest.raises(ValueError, match="eps must be a finite number > 0, got 0"):
        gnt.nn.InputNorm(3, eps=0.0)
    norm = gnt.nn.InputNorm(3)
    with pytest.raises(ValueError, match=r"InputNorm has statistics of shape \(3,\).*got an input of shape \(2, 4\)"):
        norm(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="after the samples"):
        norm(torch.zeros(3))
    assert norm.batches == 0


def test_a_constant_input_becomes_zero_however_large_it_is() -> None:
    for value in (255.0, 6e4):
        norm = gnt.nn.InputNorm(2)
        for _ in range(3):
            out = norm(torch.full((4, 2), value))
            assert bool((norm.var >= 0).all())
            assert bool((out.abs() < 1e-2).all())


def test_integers_become_floating_point_and_statistics_stay_wide_in_half_precision() -> None:
    x = torch.randint(9, (16, 3), generator=torch.Generator().manual_seed(0))
    for other in (x, x > 4):
        assert torch.equal(gnt.nn.InputNorm(3)(other), gnt.nn.InputNorm(3)(other.float()))
    with pytest.raises(ValueError, match=r"real numbers, got an input of torch\.complex64"):
        gnt.nn.InputNorm(3)(x.to(torch.complex64))
    half, full = gnt.nn.InputNorm(3).bfloat16(), gnt.nn.InputNorm(3)
    for _ in range(3):
        assert half(x.bfloat16()).dtype is torch.bfloat16
        full(x.float())
    assert torch.equal(half.mean, full.mean)
    assert torch.equal(half.var, full.var)
    assert gnt.nn.InputNorm(3).double().var.dtype is torch.float64


def test_inputs_are_left_alone_before_the_first_batch() -> None:
    x = torch.randn(4, 3)
    torch.testing.assert_close(gnt.nn.InputNorm(3).eval()(x), x)


@pytest.mark.parametrize(
    ("shape", "inputs"), [(3, (3,)), ((1,), (3,)), ((1, 2, 2), (1, 2, 2)), ((1, 1, 1), (1, 2, 2))], ids=str
)
def test_members_of_an_ensemble_have_the_statistics_of_networks_trained_alone(shape: object, inputs: object) -> None:
    sizes: tuple[int, ...] = inputs  # type: ignore[assignment]

    def make() -> nn.Sequential:
        first = nn.Linear(sizes[0], 5) if len(sizes) == 1 else nn.Sequential(nn.Conv2d(1, 5, 2), nn.Flatten())
        layers = [gnt.nn.InputNorm(shape, decay=0.8), *(first if len(sizes) > 1 else [first])]  # type: ignore[arg-type]
        return nn.Sequential(*layers, nn.ReLU(), nn.Linear(5, 2)).double()

    seeds, decayed = [4, 9, 2], {"step_size": 0.05, "replacement_rate": 0.05, "maturity_threshold": 3}
    ensemble, alone = gnt.Ensemble(make, seeds, **decayed), []
    for seed in seeds:
        torch.manual_seed(seed)
        alone.append(gnt.ContinualBackprop(make(), **decayed))
    generator = torch.Generator().manual_seed(0)
    offsets = torch.tensor([5.0, -30.0, 0.0], dtype=torch.float64).view(3, *[1] * (1 + len(sizes)))
    for step in range(12):
        x = torch.randn(3, 1 + step % 3, *sizes, generator=generator, dtype=torch.float64) * 2 + offsets
        y = x.flatten(2)[..., :2].sin()
        together = ensemble.learn(x, y)
        for number, learner in enumerate(alone):
            torch.testing.assert_close(together.output[number], learner.learn(x[number], y[number]).output)
    for number, learner in enumerate(alone):
        member, single = ensemble.member(number).state_dict(), learner.net.state_dict()
        assert member.keys() == single.keys()
        for name, value in single.items():
            torch.testing.assert_close(member[name], value, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ensemble.predict(x)[number], learner.net.eval()(x[number]))
    assert int(ensemble.net.layers[0].batches) == 12
    resumed = gnt.Ensemble(make, seeds, **decayed)
    resumed.net.load_state_dict(ensemble.net.state_dict())
    resumed.load_state_dict(ensemble.state_dict())
    for each in (resumed, ensemble):
        each.learn(x, y)
    for mine, theirs in zip(resumed.net.state_dict().values(), ensemble.net.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_an_ensemble_refuses_inputs_that_do_not_fit_and_changes_nothing() -> None:
    ensemble = gnt.Ensemble(
        lambda: nn.Sequential(gnt.nn.InputNorm(3), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), [1, 2]
    )
    with pytest.raises(
        ValueError, match=r"the member of seed 1 cannot take x.*InputNorm has statistics of shape \(3,\)"
    ):
        ensemble.learn(torch.zeros(2, 5, 4), torch.zeros(2, 5, 1))
    assert ensemble.net.layers[0].batches == 0
