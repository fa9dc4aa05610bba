"""AdamGnT as a torch optimizer: closures, parameter groups, tensor lr, schedulers, gradient scalers, devices."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gnt.optim import AdamGnT
from tests.helpers.small_runs import assert_same
from tests.optim.adam_runs import step, stepped


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned():
    param = nn.Parameter(torch.tensor([3.0]))
    optimizer = AdamGnT([param], lr=0.5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    torch.testing.assert_close(param.detach(), torch.tensor([2.5]))
    param.grad = None
    assert optimizer.step() is None


def test_parameter_groups_have_their_own_options():
    shapes = [(3, 2), (3,), (2, 3)]
    own = [{}, {"lr": 0.1, "betas": (0.5, 0.9)}, {"weight_decay": 0.1, "amsgrad": True}]
    ours_params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    torch_params = copy.deepcopy(ours_params)
    optimizers = []
    for cls, params in ((AdamGnT, ours_params), (torch.optim.Adam, torch_params)):
        optimizer = cls([{"params": [params[0]], **own[0]}, {"params": [params[1]], **own[1]}], lr=0.01, fused=True)
        optimizer.add_param_group({"params": params[2], **own[2]})
        optimizers.append(optimizer)
    for seed in range(5):
        for optimizer in optimizers:
            step(optimizer, torch.Generator().manual_seed(seed))
    assert_same([p.detach() for p in ours_params], [p.detach() for p in torch_params])


def test_named_parameters_are_accepted():
    layer = nn.Linear(2, 2)
    optimizer = AdamGnT(layer.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    step(optimizer, torch.Generator())
    optimizer.reset_units(layer.weight, 0, [1])


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_lr_may_be_a_tensor_of_one_element(fused, shape):
    (ours,), optimizer = stepped((3, 2), steps=0, lr=torch.full(shape, 0.25), fused=fused)
    (same,), number = stepped((3, 2), steps=0, lr=0.25, fused=fused)
    for seed in range(4):
        for each, param in ((optimizer, ours), (number, same)):
            step(each, torch.Generator().manual_seed(seed))
            if seed == 1:
                each.reset_units(param, 0, [1])
    torch.testing.assert_close(ours, same)


def test_a_scheduler_may_change_lr_and_betas():
    ours, theirs = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    optimizers = [AdamGnT([ours], foreach=False), torch.optim.Adam([theirs], foreach=False)]
    schedulers = [torch.optim.lr_scheduler.OneCycleLR(each, max_lr=0.1, total_steps=12) for each in optimizers]
    for seed in range(10):
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            step(optimizer, torch.Generator().manual_seed(seed))
            scheduler.step()
        if seed == 5:
            optimizers[0].reset_units(ours, 0, [0])
    assert torch.equal(ours[1:], theirs[1:])
    assert not torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("options", [{"kernels": False}, {"fused": True}, {"foreach": True}, {"kernels": True}])
def test_a_grad_scaler_unscales_gradients_and_skips_steps(options):
    (ours,), optimizer = stepped((3, 2), **options)
    (same,), plain = stepped((3, 2), **options)
    optimizer.reset_units(ours, 0, [1])
    plain.reset_units(same, 0, [1])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for gradient in (torch.ones(3, 2), torch.full((3, 2), float("inf")), torch.full((3, 2), -2.0)):
        scaler.scale(torch.zeros(()))  # initializes the scale
        ours.grad = gradient * scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if gradient.isfinite().all():
            same.grad = gradient
            plain.step()
    assert_same(optimizer.state_dict(), plain.state_dict())
    assert torch.equal(ours, same)


def test_a_step_inside_torch_compile_equals_a_plain_step():
    (ours,), optimizer = stepped((3, 2), steps=1)
    (same,), plain = stepped((3, 2), steps=1)
    compiled = torch.compile(lambda: optimizer.step(), backend="eager")
    for seed in range(4):
        ours.grad = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))
        same.grad = ours.grad.clone()
        compiled()
        plain.step()
        if seed == 1:
            optimizer.reset_units(ours, 0, [1])
            plain.reset_units(same, 0, [1])
    assert torch.equal(ours, same)
    assert_same(optimizer.state_dict(), plain.state_dict())


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2, 2)])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True, "weight_decay": 0.1, "maximize": True}])
def test_steps_and_resets_do_not_read_device_values(shape, options):
    """On the meta device, reading a value of a tensor raises; on an accelerator it would synchronize."""
    param = nn.Parameter(torch.randn(shape, device="meta"))
    optimizer = AdamGnT([param], **options)
    with pytest.raises(RuntimeError, match="meta"):
        param.sum().item()
    for dim, groups in [(0, 1), (1, 2), (1, 2), (0, 1)]:
        param.grad = torch.randn(shape, device="meta")
        optimizer.step()
        if dim < param.dim():
            optimizer.reset_units(param, dim, torch.zeros(2, dtype=torch.int64, device="meta"), groups)
            optimizer.reset_units(param, dim, [1], groups)
    optimizer.step()
    assert optimizer.state[param]["row_start"].device.type == "meta"
    assert optimizer.state[param]["step"].device.type == "cpu"


@pytest.mark.parametrize("options", [{"kernels": False}, {"foreach": False}, {"kernels": True}], ids=str)
def test_tensor_betas_equal_numbers(options):
    """Also after a reset; in float64, so that the tensors hold the same numbers."""
    runs = []
    for make in (float, lambda beta: torch.tensor([beta], dtype=torch.float64)):
        (param,), optimizer = stepped((3, 2), dtype=torch.float64, betas=(make(0.9), make(0.99)), **options)
        optimizer.reset_units(param, 0, [1])
        step(optimizer, torch.Generator().manual_seed(1))
        runs.append(param.detach())
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-13, atol=0)
    ours, theirs = (nn.Parameter(torch.ones(3)) for _ in range(2))
    betas = torch.tensor(0.9), torch.tensor(0.99)
    pair = AdamGnT([ours], betas=betas, foreach=False), torch.optim.Adam([theirs], betas=betas, foreach=False)
    for _ in range(3):
        for optimizer in pair:
            step(optimizer, torch.Generator().manual_seed(2))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kernels", [False, True])
def test_amsgrad_can_be_set_between_steps(kernels):
    """The maximum is then taken over the following steps."""
    (param,), optimizer = stepped((3, 2), kernels=kernels)
    optimizer.reset_units(param, 0, [1])
    optimizer.param_groups[0]["amsgrad"] = True
    step(optimizer, torch.Generator().manual_seed(1))
    state = optimizer.state[param]
    assert torch.equal(state["max_exp_avg_sq"], state["exp_avg_sq"])


@pytest.mark.parametrize("options", [{}, {"betas": (0.0, 0.99), "weight_decay": 0.1}], ids=str)
def test_capturable_steps_count_on_the_device_and_equal_others(options):
    """All starts exist from the first step on, so that a reset between replays changes no plan."""
    runs = [
        stepped((6, 4), (6,), dtype=torch.float64, capturable=capturable, **options) for capturable in (True, False)
    ]
    assert sorted(runs[0][1].state[runs[0][0][1]]) == ["exp_avg", "exp_avg_sq", "row_start", "step"]
    for params, optimizer in runs:
        generator = torch.Generator().manual_seed(1)
        for t in range(4):
            optimizer.reset_units(params[0], t % 2, [t])
            step(optimizer, generator)
    for ours, theirs in zip(*(params for params, _ in runs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        assert torch.equal(runs[0][1].state[ours]["step"], runs[1][1].state[theirs]["step"])
