"""Arguments, defaults and return values of the loss-of-plasticity repository."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gnt
from gnt.integrations import loss_of_plasticity as lop
from gnt.integrations.lightning import ContinualBackprop as Callback


class Net(nn.Module):
    def __init__(self, activation: str = "relu") -> None:
        super().__init__()
        self.act_type = activation
        hidden = {"relu": nn.ReLU, "selu": nn.SELU}[activation]
        self.layers = nn.ModuleList([nn.Linear(4, 8), hidden(), nn.Linear(8, 8), hidden(), nn.Linear(8, 3)])

    def predict(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        first = self.layers[1](self.layers[0](x))
        second = self.layers[3](self.layers[2](first))
        return self.layers[4](second), [first, second]


X, Y, CLASSES = torch.randn(6, 4), torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])


def train(learner: lop.Backprop, loss: str, steps: int = 30) -> list[Tensor]:
    return [learner.learn(x=X, target=CLASSES if loss == "nll" else Y) for _ in range(steps)]


@pytest.mark.parametrize("loss", ["mse", "nll"])
@pytest.mark.parametrize("opt", ["sgd", "adam"])
def test_continual_backprop_is_that_of_gnt_with_the_published_settings(loss: str, opt: str) -> None:
    torch.manual_seed(0)
    learner = lop.ContinualBackprop(
        Net(), 0.01, loss, opt, replacement_rate=0.1, maturity_threshold=3, util_type="adaptable_contribution",
        accumulate=True, weight_decay=0.01, momentum=0.9, beta=0.8,
    )  # fmt: skip
    results = train(learner, loss)
    torch.manual_seed(0)
    options = {"momentum": 0.9} if opt == "sgd" else {"betas": (0.8, 0.999)}
    expected = gnt.ContinualBackprop(
        Net(), loss=loss, opt=opt, step_size=0.01, replacement_rate=0.1, maturity_threshold=3, decay_rate=0.9,
        utility="adaptable_contribution", init="kaiming", accumulate=True, bias_transfer=False,
        weight_decay=0.01, **options,
    )  # fmt: skip
    steps = [expected.learn(X, CLASSES if loss == "nll" else Y) for _ in range(30)]
    for result, step in zip(results, steps, strict=True):
        got, output = result if loss == "nll" else (result, step.output)
        assert torch.equal(got, step.loss)
        assert torch.equal(output, step.output)
    assert learner.gnt.groups[0].state.replaced > 0


def test_backprop_takes_the_published_arguments() -> None:
    learner = lop.Backprop(Net(), step_size=0.01, loss="nll", opt="adamW", beta_1=0.8, weight_decay=0.1, device="cpu")
    assert isinstance(learner.opt, torch.optim.AdamW)
    assert learner.opt.param_groups[0]["betas"] == (0.8, 0.999)
    loss, output = learner.learn(X, CLASSES)
    assert (loss.shape, output.shape) == ((), (6, 3))


def test_to_perturb_adds_noise_to_every_parameter() -> None:
    net = Net()
    before = [p.detach().clone() for p in net.parameters()]
    lop.Backprop(net, step_size=0.0, to_perturb=True, perturb_scale=0.1).learn(X, Y)
    noise = torch.cat([(p - b).detach().flatten() for p, b in zip(net.parameters(), before, strict=True)])
    assert 0.07 < noise.std() < 0.13


def test_conv_cbp_returns_loss_and_output_for_every_loss() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    learner = lop.ConvCBP(net, replacement_rate=0.5, maturity_threshold=1)
    x = torch.randn(6, 1, 8, 8)
    results = [learner.learn(x, Y) for _ in range(5)]
    assert [tuple(output.shape) for _, output in results] == [(6, 3)] * 5
    assert learner.gnt.groups[0].state.replaced > 0


def test_selu_networks_are_initialized_as_lecun() -> None:
    assert lop.ContinualBackprop(Net("selu")).gnt.init == "lecun"
    assert lop.ContinualBackprop(Net()).gnt.init == "kaiming"


def test_layers_take_the_published_arguments() -> None:
    fc1, norm, fc2 = nn.Linear(4, 16), nn.LayerNorm(16), nn.Linear(16, 3)
    linear = lop.CBPLinear(in_layer=fc1, out_layer=fc2, ln_layer=norm, act_type="tanh", util_type="weight")
    assert (linear.engine.maturity_threshold, linear.engine.decay_rate, linear.engine.utility) == (100, 0.0, "weight")
    conv, head = nn.Conv2d(1, 6, 3), nn.Linear(54, 2)
    layer = lop.CBPConv(conv, head, num_last_filter_outputs=9)
    assert (layer.engine.replacement_rate, layer.engine.maturity_threshold) == (1e-5, 1000)
    with pytest.raises(ValueError, match=r"must be 9 .* got 4"):
        lop.CBPConv(conv, head, num_last_filter_outputs=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "l1"}, "loss must be one of nll, mse, got 'l1'"),
        ({"opt": "adamW"}, "opt must be one of sgd, adam, got 'adamW'"),
        ({"device": "meta"}, "device is 'meta', but the network's parameters are on cpu"),
        ({"outgoing_random": True}, "outgoing_random must be False"),
        ({"util_type": "best"}, "utility must be one of"),
    ],
)
def test_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lop.ContinualBackprop(Net(), **arguments)  # type: ignore[arg-type]


NET = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gnt.GnT(NET, util_type="contribution"), "unknown setting util_type: GnT takes .*here: utility="),
        (lambda: gnt.GnT(NET, hidden_activation="relu"), "activation="),
        (lambda: gnt.ContinualBackprop(NET, device="cpu"), "device of other implementations is here: not needed"),
        (lambda: gnt.ContinualBackprop(NET, opt="adam", beta=0.9), "betas="),
        (lambda: gnt.Backprop(NET, to_perturb=True), "ShrinkAndPerturb"),
        (lambda: gnt.CBPLinear(NET[0], NET[2], bn_layer=None), "norms="),
        (lambda: gnt.CBPLinear(NET[0], NET[2], act_type="relu"), "activation="),
        (lambda: gnt.CBPConv(NET[0], NET[2], num_last_filter_outputs=4), "shapes of the layers"),
        (lambda: gnt.optim.CBPAdam(NET, utility_ema_decay=0.9), "decay_rate="),
        (lambda: gnt.optim.CBPAdam(NET, reset_interval=100), "SoftReplacement.*see docs/from_ccbp_pytorch.md"),
        (
            lambda: gnt.GnT(NET, "relu", None),
            r"GnT takes 2 arguments without a name, got 3: it is GnT\(layers, optimizer",
        ),
        (lambda: gnt.ConvGnT, "ConvGnT of other implementations is here: gnt.GnT"),
        (lambda: lop.ResGnT, "gnt.trace"),
        (lambda: gnt.GnT(NET).gen_and_test, r"step\(\), after"),
        (
            lambda: gnt.ReDo(NET, threshold=0.1),
            "unknown setting threshold: ReDo takes tau, .* is here: tau= of gnt.ReDo",
        ),
        (lambda: gnt.ReDo(NET, reset_period=5), "reset_period of other implementations is here: period= of gnt.ReDo"),
        (lambda: Callback(backbone=NET), "backbone .* here: not needed in Lightning, where include= and exclude="),
        (lambda: Callback(heads=[]), "heads of other implementations is here: not needed, output units are never"),
        (
            lambda: gnt.ContinualBackprop(NET).learn(X, Y).item(),
            "Step has no attribute item: learn returns loss, output",
        ),
    ],
)
def test_names_of_other_implementations_are_refused_with_those_of_gnt(make: object, words: str) -> None:
    with pytest.raises((TypeError, AttributeError), match=words):
        make()  # type: ignore[operator]


def test_classes_of_other_implementations_are_not_imported_but_explained() -> None:
    with pytest.raises(ImportError, match=r"cannot import name 'ConvGnT' from 'gnt'; .*gnt.GnT, which handles"):
        from gnt import ConvGnT  # noqa: F401
    with pytest.raises(ImportError, match=r"cannot import name 'GnT' .*gnt\.GnT\(net\.layers, optimizer\)"):
        from gnt.integrations.loss_of_plasticity import GnT  # noqa: F401
    with pytest.raises(ImportError, match=r"cannot import name 'Nothing' from 'gnt' \("):
        from gnt import Nothing  # noqa: F401
    assert not hasattr(gnt, "ConvGnT")


def test_two_names_for_the_result_of_a_step_get_advice() -> None:
    step = gnt.Backprop(NET).learn(X, Y)
    with pytest.raises(ValueError, match="learn returns three values, loss, output, replaced = learn"):
        _loss, _output = step
    loss, *rest = step
    assert [loss, *rest] == list(step) == [step.loss, step.output, step.replaced]
    with pytest.raises(ValueError, match="not enough values to unpack"):
        _1, _2, _3, _4 = step
    assert not hasattr(step, "item")
    assert step._replace(loss=None).output is step.output


def test_pages_that_errors_name_exist() -> None:
    from gnt._utils import other_names as names

    tables = (names.ARGUMENTS, names.CLASSES, names.PUBLISHED_ENGINE, names.ENGINE_ATTRIBUTES)
    pages = {page for table in tables for _, page in table.values()}
    checkout = Path(os.environ.get("GNT_CHECKOUT") or Path(__file__).parents[2])
    assert [page for page in sorted(pages) if not (checkout / page).exists()] == []


def test_other_unknown_names_get_no_advice() -> None:
    with pytest.raises(TypeError, match="unknown setting rate: GnT takes replacement_rate"):
        gnt.GnT(NET, rate=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match=r"module 'gnt' has no attribute 'Nothing'$"):
        _ = gnt.Nothing
    with pytest.raises(AttributeError, match="'GnT' object has no attribute 'nothing'"):
        _ = gnt.GnT(NET).nothing
    assert "replacement_rate" in inspect.signature(gnt.GnT).parameters


def test_errors_name_the_published_arguments() -> None:
    with pytest.raises(TypeError, match=r"net must be a torch\.nn\.Module, got int"):
        lop.Backprop(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="perturb_scale must be a finite number >= 0, got -1"):
        lop.Backprop(Net(), to_perturb=True, perturb_scale=-1)
