"""Global response normalization (ConvNeXt V2) and other norms written by hand: they couple units and are shown."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt.optim import AdamGnT
from tests.units.tracing.group_checks import reasons, summary
from tests.units.tracing.soundness import sound_groups

X = torch.randn(2, 3, 4, 4)


class Grn(nn.Module):
    """As its authors write it; a test may give another function of the parameters, the input and its response."""

    def __init__(self, function=lambda gamma, beta, x, n: gamma * (x * n) + beta + x):
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(torch.zeros(1, 1, 1, 6)) for _ in range(2))
        self.function = function

    def forward(self, x):
        response = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return self.function(self.gamma, self.beta, x, response / (response.mean(-1, keepdim=True) + 1e-6))


class GrnWithViews(nn.Module):
    """As timm writes it, for both orders of the dimensions."""

    def __init__(self, channels_last):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(6))
        self.pixels, self.channels, self.shape = (
            ((1, 2), -1, (1, 1, 1, -1)) if channels_last else ((2, 3), 1, (1, -1, 1, 1))
        )

    def forward(self, x):
        response = x.norm(p=2, dim=self.pixels, keepdim=True)
        n = response / (response.mean(dim=self.channels, keepdim=True) + 1e-6)
        return x + torch.addcmul(self.bias.view(self.shape), self.weight.view(self.shape), x * n)


class LayerNormByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(6, 1, 1)), nn.Parameter(torch.zeros(6, 1, 1))

    def forward(self, x):
        x = x - x.mean(1, keepdim=True)
        return x / (x.pow(2).mean(1, keepdim=True) + 1e-6).sqrt() * self.weight + self.bias


class Net(nn.Module):
    def __init__(self, norm, channels_last=True):
        super().__init__()
        layer = nn.Linear if channels_last else lambda inputs, outputs: nn.Conv2d(inputs, outputs, 1)
        self.first, self.last, self.norm, self.channels_last = layer(3, 6), layer(6, 2), norm, channels_last

    def forward(self, x):
        return self.last(self.norm(F.gelu(self.first(x.movedim(1, -1) if self.channels_last else x))))


NETS = {
    "Grn": lambda: Net(Grn()),
    "Grn without beta in the middle": lambda: Net(Grn(lambda gamma, beta, x, n: x + beta + x * n * gamma)),
    "GrnWithViews": lambda: Net(GrnWithViews(True)),
    "GrnWithViews, channels first": lambda: Net(GrnWithViews(False), False),
    "LayerNormByHand": lambda: Net(LayerNormByHand(), False),
}


@pytest.mark.parametrize("name", NETS)
def test_units_before_the_norm_are_replaceable_and_shown_as_coupled(name):
    net = NETS[name]()
    kind = type(net.norm).__name__
    (group,) = sound_groups(net, X)
    assert summary([group]) == {"first": "6 gelu: first > norm > last"}
    assert group.couplings == (f"norm {kind}",)
    assert f"  coupled   norm {kind}: replacing a unit changes the normalized values of the others" in str(group)


@pytest.mark.parametrize("make", [torch.optim.AdamW, AdamGnT, lambda params: AdamGnT(params, kernels=True)])
@pytest.mark.parametrize("name", ["Grn", "GrnWithViews", "LayerNormByHand"])
def test_replaced_units_get_initial_values_and_no_optimizer_state(name, make):
    net = NETS[name]()
    scale, shift = net.norm.parameters()
    fresh = 1.0 if name == "LayerNormByHand" else 0.0
    optimizer = make(net.parameters())
    averaged = torch.optim.swa_utils.AveragedModel(net)
    anchors = gnt.L2Init(net, strength=1e-3)
    settings = {"replacement_rate": 0, "maturity_threshold": 5, "follow": [averaged, anchors]}
    engine = gnt.GnT(gnt.trace(net, X), optimizer, **settings)
    with torch.no_grad():
        scale.fill_(3.0), shift.fill_(2.0)
    for _ in range(3):
        net(X).square().mean().backward()
        optimizer.step()
    before = {
        p: (p.detach().flatten().clone(), optimizer.state[p]["exp_avg"].flatten().clone()) for p in (scale, shift)
    }
    engine.replace([[1, 4]])
    for parameter, value in ((scale, fresh), (shift, 0.0)):
        values, moments = parameter.detach().flatten(), optimizer.state[parameter]["exp_avg"].flatten()
        assert values[[1, 4]].tolist() == [value] * 2
        assert moments[[1, 4]].tolist() == [0.0] * 2
        others = [0, 2, 3, 5]
        assert torch.equal(values[others], before[parameter][0][others])
        assert torch.equal(moments[others], before[parameter][1][others])
        assert moments[others].all()
    for ours, theirs in zip(averaged.module.norm.parameters(), net.norm.parameters(), strict=True):
        assert torch.equal(ours.flatten()[[1, 4]], theirs.flatten()[[1, 4]])
    number = [id(parameter) for parameter in net.parameters()].index(id(scale))
    assert anchors.start[number].flatten()[[1, 4]].tolist() == [fresh] * 2
    net(X).square().mean().backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in net.parameters())


@pytest.mark.parametrize(
    "function",
    [
        lambda gamma, beta, x, n: gamma * (x * n) - beta + x,
        lambda gamma, beta, x, n: gamma * (x * n) + beta * x,
        lambda gamma, beta, x, n: gamma * (x * n) + beta + x.flip(-1),
        lambda gamma, beta, x, n: gamma * (x * n.mean(-1, keepdim=True)) + beta + x + x.mean(-1, keepdim=True),
        lambda gamma, beta, x, n: gamma * x.cumsum(-1) + beta + x,
        lambda gamma, beta, x, n: gamma.flip(-1) * (x * n) + beta + x,
        lambda gamma, beta, x, n: gamma * (x * n) + beta + x + gamma,
    ],
)
def test_other_functions_of_statistics_and_parameters_are_refused(function):
    with pytest.raises(gnt.TraceError, match=r"first(\[.*\])?: \d units, (they are (mixed|combined)|its .* summed)"):
        gnt.trace(Net(Grn(function)), X)


def test_units_that_are_normalized_together_with_other_values_are_refused():
    net = Net(Grn())
    net.forward = lambda x: net.last(net.norm(torch.cat([F.gelu(net.first(x))[..., :3], x], -1)))
    with pytest.raises(gnt.TraceError, match="normalized together with other values"):
        gnt.trace(net, X.movedim(1, -1))


def test_a_statistic_that_leaves_the_norm_refuses_its_units():
    class Leaking(Grn):
        def forward(self, x):
            self.mean = x.mean(-1)
            return super().forward(x)

    with pytest.raises(gnt.TraceError, match="mixed by 'mean'"):
        gnt.trace(Net(Leaking()), X)
    assert "first" not in reasons(gnt.trace(Net(Grn()), X))
