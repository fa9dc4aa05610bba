"""init="auto" takes the distribution that a layer's weights look like a draw from."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import nn

import gnt

CASES = {
    "torch's own": (lambda w: None, "uniform", 1 / math.sqrt(20)),
    "kaiming": (lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"), "uniform", math.sqrt(6 / 20)),
    "xavier": (nn.init.xavier_uniform_, "uniform", math.sqrt(6 / 84)),
    "kaiming_normal": (lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"), "normal", math.sqrt(2 / 20)),
    "xavier_normal": (nn.init.xavier_normal_, "normal", math.sqrt(2 / 84)),
    "normal": (lambda w: nn.init.normal_(w, 0.0, 0.02), "normal", 0.02),
    "measured normal": (lambda w: nn.init.normal_(w, 0.0, 0.1), "normal", None),
    "truncated": (lambda w: nn.init.trunc_normal_(w, 0.0, 0.02, -0.04, 0.04), "truncated_normal", 0.02),
    "orthogonal": (lambda w: nn.init.orthogonal_(w, math.sqrt(2)), "orthogonal", math.sqrt(2)),
    "constant": (lambda w: nn.init.constant_(w, 0.1), "uniform", 1 / math.sqrt(20)),
    "identity": (nn.init.eye_, "uniform", 1 / math.sqrt(20)),
    "not finite": (lambda w: nn.init.constant_(w, math.nan), "uniform", 1 / math.sqrt(20)),
}


def make_net(init_=lambda w: None, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1))
    with torch.no_grad():
        init_(net[0].weight)
    return net


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_the_distribution_of_the_weights_is_found(name: str, dtype: torch.dtype) -> None:
    init_, kind, scale = CASES[name]
    for seed in range(5):
        net = make_net(init_, seed).to(dtype)
        (chosen,) = gnt.GnT(net).slot_inits[0][0].weights
        expected = net[0].weight.double().std().item() if scale is None else scale
        assert (chosen.kind, chosen.scale) == (kind, pytest.approx(expected, rel=2e-2 if scale is None else 2e-3))


def test_trained_weights_get_torchs_own_and_the_report_says_so() -> None:
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    start = gnt.GnT(net, optimizer)
    assert "fits" in start.report().groups[0].init
    assert "new weights" not in str(start.report())
    for _ in range(50):
        optimizer.zero_grad()
        x = torch.randn(16, 20)
        (net(x) - x[:, :1]).square().mean().backward()
        optimizer.step()
    report = gnt.GnT(net, optimizer).report()
    assert report.groups[0].init == (
        "uniform in [-0.2236, 0.2236] (torch's own: no known distribution fits the layer's weights)"
    )
    assert "no known distribution fits" in str(report)


def test_a_resumed_engine_keeps_the_choice_of_the_original_run() -> None:
    net = make_net(nn.init.kaiming_normal_)
    file = io.BytesIO()
    torch.save(gnt.GnT(net, bias_init="initial").state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    original = gnt.GnT(net, bias_init="initial").slot_inits
    net[0].weight.data.fill_(1.0)
    net[0].bias.data.fill_(1.0)
    resumed, named = gnt.GnT(net, bias_init="initial"), gnt.GnT(net, init="xavier")
    resumed.load_state_dict(state)
    named.load_state_dict(state)
    assert resumed.slot_inits == original
    assert named.slot_inits == gnt.GnT(net, init="xavier").slot_inits
    state["inits"][0][0]["weights"] = [["unifrom", 1.0]]
    with pytest.raises(ValueError, match=r"kind must be one of uniform, .*got 'unifrom'"):
        resumed.load_state_dict(state)
    assert resumed.slot_inits == original


def test_each_member_of_an_ensemble_gets_its_own_distribution() -> None:
    inits = iter([nn.init.kaiming_normal_, nn.init.xavier_uniform_])
    ensemble = gnt.Ensemble(lambda: make_net(next(inits)), [1, 2], replacement_rate=0.1)
    assert [each.kind for each in ensemble.gnt.slot_inits[0][0].weights] == ["normal", "uniform"]


def test_a_new_unit_gets_the_bias_distribution_of_its_layer() -> None:
    net = make_net()
    engine = gnt.GnT(net, bias_init="initial")
    engine.replace([torch.arange(64)])
    assert 0.9 / math.sqrt(20) < net[0].bias.abs().max() <= 1 / math.sqrt(20)
    nn.init.constant_(net[0].bias, 0.5)
    gnt.GnT(net, bias_init="initial").replace([[1, 2]])
    assert (net[0].bias == 0.5).all()
