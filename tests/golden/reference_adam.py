"""The optimizer of the "adam" traces, including its errors. It differs from Adam and is not part of the library."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class ReferenceAdam(torch.optim.Optimizer):
    """The reference's optimizer, element-wise with a step count t for each element:

        g = g + wd p;  t = t + 1;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
        p = p - lr (1 - b2^t) m / (sqrt(v) + eps)

    Adam's factor would be sqrt(1 - b2^t) / (1 - b1^t); the published code computes it and does not use it.
    For convolutional networks it also does not reset the first moment of the incoming weights
    (``keep_incoming_moment``).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        *,
        keep_incoming_moment: bool,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": 1e-8})
        self.keep_incoming_moment = keep_incoming_moment

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state |= {key: torch.zeros_like(p) for key in ("exp_avg", "exp_avg_sq", "step")}
                m, v, t = state["exp_avg"], state["exp_avg_sq"], state["step"]
                g = p.grad + group["weight_decay"] * p
                t += 1
                m.mul_(beta1).add_((1 - beta1) * g)
                v.mul_(beta2).add_((1 - beta2) * g * g)
                p -= group["lr"] * (1 - beta2**t) * m / (v.sqrt() + group["eps"])

    @torch.no_grad()
    def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
        """Reset rows (dim 0) or columns (dim 1) of a parameter's state: gnt's protocol for optimizers."""
        assert groups == 1, "no trace has a grouped convolution"
        incoming_weight = dim == 0 and param.dim() > 1
        for key, value in self.state[param].items():
            if not (key == "exp_avg" and incoming_weight and self.keep_incoming_moment):
                value.index_fill_(dim, index, 0)
