"""AdamGnT: saving, loading, copying, and exchanging state_dicts with torch.optim.Adam."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from gnt.optim import AdamGnT
from tests.helpers.small_runs import assert_same
from tests.optim.adam_runs import FULL, HALF, step, stepped


def with_resets(dtype: torch.dtype, steps: int = 300, **options):
    """Parameters and their optimizer after more steps than bfloat16 can count, with a reset before the last step."""
    params, optimizer = stepped((4, 2), (4,), (2, 2), steps=steps - 1, dtype=dtype, **options)
    optimizer.reset_units(params[0], 0, [1])
    optimizer.reset_units(params[0], 1, [1, 3], groups=2)
    optimizer.reset_units(params[1], 0, [0])
    step(optimizer, torch.Generator().manual_seed(1))
    return params, optimizer


def saved_and_loaded(optimizer: AdamGnT, params: list[nn.Parameter]) -> AdamGnT:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded = AdamGnT(params, kernels=optimizer.kernels)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    return loaded


@pytest.mark.parametrize("dtype", [*FULL, *HALF])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"fused": True}])
def test_a_loaded_run_continues_bit_for_bit(dtype, options):
    params, optimizer = with_resets(dtype, **options)
    copies = copy.deepcopy(params)
    loaded = saved_and_loaded(optimizer, copies)
    assert_same(loaded.state_dict(), optimizer.state_dict())
    for seed in range(3):
        step(optimizer, torch.Generator().manual_seed(seed))
        step(loaded, torch.Generator().manual_seed(seed))
        for each, its_params in ((optimizer, params), (loaded, copies)):
            each.reset_units(its_params[0], 1, [seed], groups=2)
    assert_same(loaded.state_dict(), optimizer.state_dict())
    torch.testing.assert_close(params, copies, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_and_pickles_continue_bit_for_bit(copied):
    params, optimizer = with_resets(torch.float32, steps=5)
    copies, twin = copied((params, optimizer))
    step(optimizer, torch.Generator().manual_seed(2))
    step(twin, torch.Generator().manual_seed(2))
    assert_same(twin.state_dict(), optimizer.state_dict())
    assert_same([p.detach() for p in copies], [p.detach() for p in params])


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("loaded", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("fused", [None, True])
def test_step_counts_stay_exact_for_all_dtypes(saved, loaded, fused):
    params, optimizer = with_resets(saved, fused=fused)
    others = [nn.Parameter(param.detach().to(loaded)) for param in params]
    twin = saved_and_loaded(optimizer, others)
    for param, other in zip(params, others, strict=True):
        for key, value in optimizer.state[param].items():
            is_count = key in {"step", "row_start", "column_start"}
            assert twin.state[other][key].dtype == (value.dtype if is_count else loaded)
            torch.testing.assert_close(twin.state[other][key], value.to(twin.state[other][key]), rtol=0, atol=0)
    assert twin.state[others[0]]["row_start"].tolist() == [0, 299, 0, 0]
    assert twin.state[others[0]]["column_start"].tolist() == [0, 299, 0, 299]


def test_loaded_step_counts_do_not_share_memory_with_the_state_dict():
    params, optimizer = with_resets(torch.float32, steps=5)
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved["state"][0])
    twin = AdamGnT(copy.deepcopy(params))
    twin.load_state_dict(saved)
    step(twin, torch.Generator())
    twin.reset_units(twin.param_groups[0]["params"][0], 0, [0])
    for key in ("step", "row_start", "column_start"):
        assert_same(saved["state"][0][key], before[key])


def test_user_hooks_see_and_may_change_the_loaded_state():
    params, optimizer = with_resets(torch.bfloat16)
    saved = copy.deepcopy(optimizer.state_dict())
    twin = AdamGnT(copy.deepcopy(params))
    seen = []

    def rewrite(opt, state_dict):
        state = {**state_dict["state"], 0: {**state_dict["state"][0], "row_start": torch.full((4,), 257)}}
        return {**state_dict, "state": state}

    twin.register_load_state_dict_pre_hook(rewrite)
    twin.register_load_state_dict_post_hook(
        lambda opt: seen.append(opt.state[opt.param_groups[0]["params"][0]]["row_start"].clone())
    )
    for _ in range(2):
        twin.load_state_dict(saved)
    assert_same(seen, [torch.full((4,), 257)] * 2)


def test_loading_an_empty_state_removes_the_previous_state():
    params, optimizer = with_resets(torch.float32, steps=5)
    saved = copy.deepcopy(optimizer.state_dict())
    fresh = AdamGnT(copy.deepcopy(params)).state_dict()
    optimizer.load_state_dict(saved)
    optimizer.load_state_dict(fresh)
    assert not optimizer.state


@pytest.mark.parametrize(
    ("key", "size", "which"),
    [("row_start", 3, 0), ("row_start", 5, 1), ("column_start", 3, 0), ("column_start", 6, 0), ("column_start", 4, 1)],
)
def test_step_counts_of_the_wrong_shape_are_refused(key, size, which):
    _, optimizer = with_resets(torch.float32, steps=5)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][which][key] = torch.zeros(size, dtype=torch.int64)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=f"{key} of shape .{size},. does not fit a parameter of shape"):
        optimizer.load_state_dict(saved)
    assert_same(optimizer.state_dict(), before)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})
    assert_same(optimizer.state_dict(), before)
    optimizer.load_state_dict(before)


@pytest.mark.parametrize(
    "options", [{"foreach": False}, {"fused": True}, {"amsgrad": True, "weight_decay": 0.1, "fused": True}]
)
@pytest.mark.parametrize("torch_class", [torch.optim.Adam, torch.optim.AdamW])
def test_state_dicts_are_exchanged_with_torch_adam(torch_class, options):
    theirs_param = nn.Parameter(torch.ones(3, 2))
    theirs = torch_class([theirs_param], **options)
    for seed in range(3):
        step(theirs, torch.Generator().manual_seed(seed))
    ours_param = copy.deepcopy(theirs_param)
    ours = AdamGnT([ours_param], decoupled_weight_decay=torch_class is torch.optim.AdamW)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert "capturable" not in ours.param_groups[0]
    for optimizer in (theirs, ours):
        step(optimizer, torch.Generator().manual_seed(3))
    assert torch.equal(ours_param, theirs_param)

    back_param = copy.deepcopy(ours_param)
    back = torch_class([back_param])
    back.load_state_dict(copy.deepcopy(ours.state_dict()))
    for optimizer in (theirs, back):
        step(optimizer, torch.Generator().manual_seed(4))
    assert torch.equal(back_param, theirs_param)


def test_options_missing_in_a_state_dict_are_those_of_the_constructor():
    _, optimizer = stepped((2,), decoupled_weight_decay=True, maximize=True)
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["param_groups"][0]["decoupled_weight_decay"]
    del saved["param_groups"][0]["maximize"]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True
    assert optimizer.param_groups[0]["maximize"] is True


def test_starts_that_another_optimizer_has_rounded_up_are_set_to_the_step_count():
    params, optimizer = stepped((4, 3), steps=259, dtype=torch.bfloat16)
    optimizer.reset_units(params[0], 0, [1])
    adam = torch.optim.Adam(params)
    adam.load_state_dict(optimizer.state_dict())  # casts 259 to bfloat16, which is 260
    loaded = AdamGnT(params)
    loaded.load_state_dict(adam.state_dict())
    state = loaded.state[params[0]]
    assert state["row_start"].tolist() == [0, int(state["step"]), 0, 0]
    step(loaded, torch.Generator().manual_seed(1))
    assert params[0].isfinite().all()


@pytest.mark.parametrize("start", [-1, 30])
def test_starts_outside_of_the_steps_are_refused(start):
    params, optimizer = stepped((4, 3), steps=20)
    optimizer.reset_units(params[0], 1, [1])
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["column_start"][2] = start
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=rf"column_start must be in 0..20, its step count, got {start}"):
        optimizer.load_state_dict(saved)
    assert_same(optimizer.state_dict(), before)
