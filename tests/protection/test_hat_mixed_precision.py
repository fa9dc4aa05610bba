"""HAT, AdaHAT and FG-AdaHAT under bfloat16 autocast and a GradScaler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from tests.helpers.small_runs import assert_same
from tests.protection.masked_runs import inputs

KINDS = [
    (gnt.HAT, {}),
    (gnt.HAT, {"apply": "gradient"}),
    (gnt.AdaHAT, {"alpha": 1e-3, "apply": "gradient"}),
    (gnt.FGAdaHAT, {"alpha": 0.1}),
    (gnt.FGAdaHAT, {"alpha": 1e-3, "importance": "incoming_gradient", "apply": "gradient"}),
    (gnt.FGAdaHAT, {"alpha": 0.1, "importance": "deeplift", "every": 2}),
]


def network(norm: bool) -> nn.Sequential:
    torch.manual_seed(0)
    norms = [nn.LayerNorm(10)] if norm else []
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 10), *norms, nn.ReLU(), nn.Linear(10, 3))


def autocast(enabled: bool = True) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


def run(kind: Any, own: dict[str, Any], *, scaled: bool, half: bool = True) -> tuple[gnt.HAT, list[Any]]:
    """Train three tasks; what the ended tasks compute after each."""
    net = network(norm=own.get("importance") != "deeplift")  # which has no rule for it
    hat = kind(net, gnt.walk(net), sparsity=0.1, generator=torch.Generator().manual_seed(7), **own)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=2.0**10)
    found: list[Any] = []
    for task in range(3):
        with hat.learning(task, optimizer, steps_per_epoch=2):
            for step in range(4):
                x = inputs(net, seed=10 * task + step)
                y = torch.randint(3, (len(x),), generator=torch.Generator().manual_seed(step))
                if isinstance(hat, gnt.FGAdaHAT):
                    hat.observe(x, y)
                optimizer.zero_grad()
                with autocast(half):
                    loss = F.cross_entropy(net(x), y) + hat.penalty()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        net.eval()
        with torch.no_grad(), autocast(half):
            now = {}
            for each in hat.tasks:
                with hat.use(each):
                    now[each] = net(inputs(net))
        net.train()
        found.append(now)
    return hat, found


@pytest.mark.parametrize(("kind", "own"), KINDS, ids=str)
def test_a_scaled_loss_under_autocast_trains_bit_for_bit_as_an_unscaled_one(kind, own):
    runs = [run(kind, own, scaled=scaled) for scaled in (True, False)]
    assert_same(*(found for _, found in runs))
    assert_same(*(dict(hat.model.state_dict()) for hat, _ in runs))
    assert_same(*(dict(hat.named_buffers()) for hat, _ in runs))
    assert runs[0][0].embedding.dtype == runs[0][0].model[0].weight.dtype == torch.float32
    if kind is gnt.HAT:  # and the outputs of ended tasks do not change
        (_, found) = runs[0]
        assert found[2][0].dtype == torch.bfloat16
        assert_same(found[1][0], found[0][0])
        assert_same({task: found[2][task] for task in found[1]}, found[1])


@pytest.mark.parametrize("importance", ["contribution", "incoming_gradient", "deeplift"])
def test_importances_under_autocast_are_those_of_full_precision_to_its_rounding(importance):
    half, full = (
        run(gnt.FGAdaHAT, {"alpha": 0.1, "importance": importance, "every": 1}, scaled=False, half=half)[0].importances[
            0
        ]
        for half in (True, False)
    )
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.03)
    assert not torch.equal(half, full)
