"""Units that gnt.trace must refuse, each by name and with the reason."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import gnt
from tests.units.tracing.group_checks import assert_complete, reasons, summary


class Net(nn.Module):
    """Layers fc1, fc2, fc3 and further modules with a given forward; tests ask about the units of fc1."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        for name, module in modules.items():
            if isinstance(module, nn.Parameter):
                self.register_parameter(name, module)
            else:
                setattr(self, name, module)
        self.own_forward = forward

    def forward(self, x):
        return self.own_forward(self, x)


def _end(net, h):
    """The rest of every network; the units of fc2 are replaceable."""
    return net.fc3(F.relu(net.fc2(h)))


def _called_twice(net, x):
    return _end(net, F.relu(net.fc1(F.relu(net.fc1(x)))))


def _attention(net, x):
    q, k = net.fc1(x), net.key(x)
    return _end(net, (q @ k.mT).softmax(-1) @ x)


def _rotary(net, x):
    q, k = net.fc1(x), net.key(x)
    q = q * torch.arange(6).cos() + torch.cat([-q[..., 3:], q[..., :3]], -1) * torch.arange(6).sin()
    return _end(net, F.scaled_dot_product_attention(q, k, x))


def _route(net, x):
    order = net.fc1(x).topk(2, -1).indices
    return _end(net, x.gather(-1, order).repeat(1, 1, 3))


def _statistic(net, x):
    h = net.fc1(x)
    return _end(net, h / h.pow(2).mean(-1, keepdim=True).sqrt())


def _modes(net, x):
    h = F.relu(net.fc1(x))
    return (_end(net, h), net.aux(h)) if net.training else _end(net, h)


def _half_frozen_gate(net, x):
    return _end(net, F.silu(net.fc1(x)) * net.up(x))


def _frozen(module):
    return module.requires_grad_(False)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


REFUSED = {
    "residual": (lambda n, x: _end(n, x + n.fc1(x)), {}, "residual stream"),
    "summed with a layer": (lambda n, x: _end(n, n.fc1(x) - n.fc4(x)), {"fc4": nn.Linear(6, 6)}, "summed with 'fc4'"),
    "summed with itself, shifted": (lambda n, x: _end(n, (h := n.fc1(x)) + h.roll(1, -1)), {}, "summed with 'fc1'"),
    "multiplied with itself, shifted": (
        lambda n, x: _end(n, (h := n.fc1(x)) * h.roll(1, -1)), {}, "multiplied by several units",
    ),
    "called twice": (_called_twice, {}, "called 2 times"),
    "attention": (_attention, {"key": nn.Linear(6, 6)}, "attention heads' inner units"),
    "attention with rotary positions": (_rotary, {"key": nn.Linear(6, 6)}, "attention heads' inner units"),
    "einsum": (lambda n, x: _end(n, torch.einsum("btd,bsd->bts", n.fc1(x), x) @ x), {}, "attention heads'"),
    "recurrent reader": (lambda n, x: _end(n, n.rnn(n.fc1(x))[0]), {"rnn": nn.GRU(6, 6, batch_first=True)}, "'gru'"),
    "routing": (_route, {}, "read by 'topk', which is not a weight layer"),
    "output": (lambda n, x: (h := F.relu(n.fc1(x)), _end(n, h)), {}, "output units"),
    "kept in a buffer": (
        lambda n, x: (n.mean.copy_((h := n.fc1(x)).mean((0, 1))), _end(n, h))[1], {"mean": None}, "buffer 'mean'",
    ),
    "statistic over units": (_statistic, {}, "mixed by 'mean'"),
    "softmax over units": (lambda n, x: _end(n, n.fc1(x).softmax(-1)), {}, "mixed by 'softmax'"),
    "cumulated": (lambda n, x: _end(n, n.fc1(x).cumsum(-1)), {}, "mixed by 'cumsum'"),
    "pooled over units": (lambda n, x: _end(n, F.avg_pool1d(n.fc1(x), 3, 1, 1)), {}, "mixed by 'avg_pool1d'"),
    "maximum of two layers": (
        lambda n, x: _end(n, torch.maximum(n.fc1(x), n.fc4(x))), {"fc4": nn.Linear(6, 6)}, "'maximum'",
    ),
    "layer scale": (
        lambda n, x: _end(n, n.fc1(x) * n.scale), {"scale": nn.Parameter(torch.ones(6))}, "parameter 'scale'",
    ),
    "a bare matrix reads them": (
        lambda n, x: _end(n, F.relu(n.fc1(x)) @ n.matrix), {"matrix": nn.Parameter(torch.randn(6, 6))}, "'matrix'",
    ),
    "bilinear reads them": (
        lambda n, x: _end(n, n.pair(n.fc1(x), x)), {"pair": nn.Bilinear(6, 6, 6)}, "not a weight layer",
    ),
    "an unknown operation": (lambda n, x: _end(n, torch.fft.rfft(n.fc1(x)).abs().repeat(1, 1, 2)[..., :6]), {}, "fft"),
    "gate of the whole stream": (lambda n, x: _end(n, x * n.fc1(x)[..., :1]), {}, "does not have the same units"),
    "frozen reader": (lambda n, x: _end(n, n.fc4(n.fc1(x))), {"fc4": _frozen(nn.Linear(6, 6))}, "frozen"),
    "parametrized reader": (
        lambda n, x: _end(n, n.fc4(n.fc1(x))), {"fc4": parametrizations.weight_norm(nn.Linear(6, 6))}, "parametrized",
    ),
    "a reader that is called twice": (
        lambda n, x: _end(n, n.fc4(n.fc1(x)) + n.fc4(x)), {"fc4": nn.Linear(6, 6)}, "'fc4', which is called 2 times",
    ),
    "a reader with a custom forward": (
        lambda n, x: _end(n, n.fc4(n.fc1(x))), {"fc4": Doubled(6, 6)}, "custom forward",
    ),
    "a reader's weight used from outside": (
        lambda n, x: _end(n, F.linear(n.fc1(x), n.fc4.weight, n.fc4.bias)), {"fc4": nn.Linear(6, 6)}, "is not called",
    ),
    "a norm that is called twice": (
        lambda n, x: _end(n, n.norm(n.fc1(x)) + n.norm(x)), {"norm": nn.LayerNorm(6)}, "is called 2 times",
    ),
    "training and evaluation differ": (_modes, {"aux": nn.Linear(6, 2)}, "'aux' reads them only in training mode"),
    "the other half of the unit is frozen": (_half_frozen_gate, {"up": _frozen(nn.Linear(6, 6))}, "frozen"),
    "made into weights": (lambda n, x: _end(n, F.linear(x, n.fc1(x)[0, :1].expand(6, 6))), {}, "weights"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_units_are_refused_by_name_and_reason(case):
    torch.manual_seed(0)
    forward, modules, reason = REFUSED[case]
    net = Net(forward, **{key: module for key, module in modules.items() if module is not None})
    if "mean" in modules:
        net.register_buffer("mean", torch.zeros(6))
    x = torch.randn(2, 3, 6)
    groups = gnt.trace(net, x)
    assert reason in " and ".join(why for name, why in reasons(groups).items() if name.startswith("fc1"))
    assert not any(name.startswith("fc1") for name in summary(groups))
    assert summary(groups)["fc2"] == "6 relu: fc2 > fc3"
    assert_complete(net, [group for group in groups if group.name == "fc2"], x)


UNRESETTABLE = {
    "frozen": (_frozen, "frozen"),
    "frozen weight, trained bias": (lambda m: (m.weight.requires_grad_(False), m)[1], "frozen"),
    "parametrized": (parametrizations.weight_norm, "parametrized"),
    "complex": (lambda m: nn.Linear(6, 6, dtype=torch.complex64), "complex"),
}


@pytest.mark.parametrize("case", UNRESETTABLE)
def test_a_producer_that_cannot_be_reset_is_refused(case):
    change, reason = UNRESETTABLE[case]
    net = Net(lambda n, x: _end(n, F.relu(torch.view_as_real(y)[..., 0] if (y := n.fc1(x)).is_complex() else y)))
    net.fc1 = change(net.fc1)
    x = torch.randn(2, 3, 6, dtype=net.fc1.weight.dtype)
    groups = gnt.trace(net, x)
    assert reason in reasons(groups)["fc1"]
    assert list(summary(groups)) == ["fc2"]


def test_a_producer_with_extra_parameters_is_refused():
    class Scaled(nn.Linear):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.gain = nn.Parameter(torch.ones(6))

    net = Net(lambda n, x: _end(n, F.relu(n.fc1(x))))
    net.fc1 = Scaled(6, 6)
    assert "parameters (gain)" in reasons(gnt.trace(net, torch.randn(2, 6)))["fc1"]


class Tied(nn.Module):
    """An embedding and an output layer with a shared weight."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 6)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.fc2(F.relu(self.fc1(self.embed(x)))))


def test_tied_weights_are_refused_on_both_sides():
    groups = gnt.trace(Tied(), torch.randint(10, (2, 3)))
    assert summary(groups) == {"fc1": "12 relu: fc1 > fc2"}
    assert "'embed' (tied weights)" in reasons(groups)["head"]
    assert "'head', which shares its weight with 'embed' (tied weights)" in reasons(groups)["fc2"]


def test_two_layers_with_one_weight_are_refused():
    net = Net(lambda n, x: _end(n, F.relu(n.fc1(F.relu(n.fc4(x))))), fc4=nn.Linear(6, 6))
    net.fc4.weight = net.fc1.weight
    found = reasons(gnt.trace(net, torch.randn(2, 6)))
    assert "tied" in found["fc1"]
    assert "tied" in found["fc4"]


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.lstm, self.cell = nn.Linear(4, 6), nn.LSTM(6, 5, batch_first=True), nn.GRUCell(5, 3)
        self.heads = nn.MultiheadAttention(6, 2, batch_first=True)
        self.wide, self.out, self.unused = nn.Linear(3, 8), nn.Linear(8, 2), nn.Linear(2, 2)
        self.up = nn.ConvTranspose1d(2, 3, 2)

    def forward(self, x):
        x = self.inside(x)
        x = x + self.heads(x, x, x, need_weights=False)[0]
        y = self.cell(self.lstm(x)[0][:, -1])
        return self.up(self.out(F.relu(self.wide(y)))[..., None])


def test_recurrent_attention_and_transposed_layers_are_listed():
    groups = gnt.trace(Cells(), torch.randn(2, 3, 4))
    found = reasons(groups)
    assert summary(groups) == {"wide": "8 relu: wide > out"}
    assert "recurrent gates" in found["lstm"]
    assert "recurrent gates" in found["cell"]
    assert "attention heads' inner units" in found["heads"]
    assert "residual stream" in found["heads.out_proj"]
    assert "transposed convolution" in found["up"]
    assert "transposed convolution" in found["out"]
    assert "does not use it" in found["unused"]


def test_units_of_a_cbp_layer_are_refused():
    net = Net(lambda n, x: _end(n, n.cbp(F.relu(n.fc1(x)))))
    net.cbp = gnt.CBPLinear(net.fc1, net.fc2)
    groups = gnt.trace(net, torch.randn(2, 6))
    assert "already replaced by the engine of 'cbp'" in reasons(groups)["fc1"]
    assert list(summary(groups)) == ["fc2"]
    assert not net.cbp.features.waiting


def test_outputs_of_experts_selected_by_data_are_refused():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.router = nn.Linear(4, 3)
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(3))

        def forward(self, x):
            weights, chosen = self.router(x).softmax(-1).topk(2, -1)
            y = torch.stack([expert(x) for expert in self.experts], 1)
            return (y.gather(1, chosen[..., None].expand(-1, -1, 4)) * weights[..., None]).sum(1)

    net, x = Experts(), torch.randn(5, 4)
    groups = gnt.trace(net, x)
    assert list(summary(groups)) == [f"experts.{i}.0" for i in range(3)]
    assert all("data-dependent routing" in reasons(groups)[f"experts.{i}.2"] for i in range(3))
    assert "mixed by 'softmax'" in reasons(groups)["router"]
    assert_complete(net, groups, x)


def test_layers_after_a_data_dependent_mask_are_refused():
    net = Net(lambda n, x: _end(n, n.fc1(x)[x.sum(-1) > 0]))
    with pytest.raises(gnt.TraceError) as caught:
        gnt.trace(net, torch.randn(2, 3, 6))
    for name in ("fc1", "fc2", "fc3"):
        assert f"{name}: {getattr(net, name).out_features} units, data-dependent routing" in str(caught.value)


def test_layers_inside_a_condition_are_refused():
    def forward(net, x):
        return torch.cond(x.sum() > 0, lambda x: net.fc3(F.relu(net.fc2(x))), lambda x: net.fc3(net.fc2(x)), (x,))

    with pytest.raises(gnt.TraceError) as caught:
        gnt.trace(Net(forward), torch.randn(2, 6))
    assert "fc2: 6 units, read inside 'cond'" in str(caught.value)
    assert "fc1: 6 units, this forward does not use it" in str(caught.value)


def test_experts_stacked_in_one_parameter_are_refused():
    def forward(net, x):
        chosen = net.fc1(x).topk(1, -1).indices[..., 0]
        return _end(net, torch.bmm(net.experts[chosen], x[..., None])[..., 0])

    net, x = Net(forward, experts=nn.Parameter(torch.randn(6, 6, 6))), torch.randn(3, 6)
    groups = gnt.trace(net, x)
    assert list(summary(groups)) == ["fc2"]
    assert "topk" in reasons(groups)["fc1"]
    assert_complete(net, groups, x)
