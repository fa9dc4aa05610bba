"""The arithmetic of one Adam step: torch's own where no unit was reset, and ours where one was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from gnt import shards
from gnt.optim.unit_counts import START_KEYS, Sides, corrections, per_element

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

State = dict[str, Any]


def host_step(step: Tensor | float) -> Tensor:
    """A step count as AdamGnT keeps it: a 0-d tensor on the host, where reading it waits for nothing.

    float64, because torch's own float32 stands still at 2^24 = 16.8 million steps, after which a restarted
    count could never grow. torch's functions take either, and give the same bits.
    """
    return torch.tensor(float(step), dtype=torch.float64)


def new_state(param: Tensor, amsgrad: bool) -> State:
    """The state of a parameter before its first step."""
    moments = MOMENTS if amsgrad else MOMENTS[:2]
    zeros = {key: torch.zeros_like(param, memory_format=torch.preserve_format) for key in moments}
    return {"step": host_step(0.0), **zeros}


def parts_here(param: Tensor, grad: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """Parameter, gradient and state as they are; of a DTensor the parts on this process. Adam works on each element."""
    if not shards.is_sharded(param):
        return param, grad, state
    whole: Any = grad
    if whole.placements != param.placements:  # type: ignore[attr-defined]
        whole = whole.redistribute(placements=param.placements)  # type: ignore[attr-defined]
    local = {key: shards.local(value) if key in MOMENTS else value for key, value in state.items()}
    for dim, key in enumerate(START_KEYS):
        if key in state and shards.local(param).shape[dim] != param.shape[dim]:
            local[key] = state[key].narrow(0, *shards.extent(param, dim))
    return shards.local(param), shards.local(whole), local


def step_as_torch(stepped: list[tuple[Tensor, Tensor, State]], group: dict[str, Any]) -> None:
    """Step parameters of which no unit was reset: torch's functional Adam or AdamW, by the group's flags."""
    if not stepped:
        return
    params = [param for param, _, _ in stepped]
    host_steps = [state["step"] for *_, state in stepped]
    beta1, beta2 = group["betas"]
    lr = group["lr"].squeeze() if isinstance(group["lr"], Tensor) else group["lr"]  # torch 2.6 wants it 0-d
    function = adamw if group["decoupled_weight_decay"] else adam
    function(
        params,
        [grad for _, grad, _ in stepped],
        [state["exp_avg"] for *_, state in stepped],
        [state["exp_avg_sq"] for *_, state in stepped],
        [state["max_exp_avg_sq"] for *_, state in stepped] if group["amsgrad"] else [],
        _on_device(host_steps, params) if group["fused"] else host_steps,
        foreach=group["foreach"],
        fused=group["fused"],
        amsgrad=group["amsgrad"],
        beta1=beta1,
        beta2=beta2,
        lr=lr,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )
    if group["fused"]:
        for step in host_steps:
            step.add_(1.0)


def _on_device(host_steps: list[Tensor], params: list[Tensor]) -> list[Tensor]:
    """Step counts as the fused kernel reads them: float32, beside the parameters; equal ones in one fill."""
    places: dict[tuple[torch.device, float], list[int]] = {}
    for i, (step, param) in enumerate(zip(host_steps, params, strict=True)):
        places.setdefault((param.device, step.item()), []).append(i)
    steps = list(host_steps)
    for (device, value), where in places.items():
        filled = torch.full((len(where),), value, dtype=torch.float32, device=device)
        for i, step in zip(where, filled.unbind(), strict=True):
            steps[i] = step
    return steps


def step_per_unit(param: Tensor, grad: Tensor, state: State, group: dict[str, Any]) -> None:
    """Step a parameter whose elements have counts of their own, in torch's order of operations.

    The factors of half precision parameters, and their quotient, are float32: in float16 eps would be 0, and
    the 0 / 0 of a fresh unit without gradient would be NaN.
    """
    (beta1, beta2), lr, weight_decay = group["betas"], group["lr"], group["weight_decay"]
    grad = -grad if group["maximize"] else grad
    exp_avg, exp_avg_sq = state["exp_avg"], state["exp_avg_sq"]
    state["step"].add_(1.0)
    now = int(state["step"].item())

    if weight_decay != 0:
        if group["decoupled_weight_decay"]:
            param.mul_(1 - lr * weight_decay)
        else:
            grad = grad.add(param, alpha=weight_decay)
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    if group["amsgrad"]:
        exp_avg_sq = torch.maximum(state["max_exp_avg_sq"], exp_avg_sq, out=state["max_exp_avg_sq"])

    dtype = torch.promote_types(param.dtype, torch.float32)
    # sqrt(v) / sqrt(1 - b2^t) + eps
    roots = _cast(corrections(state, now, beta2, power=0.5), dtype)
    denominator = exp_avg_sq.to(dtype).sqrt()
    denominator.div_(per_element(torch.minimum, roots, param.shape)).add_(group["eps"])
    # m * lr / (1 - b1^t): the smaller of two corrections gives the greater of two step sizes
    sizes = _cast(corrections(state, now, beta1), dtype, numerator=lr)
    update = per_element(torch.maximum, sizes, param.shape)
    update = update.mul_(exp_avg) if update.shape == param.shape else update * exp_avg
    param.addcdiv_(update, denominator, value=-1.0)


def _cast(sides: Sides, dtype: torch.dtype, numerator: float | Tensor | None = None) -> Sides:
    """Corrections, or a number divided by them, in the dtype of the step."""

    def one(side: Tensor | None) -> Tensor | None:
        if side is not None and numerator is not None:
            # Of two tensors: a Python number / tensor is computed as its reciprocal times the number.
            side = torch.as_tensor(numerator, dtype=side.dtype) / side
        return None if side is None else side.to(dtype)

    return one(sides[0]), one(sides[1])
