"""Attributions against captum, closed forms and the measure of the same name; what they leave unchanged and refuse."""

from __future__ import annotations

import copy
from typing import Any

import captum.attr as ca
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import gnt
from gnt.importance import ATTRIBUTIONS, Importance, attribute
from gnt.importance.attribution._deeplift import deeplift
from gnt.importance.attribution._evaluation import Evaluation
from gnt.importance.attribution._paths import conductance, gauss_legendre, integrated_gradients, internal_influence
from gnt.units import UnitGroup
from tests.helpers.shared_units import NETS
from tests.helpers.small_runs import batch, mlp
from tests.helpers.strategies import networks, seeds


def draws(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tanh_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))


def relu_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def conv_net(pool: bool = False) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Tanh(),
        nn.MaxPool2d(2) if pool else nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(8, 4), nn.ReLU(),
        nn.Linear(4, 3),
    )  # fmt: skip


SHAPES = {tanh_mlp: (5,), relu_mlp: (5,), conv_net: (1, 8, 8)}


def case(make: Any, **settings: Any) -> tuple[nn.Module, Any, Tensor, Tensor]:
    """A network that was trained on a few samples in training mode, its groups, inputs and classes."""
    torch.manual_seed(0)
    net = make(**settings).double()
    x = draws(1, 5, *SHAPES[make])
    net(draws(2, 8, *SHAPES[make]))
    return net, gnt.trace(net, x), x, torch.tensor([0, 2, 1, 1, 0])


CAPTUM: dict[str, Any] = {
    "gradient_activation": (ca.LayerGradientXActivation, {}),
    "gradcam": (ca.LayerGradCam, {"attr_dim_summation": False}),
    "deeplift": (ca.LayerDeepLift, {}),
    "deeplift_shap": (ca.LayerDeepLiftShap, {}),
    "conductance": (ca.LayerConductance, {}),
    "internal_influence": (ca.InternalInfluence, {"n_steps": 5}),
    "integrated_gradients": (ca.LayerIntegratedGradients, {}),
    "ablation": (ca.LayerFeatureAblation, {}),
    "lrp": (ca.LayerLRP, {}),
}
TOLERANCES = {"integrated_gradients": 1e-8, "lrp": 1e-7}  # float32 step sizes in captum; its epsilon


def of_captum(method: str, net: nn.Module, group: UnitGroup, x: Tensor, y: Tensor, baselines: Tensor | None) -> Tensor:
    """The mean magnitude of captum's attribution for each unit of a group with one consumer."""
    kind, options = CAPTUM[method]
    (slot,) = group.outgoing
    given = {"baselines": baselines} if baselines is not None else {}
    if method == "ablation":
        kept: list[Tensor] = []
        hook = slot.module.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
        net(x)
        hook.remove()
        units = torch.arange(group.num_units).repeat_interleave(slot.block)
        mask = units.view(1, -1, *(1,) * (kept[0].ndim - 2)).expand(1, *kept[0].shape[1:])
        options = {"layer_mask": mask}
    # captum averages over the places of a layer's input if they are dimensions of it
    flatten = next((module for module in net if isinstance(module, nn.Flatten)), None)
    layer = kind(net, flatten if method == "gradcam" and slot.block > 1 else slot.module)
    # captum's InternalInfluence and LayerConductance move x through views, so it has to be a leaf of its own
    found = layer.attribute(x.clone().requires_grad_(), target=y, attribute_to_layer_input=True, **given, **options)
    found = (found[0] if isinstance(found, tuple) else found).detach().abs().mean(0)
    return found.reshape(group.num_units, -1).mean(1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", CAPTUM)
@pytest.mark.parametrize("make", [tanh_mlp, conv_net])
def test_attributions_equal_captum(make, method):
    net, groups, x, y = case(relu_mlp if method == "lrp" else make)
    baselines = None
    if "baselines" not in method and ATTRIBUTIONS[method].baselines != "none":
        baselines = draws(3, 3, *x.shape[1:]) if method == "deeplift_shap" else draws(3, *x.shape)
    x = x if make is tanh_mlp or method == "lrp" else x.requires_grad_()
    found = attribute(net, groups, x, y, method=method, baselines=baselines)
    net.eval()
    for group, values in zip(groups, found, strict=True):
        if method == "ablation" or values.ndim == 1:
            expected = of_captum(method, net, group, x.detach(), y, baselines)
            torch.testing.assert_close(values, expected, rtol=0, atol=TOLERANCES.get(method, 1e-9))


def change_of_value(net: nn.Module, x: Tensor, x0: Tensor, y: Tensor) -> Tensor:
    net.eval()
    return (net(x) - net(x0)).gather(1, y[:, None]).squeeze(1).detach()


@settings(max_examples=10)
@given(of=networks(norms=("batch",), spaces=(0, 2), dropout=False, dtypes=(torch.float64,)), seed=seeds)
def test_deeplift_is_complete_on_any_network(of, seed):
    """The attributions of all units that the output depends on add up to F(x) - F(x0), max pooling included."""
    for module in of.net:
        if isinstance(module, _BatchNorm):  # others use the statistics of the batch, which has no rule
            module.register_buffer("running_mean", torch.zeros(module.num_features, dtype=torch.float64))
            module.register_buffer("running_var", torch.ones(module.num_features, dtype=torch.float64))
    x, x0 = draws(seed, 3, *of.shape), draws(seed + 1, 3, *of.shape)
    groups = gnt.walk(of.net)
    evaluation = Evaluation(of.net, groups, x, lambda output: output.flatten(1).sum(1))
    with evaluation.isolated():
        reads, found = deeplift(evaluation, x0, "deeplift")
        change = evaluation.values(of.net(x)) - evaluation.values(of.net(x0))
    assert len(reads) == len(groups)
    for values in found:
        torch.testing.assert_close(values.flatten(1).sum(1), change, rtol=1e-7, atol=1e-9)


def test_deeplift_passes_activations_in_place():
    def by_name(z: Tensor) -> Tensor:
        torch.tanh_(z)
        return F.leaky_relu(z, 0.1, True)

    plain, inplace = After(lambda z: F.leaky_relu(z.tanh(), 0.1)).double(), After(by_name).double()
    inplace.load_state_dict(plain.state_dict())
    x, y = draws(1, 5, 4), torch.tensor([0, 1, 2, 1, 0])
    a, b = (
        attribute(net, gnt.walk([net.first, nn.ELU(), net.second]), x, y, method="deeplift", baselines=draws(2, 1, 4))[
            0
        ]
        for net in (plain, inplace)
    )
    torch.testing.assert_close(a, b)


def test_paths_are_complete():
    """Integrated gradients add up to the change of F, exactly for a smooth function, conductance up to its step."""
    net, groups, x, y = case(tanh_mlp)
    x0 = draws(3, *x.shape)
    evaluation = Evaluation(net, groups, x, y)
    change = change_of_value(net, x, x0, y)
    with evaluation.isolated():
        for number in range(2):
            _, found = integrated_gradients(evaluation, x0, 50, number)
            torch.testing.assert_close(found[number].sum(1), change, rtol=0, atol=1e-12)
        _, found = conductance(evaluation, x0, 50, lambda a, b, t: a + t * (b - a))
        for values in found:
            torch.testing.assert_close(values.sum(1), change, rtol=0, atol=2e-3)


def test_gauss_legendre_is_exact_for_polynomials_of_degree_2n_minus_1():
    for n in (1, 2, 5, 51):
        nodes, weights = gauss_legendre(n)
        for power in (0, 1, 2 * n - 1):
            assert sum(w * a**power for a, w in zip(nodes, weights, strict=True)) == pytest.approx(1 / (power + 1))


def test_gradient_shap_is_in_the_mean_the_internal_influence_times_the_change():
    net, groups, x, y = case(tanh_mlp)
    x0 = draws(3, *x.shape[1:])[None]
    found = attribute(
        net,
        groups,
        x,
        y,
        method="gradient_shap",
        n_steps=400,
        baselines=x0,
        generator=torch.Generator().manual_seed(0),
    )
    evaluation = Evaluation(net, groups, x, y)
    with evaluation.isolated():
        reads, influence = internal_influence(evaluation, x0, 20, lambda a, b, t: a + t * (b - a))
        _, before = evaluation.forward(x0.expand_as(x))
    for values, read, was, mean in zip(found, reads, before, influence, strict=True):
        _, now = evaluation.forward(x)
        h = now[reads.index(read)].value
        torch.testing.assert_close(values, (mean * (h - was.value)).abs().mean(0).detach(), rtol=0, atol=8e-3)


def test_gradient_shap_draws_from_its_generator_or_from_a_copy_of_the_global_one():
    net, groups, x, y = case(tanh_mlp)
    baselines = draws(3, 4, *x.shape[1:])

    def run(generator: torch.Generator | None) -> Tensor:
        return torch.cat(attribute(net, groups, x, y, method="gradient_shap", baselines=baselines, generator=generator))

    generator = torch.Generator().manual_seed(5)
    first, second = run(generator), run(generator)
    assert not first.equal(second)
    assert first.equal(run(torch.Generator().manual_seed(5)))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert first.equal(run(None))
    assert before.equal(torch.get_rng_state())


class TimeFirst(nn.Module):
    """Hidden features (time, samples, units), and an output that is not the last layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.transpose(0, 1)).relu()
        return 2 * self.last(self.second(h).tanh().mean(0))


def literal_ablation(net: nn.Module, group: UnitGroup, x: Tensor, y: Tensor) -> Tensor:
    """One unit after the other, by a hook that sets its positions to 0."""
    net.eval()
    (slot,) = group.outgoing
    full, found = net(x), []
    for unit in range(group.num_units):

        def without(_: nn.Module, args: tuple[Tensor], unit: int = unit) -> Tensor:
            value = args[0].clone()
            value.movedim(1 - slot.weight.ndim, 0)[unit * slot.block : (unit + 1) * slot.block] = 0
            return value

        hook = slot.module.register_forward_pre_hook(without)
        change = (net(x) - full).gather(1, y[:, None])
        hook.remove()
        found.append(change.abs().mean())
    return torch.stack(found).detach()


def flat_conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))


@pytest.mark.parametrize(("make", "shape"), [(TimeFirst, (4, 3)), (conv_net, (1, 8, 8)), (flat_conv, (1, 4, 4))])
def test_ablation_equals_one_forward_for_each_unit_in_chunks_of_any_size(make, shape):
    torch.manual_seed(0)
    net = make().double()
    x, y = draws(1, 5, *shape), torch.tensor([0, 2, 1, 1, 0])
    groups = gnt.trace(net, x)
    expected = [literal_ablation(net, group, x, y) for group in groups]
    for chunk in (1, 12, 1000):
        for values, each in zip(attribute(net, groups, x, y, method="ablation", chunk=chunk), expected, strict=True):
            torch.testing.assert_close(values, each, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_gradient_activation_of_the_loss_equals_the_measure(name):
    """With several consumers, taps and positions, too."""
    torch.manual_seed(0)
    build, shape = NETS[name]
    net = build().double()
    group, x = net.group(), draws(1, 3, *shape)
    for norm in group.norms:
        norm.eval()
    importance = Importance([group], "gradient_activation", average="latest")
    net(x).square().flatten(1).sum(1).mean().backward()
    importance.update()
    (found,) = attribute(net, [group], x, lambda output: output.square().flatten(1).sum(1) / len(output))
    torch.testing.assert_close(found, importance.values[0])


def test_lrp_of_a_relu_network_is_gradient_times_activation():
    net, groups, x, y = case(relu_mlp)
    for a, b in zip(attribute(net, groups, x, y, method="lrp"), attribute(net, groups, x, y), strict=True):
        assert a.equal(b)


def arguments(method: str, x: Tensor) -> dict[str, Any]:
    return {"method": method, "baselines": x[:2]} if method == "deeplift_shap" else {"method": method}


@pytest.mark.parametrize("method", ATTRIBUTIONS)
def test_attributions_between_forward_and_step_change_nothing(method):
    """A training with attributions ends bit for bit where one without them does, engine and buffers included."""

    def train(between: bool) -> tuple[Any, ...]:
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
        )
        optimizer = torch.optim.Adam(net.parameters())
        engine = gnt.GnT(net, optimizer, utility="gradient_activation", replacement_rate=0.2, maturity_threshold=1)
        hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in net]
        for step in range(4):
            x, _ = batch(step, 4, n=6)
            y = torch.randint(3, (6,))
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            if between:
                attribute(net, engine.groups, x, y, **arguments(method, x))
            loss.backward()
            if between:
                attribute(net, engine.groups, x, y, **arguments(method, x))
            optimizer.step()
            engine.step()
        assert net.training
        assert hooks == [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in net]
        grads = [parameter.grad for parameter in net.parameters()]
        return net.state_dict(), grads, engine.state_dict()["groups"], torch.get_rng_state()

    assert_equal(train(True), train(False))


def assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        assert_equal(list(a.values()), list(b.values()))
    elif isinstance(a, (list, tuple)):
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


class Unseen(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return z * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class After(nn.Module):
    """Hidden units, a second layer, and a function of its output."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.second, self.function = nn.Linear(4, 3), nn.Linear(3, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.second(F.elu(self.first(x))))


@pytest.mark.parametrize(
    ("method", "function", "named"),
    [
        ("deeplift", lambda z: z.softmax(1), "softmax"),
        ("deeplift", lambda z: z * z.tanh(), "mul of two tensors that depend on the units"),
        ("deeplift", lambda z: z * (z > 0), "gt"),
        ("deeplift", lambda z: F.layer_norm(z, (3,)), "layer_norm"),
        ("deeplift", lambda z: Unseen.apply(z), "mul without gradients"),
        ("deeplift", lambda z: z.detach() * 2, "detach"),
        ("lrp", torch.tanh, "tanh"),
        ("lrp", F.relu6, "relu6"),
    ],
)
def test_operations_without_a_rule_are_refused_by_name(method, function, named):
    net = After(function)
    with pytest.raises(ValueError, match=f"{method} has no rule for .*{named}"):
        attribute(
            net, gnt.walk([net.first, nn.ELU(), net.second]), torch.randn(2, 4), torch.tensor([0, 1]), method=method
        )


def test_linear_operations_and_functional_activations_pass():
    def function(z: Tensor) -> Tensor:
        parts = torch.cat([F.leaky_relu(z), 2 * z.view(-1, 3) + 1], 1).unbind(1)
        return F.dropout(torch.stack(parts, 1)[:, :3], training=False).clone() / 3 - z.mean(0)

    net = After(function)
    x, y = torch.randn(4, 4), torch.tensor([0, 1, 0, 2])
    groups = gnt.walk([net.first, nn.ELU(), net.second])
    (a,), (b,) = attribute(net, groups, x, y, method="lrp"), attribute(net, groups, x, y)
    assert a.equal(b)
    attribute(net, groups, x, y, method="deeplift")


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"method": "conductence"}, ValueError, "method must be one of .* did you mean 'conductance'"),
        ({"net": "net"}, TypeError, "net must be a torch.nn.Module, got str"),
        ({"groups": []}, TypeError, "groups must be unit groups, .* got none"),
        ({"groups": gnt.walk(mlp(5, 3, 2))}, ValueError, "groups must be those of the model"),
        ({"target": torch.zeros(5)}, ValueError, r"target must be class indices \(N,\), got torch.float32"),
        ({"target": torch.zeros(4, dtype=torch.int64)}, ValueError, r"needs outputs \(N, classes\) with N = 4"),
        ({"target": torch.full((5,), 9)}, ValueError, "target must have classes from 0 to ., got 9 to 9"),
        ({"target": None}, ValueError, "target=None is for outputs of one value per sample"),
        ({"target": lambda output: output}, ValueError, r"target\(output\) must return one value per sample"),
        ({"n_steps": 3}, ValueError, "n_steps must be None for 'gradient_activation'"),
        ({"method": "conductance", "n_steps": 0}, ValueError, "n_steps must be an integer of at least 1"),
        ({"baselines": torch.zeros(1, 5)}, ValueError, "baselines must be None for 'gradient_activation'"),
        ({"method": "deeplift_shap"}, ValueError, "'deeplift_shap' needs baselines"),
        ({"method": "deeplift", "baselines": torch.zeros(3, 5)}, ValueError, r"baselines must be 1 or 5 .* got \[3\]"),
        (
            {"method": "deeplift", "baselines": torch.zeros(5, 4)},
            ValueError,
            "baselines must have the shape of samples",
        ),
        (
            {"method": "conductance", "x": torch.zeros(5, 5, dtype=torch.int64)},
            ValueError,
            "needs floating point inputs",
        ),
        ({"chunk": 0}, ValueError, "chunk must be an integer >= 1, got 0"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator"),
    ],
)
def test_wrong_arguments_are_refused(changes, kind, message):
    net, groups, x, y = case(tanh_mlp)
    given = {"net": net, "groups": groups, "x": x, "target": y, **changes}
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(kind, match=message):
        attribute(**given)
    assert net.training
    assert_equal(net.state_dict(), before)


def test_inputs_in_tuples_and_mappings_give_the_same():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor, scale: Tensor, rows: Tensor) -> Tensor:
            return self.second((self.first(x) * scale[rows]).tanh())

    net = Two().double()
    x, scale, rows = draws(1, 5, 4), draws(2, 5, 1), torch.arange(5)
    groups = gnt.walk([net.first, nn.Tanh(), net.second])
    y = torch.tensor([0, 1, 0, 1, 1])
    as_tuple = attribute(net, groups, (x, scale, rows), y, method="conductance")
    as_mapping = attribute(net, groups, {"rows": rows, "x": x, "scale": scale}, y, method="conductance")
    assert as_tuple[0].equal(as_mapping[0])
    given = {"scale": scale * 0, "x": x * 0, "rows": rows}
    zeros = attribute(net, groups, {"rows": rows, "x": x, "scale": scale}, y, method="conductance", baselines=given)
    assert as_tuple[0].equal(zeros[0])


def test_units_that_the_output_does_not_depend_on_have_0():
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.side = nn.Linear(4, 3), nn.Linear(4, 3)
            self.one, self.two = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(self.trunk(x).relu())

    net = Heads()
    groups = [*gnt.walk([net.trunk, nn.ReLU(), net.one]), *gnt.walk([net.side, nn.ReLU(), net.two])]
    for method in ("gradient_activation", "ablation", "integrated_gradients"):
        used, unused = attribute(net, groups, torch.randn(4, 4), torch.zeros(4).long(), method=method)
        assert used.any()
        assert not unused.any()


def test_an_attribution_is_no_measure_for_an_engine():
    with pytest.raises(ValueError, match="utility 'deeplift' is an attribution, which needs inputs and targets"):
        gnt.GnT(mlp(4, 3, 2), utility="deeplift")
