"""`learn(x, y)` of `Backprop` and `ContinualBackprop`: one whole training step, or an error and no change."""

from __future__ import annotations

import copy
import inspect
import io
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from gnt import Backprop, ContinualBackprop
from gnt.importance import WeightMeans
from gnt.optim import CBPSGD
from tests.helpers.small_runs import (
    FREQUENT_REPLACEMENT,
    assert_same,
    batch,
    conv_net,
    full_state,
    mlp,
    train,
    without_global_hooks,
)

BOTH_LEARNERS = pytest.mark.parametrize("learner_class", [Backprop, ContinualBackprop])
TORCH_OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 1e-3}),
    "adam": (torch.optim.Adam, {"betas": (0.8, 0.99), "weight_decay": 1e-3}),
    "adamw": (torch.optim.AdamW, {"amsgrad": True}),
}


class NetWithPredict(nn.Module):
    """A network that returns its features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()

    def predict(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        first, second = self.layers[:2](x), self.layers[:4](x)
        return self.layers(x), [first, second]


def snapshot(learner: Backprop) -> dict:
    return full_state(learner.net, learner.opt, getattr(learner, "gnt", None))


def learn(learner: Backprop, steps: range, *shape: int) -> list[gnt.Step]:
    return [learner.learn(*batch(t, *shape)) for t in steps]


@pytest.mark.parametrize(("opt", "torch_optimizer"), TORCH_OPTIMIZERS.items())
@pytest.mark.parametrize(("learner_class", "rate"), [(Backprop, {}), (ContinualBackprop, {"replacement_rate": 0.0})])
def test_without_replacement_results_equal_a_training_loop_bit_for_bit(learner_class, rate, opt, torch_optimizer):
    make, options = torch_optimizer
    learner = learner_class(conv_net(), opt=opt, step_size=0.01, **options, **rate)
    net = conv_net()
    if isinstance(learner.opt, gnt.AdamGnT):
        learner.opt.kernels = False
    fused = {} if opt == "sgd" else {"fused": True}  # the default of learners, and of AdamGnT without kernels
    plain = make(net.parameters(), lr=0.01, **options, **fused)
    for t in range(8):
        x, y = batch(t, 1, 8, 8)
        step = learner.learn(x, y)
        output = net(x)
        loss = F.mse_loss(output, y)
        plain.zero_grad()
        loss.backward()
        plain.step()
        assert_same([step.loss, step.output], [loss.detach(), output.detach()])
        assert not any(map(len, step.replaced))
    assert_same(dict(learner.net.state_dict()), dict(net.state_dict()))
    assert_same([p.grad for p in learner.net.parameters()], [p.grad for p in net.parameters()])


@pytest.mark.parametrize("opt", ["adam", "adamw"])
@pytest.mark.parametrize(
    ("options", "dtype", "fused"),
    [({}, torch.float32, True), ({}, torch.bfloat16, True), ({"fused": False}, torch.float32, False),
     ({"foreach": True}, torch.float32, None), ({"foreach": False}, torch.float64, None),
     ({"differentiable": True}, torch.float32, None), ({}, torch.float64, True)],
)  # fmt: skip
def test_torchs_adam_by_name_is_fused_unless_asked_otherwise(opt, options, dtype, fused):
    learner = Backprop(nn.Linear(2, 1).to(dtype), opt=opt, **options)
    assert learner.opt.defaults["fused"] is fused
    assert learner.opt.defaults["foreach"] is options.get("foreach")


@pytest.mark.parametrize("opt", TORCH_OPTIMIZERS)
def test_continual_backprop_equals_a_training_loop_with_an_engine(opt):
    learner = ContinualBackprop(conv_net(), opt=opt, generator=torch.Generator().manual_seed(3), **FREQUENT_REPLACEMENT)
    net = conv_net()
    options = {"adamw": {"weight_decay": 1e-2, "decoupled_weight_decay": True}}.get(opt, {})
    own = (torch.optim.SGD if opt == "sgd" else gnt.AdamGnT)(net.parameters(), lr=1e-3, **options)
    engine = gnt.GnT(net, own, generator=torch.Generator().manual_seed(3), **FREQUENT_REPLACEMENT)
    steps = learn(learner, range(8), 1, 8, 8)
    assert_same([list(s.replaced) for s in steps], train(net, own, engine, range(8), 1, 8, 8))
    assert_same(snapshot(learner), full_state(net, own, engine))
    assert sum(len(units) for s in steps for units in s.replaced) > 5


@BOTH_LEARNERS
@pytest.mark.parametrize("size", [8, 1, 0])
def test_learn_returns_a_step_for_every_kind_of_loss(learner_class, size):
    losses = ("mse", "cross_entropy", "nll", nn.MSELoss(), lambda output, y: (output - y).abs().mean())
    for loss in losses:
        learner = learner_class(mlp(), loss=loss)
        x, y = batch(0, n=size)
        step = learner.learn(x, y.argmax(1) if loss in ("cross_entropy", "nll") else y)
        assert isinstance(step, gnt.Step)
        assert step._fields == ("loss", "output", "replaced")
        assert (step.loss.shape, step.output.shape) == ((), (size, 2))
        assert not step.loss.requires_grad
        assert not step.output.requires_grad
        groups = learner.gnt.groups if learner_class is ContinualBackprop else []
        assert [u.dtype for u in step.replaced] == [torch.int64] * len(groups)
    assert inspect.signature(learner_class).parameters["loss"].default == "mse"


@pytest.mark.parametrize("loss", ["cross_entropy", "nll"])
def test_class_losses_take_logits(loss):
    learner = Backprop(mlp(), loss=loss)
    x, y = batch(0)
    expected = F.cross_entropy(learner.net(x), y.argmax(1))
    assert_same(learner.learn(x, y.argmax(1)).loss, expected.detach())
    learner.learn(x, y.softmax(1))  # probabilities


def test_features_are_taken_from_predict_if_the_network_has_it():
    learner = ContinualBackprop(NetWithPredict(), generator=torch.Generator().manual_seed(1), **FREQUENT_REPLACEMENT)
    recorded = ContinualBackprop(mlp(), generator=torch.Generator().manual_seed(1), **FREQUENT_REPLACEMENT)
    assert not any(module._forward_pre_hooks for module in learner.net.modules())
    steps = [learn(each, range(8)) for each in (learner, recorded)]
    assert_same(*[[list(s.replaced) for s in each] for each in steps])
    assert_same(dict(learner.net.layers.state_dict()), dict(recorded.net.state_dict()))
    assert Backprop(NetWithPredict()).learn(*batch(0)).output.shape == (8, 2)


def test_layers_may_be_given_separately_from_the_network():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(F.relu(self.fc1(x)))

    net = Functional()
    learner = ContinualBackprop(net, layers=[net.fc1, F.relu, net.fc2], **FREQUENT_REPLACEMENT)
    learn(learner, range(8))
    assert learner.gnt.groups[0].state.replaced > 0
    with pytest.raises(ValueError, match=r"Functional has no \.layers"):
        ContinualBackprop(net)


BAD_SETTINGS = [
    ({"loss": "mae"}, ValueError, "loss must be one of mse, cross_entropy, nll, or a callable (output, target)"),
    ({"loss": "mae"}, ValueError, "got 'mae'"),
    ({"loss": ["mse"]}, ValueError, "loss must be one of mse, cross_entropy, nll"),
    ({"opt": "SGD"}, ValueError, "opt must be one of sgd, adam, adamw, or a torch.optim.Optimizer, got 'SGD'"),
    ({"opt": None}, ValueError, "opt must be one of sgd, adam, adamw, or a torch.optim.Optimizer, got None"),
    ({"opt": ["sgd"]}, ValueError, "opt must be one of sgd, adam, adamw"),
    ({"momentun": 0.9}, TypeError, "unknown setting momentun: sgd takes momentum, dampening, weight_decay"),
    ({"opt": "adam", "momentum": 0.9}, TypeError, "unknown setting momentum: adam takes betas, eps, weight_decay"),
    ({"lr": 0.1}, TypeError, "step_size"),
    ({"step_size": -1.0}, ValueError, "-1.0"),
    ({"step_size": float("nan")}, ValueError, "nan"),
    ({"net": "net"}, TypeError, "net must be a torch.nn.Module, got str"),
]


@BOTH_LEARNERS
@pytest.mark.parametrize(("settings", "error", "message"), BAD_SETTINGS)
def test_bad_settings_are_refused(learner_class, settings, error, message):
    with pytest.raises(error, match=re.escape(message)):
        learner_class(**{"net": mlp(), **settings})


def test_a_misspelled_engine_setting_is_refused():
    with pytest.raises(TypeError, match=r"unknown setting maturity_treshold: .* the engine takes .*maturity_threshold"):
        ContinualBackprop(mlp(), maturity_treshold=10)


@BOTH_LEARNERS
@pytest.mark.parametrize("settings", [{"step_size": 0.1}, {"momentum": 0.9}, {"step_size": 0.1, "momentum": 0.9}])
def test_optimizer_settings_are_refused_with_an_optimizer_instance(learner_class, settings):
    net = mlp()
    message = f"{', '.join(settings)} would be ignored: the optimizer SGD has its own settings"
    with pytest.raises(TypeError, match=message):
        learner_class(net, opt=torch.optim.SGD(net.parameters()), **settings)


def raising_loss(output: Tensor, y: Tensor) -> Tensor:
    raise ZeroDivisionError("raised by the loss")


x, y = batch(3, 1, 8, 8)
REFUSED = {
    "nan in x": ("mse", x * float("nan"), y, FloatingPointError, "the loss is nan"),
    "one nan in x": ("mse", torch.cat([x[:7], x[7:] * float("nan")]), y, FloatingPointError, "the loss is nan"),
    "inf in y": ("mse", x, y * float("inf"), FloatingPointError, "the loss is inf"),
    "y has one column": ("mse", x, y[:, :1], ValueError, "output (8, 2), y (8, 1)"),
    "y has one sample": ("mse", x, y[0], ValueError, "output (8, 2), y (2,)"),
    "x has one sample": ("mse", x[:1], y, ValueError, "output (1, 2), y (8, 2)"),
    "a loss for each sample": (lambda output, y: (output - y).square().mean(1), x, y, ValueError, "got shape (8,)"),
    "the loss is a float": (lambda output, y: 1.0, x, y, ValueError, "loss must return a scalar tensor, got float"),
    "the loss raises": (raising_loss, x, y, ZeroDivisionError, "raised by the loss"),
    "the loss is detached": (lambda output, y: output.detach().mean(), x, y, (ValueError, RuntimeError), "grad"),
}


@BOTH_LEARNERS
@pytest.mark.parametrize(("loss", "x", "y", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_a_refused_batch_changes_nothing(learner_class, loss, x, y, error, message):
    """Neither the network's parameters and running statistics, nor the features that the engine has recorded."""
    settings = (
        {**FREQUENT_REPLACEMENT, "generator": torch.Generator().manual_seed(1)}
        if learner_class is ContinualBackprop
        else {}
    )
    learner, untouched = (learner_class(conv_net(), momentum=0.9, **copy.deepcopy(settings)) for _ in range(2))
    learn(learner, range(4), 1, 8, 8)
    learn(untouched, range(4), 1, 8, 8)
    good = learner.loss
    learner.loss = Backprop(learner.net, loss=loss).loss
    before = snapshot(learner)
    with pytest.raises(error, match=re.escape(message)):
        learner.learn(x, y)
    assert_same(snapshot(learner), before)
    learner.loss = good
    learn(learner, range(4, 6), 1, 8, 8)
    learn(untouched, range(4, 6), 1, 8, 8)
    assert_same(snapshot(learner), snapshot(untouched))


@BOTH_LEARNERS
def test_training_resumes_bit_for_bit_from_a_saved_state(learner_class):
    def fresh(seed: int) -> Backprop:
        return learner_class(
            mlp(seed=seed), opt="adam", **(FREQUENT_REPLACEMENT if learner_class is ContinualBackprop else {})
        )

    learner, other = fresh(0), fresh(1)
    learn(learner, range(8))
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    learn(learner, range(8, 12))
    learn(other, range(3))
    other.load_state_dict(torch.load(file, weights_only=True))
    learn(other, range(8, 12))
    assert_same(snapshot(other), snapshot(learner))


def test_a_loss_with_a_state_resumes_with_the_learner():
    class Normalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, output, target):
            return F.mse_loss(self.norm(output), target)

    def fresh(loss):
        net = mlp()
        parameters = [*net.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else ())]
        return Backprop(net, loss=loss, opt=torch.optim.SGD(parameters, lr=0.1))

    learner, other = fresh(Normalized()), fresh(Normalized())
    learn(learner, range(4))
    without = {key: value for key, value in learner.state_dict().items() if key != "loss"}
    other.load_state_dict(without)  # as older versions saved it
    assert other.loss.norm.weight.eq(1.0).all()
    other.load_state_dict(learner.state_dict())
    for each in (learner, other):
        learn(each, range(4, 8))
    assert_same(snapshot(other), snapshot(learner))
    assert_same(other.loss.state_dict(), learner.loss.state_dict())
    before = snapshot(other)
    with pytest.raises(ValueError, match="state_dict holds 'loss' that does not fit this Normalized"):
        other.load_state_dict({**learner.state_dict(), "loss": {}})
    assert_same(snapshot(other), before)
    weighted = fresh(nn.CrossEntropyLoss(weight=torch.ones(2)))
    assert "loss" not in weighted.state_dict()


UNFITTING_STATES = {
    "inputs": (lambda: ContinualBackprop(mlp(5, 8, 6, 2)), "size mismatch"),
    "units": (lambda: ContinualBackprop(mlp(4, 9, 6, 2)), "another architecture"),
    "outputs": (lambda: ContinualBackprop(mlp(4, 8, 6, 3)), "size mismatch"),
    "optimizer's groups": (
        lambda: ContinualBackprop(net := mlp(), opt=torch.optim.SGD([{"params": [p]} for p in net.parameters()])),
        "parameter group",
    ),
    "optimizer": (lambda: ContinualBackprop(mlp(), opt="adam"), "optimizer"),
    "learner": (lambda: Backprop(mlp()), "'gnt', the engine's state: was it saved by Backprop"),
}


@pytest.mark.parametrize(("build", "message"), UNFITTING_STATES.values(), ids=UNFITTING_STATES)
def test_loading_a_state_that_does_not_fit_changes_nothing(build, message):
    other = build()
    other.learn(torch.ones(3, other.net[0].in_features), torch.ones(3, other.net[-1].out_features))
    learner = ContinualBackprop(mlp(), momentum=0.9, **FREQUENT_REPLACEMENT)
    learn(learner, range(4))
    before = snapshot(learner)
    with pytest.raises((ValueError, RuntimeError), match=message):
        learner.load_state_dict(other.state_dict())
    assert_same(snapshot(learner), before)


@BOTH_LEARNERS
def test_loss_network_and_optimizer_can_be_exchanged(learner_class):
    learner = learner_class(mlp(), step_size=0.1)
    other, x, y = mlp(seed=1), *batch(0)
    learner.loss = F.l1_loss
    assert_same(learner.learn(x, y).loss, F.l1_loss(mlp()(x), y).detach())
    if learner_class is Backprop:
        learner.net, learner.opt = other, torch.optim.SGD(other.parameters(), lr=0.0)
        before = copy.deepcopy(dict(other.state_dict()))
        assert_same(learner.learn(x, y).output, other(x).detach())
        assert_same(dict(other.state_dict()), before)
    assert learner.state_dict()["kind"] == "SGD"


def test_an_optimizer_that_is_assigned_is_also_that_of_the_engine():
    learner = ContinualBackprop(mlp(), opt="sgd", replacement_rate=0.3, maturity_threshold=2)
    learner.opt = torch.optim.Adam(learner.net.parameters(), lr=0.01)
    assert learner.gnt.optimizer is learner.opt
    units = torch.empty(0)
    for t in range(20):
        units = learner.learn(*batch(t)).replaced[0]
        if len(units):
            break
    assert len(units)
    for moment in ("exp_avg", "exp_avg_sq"):
        assert not learner.opt.state[learner.net[0].weight][moment][units].any()
    before = learner.opt
    with pytest.raises(ValueError, match="CBPAdam has its own engine: pass it to Backprop"):
        learner.opt = gnt.optim.CBPAdam(learner.net)
    with pytest.raises(ValueError, match="does not hold"):
        learner.opt = torch.optim.SGD(learner.net[0].parameters(), lr=0.1)
    assert learner.opt is learner.gnt.optimizer is before


def attach_engine(net):
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    gnt.GnT(net, optimizer, **FREQUENT_REPLACEMENT).attach()
    return net, optimizer


def with_cbp_layer(net):
    net = nn.Sequential(net[0], net[1], gnt.CBPLinear(net[0], net[2], **FREQUENT_REPLACEMENT), net[2], net[3], net[4])
    return net, torch.optim.SGD(net.parameters(), 0.05)


@pytest.mark.parametrize(
    ("build", "groups"),
    [
        (lambda net: (net, CBPSGD(net, 0.05, **FREQUENT_REPLACEMENT)), 2),
        (attach_engine, 2),
        (with_cbp_layer, 1),
    ],
    ids=["CBPSGD", "attached", "CBPLinear"],
)
def test_units_replaced_by_the_optimizers_engines_are_returned(build, groups):
    net, optimizer = build(mlp())
    learner = Backprop(net, opt=optimizer)
    engine = getattr(optimizer, "gnt", None) or learner._step.other_engines()[0]
    counts = [0] * groups
    for t in range(12):
        if t == 9:  # in evaluation mode nothing is recorded, so no engine acts
            learner.net.eval()
        step = learner.learn(*batch(t))
        assert len(step.replaced) == groups
        assert t < 9 or not any(map(len, step.replaced))
        counts = [count + len(units) for count, units in zip(counts, step.replaced, strict=True)]
    assert counts == [group.state.replaced for group in engine.groups]
    assert min(counts) > 0
    assert [len(units) for units in learner.learn(*batch(0, n=0)).replaced] == [0] * groups


@BOTH_LEARNERS
def test_an_optimizer_that_needs_a_closure_is_refused(learner_class):
    net = mlp()
    with pytest.raises(TypeError, match="step of LBFGS needs a closure"):
        learner_class(net, opt=torch.optim.LBFGS(net.parameters()))
    learner = learner_class(net)
    before = learner.opt
    with pytest.raises(TypeError, match="step of LBFGS needs a closure"):
        learner.opt = torch.optim.LBFGS(net.parameters())
    assert learner.opt is before


@pytest.mark.parametrize("opt", ["sgd", "adam"])
@pytest.mark.parametrize("utility", ["contribution", "adaptable_contribution"])
def test_the_engine_takes_the_means_of_weights_that_the_step_of_the_optimizer_has_computed(
    opt: str, utility: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_global_hooks(monkeypatch)
    taken: list[bool] = []
    take_current = WeightMeans.take_current
    monkeypatch.setattr(WeightMeans, "take_current", lambda *of: taken.append(take_current(*of)) or taken[-1])
    learners = []
    for fused in (True, False):
        torch.manual_seed(0)
        learner = ContinualBackprop(mlp(4, 70, 65, 2), opt=opt, step_size=0.01, utility=utility, **FREQUENT_REPLACEMENT)
        if not fused:  # a hook after the step may change weights
            learner.opt.register_step_post_hook(lambda *_: None)
        taken.clear()
        learn(learner, range(12))
        assert any(taken) == fused
        assert not fused or all(taken)
        learners.append(learner)
    first, second = learners
    assert first.gnt.groups[0].state.replaced > 3
    for group, other in zip(first.gnt.groups, second.gnt.groups, strict=True):
        assert torch.equal(group.state.age, other.state.age)
        torch.testing.assert_close(group.state.utility, other.state.utility)
    torch.testing.assert_close(list(first.net.parameters()), list(second.net.parameters()))


def test_of_a_step_that_is_replaced_the_learner_calls_the_replacement() -> None:
    learner = ContinualBackprop(mlp(), opt="sgd", step_size=0.01)
    learn(learner, range(2))
    calls: list[int] = []
    learner.opt.step = lambda: calls.append(1)  # as a scheduler replaces it
    learn(learner, range(2))
    assert calls == [1, 1]
