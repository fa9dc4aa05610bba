"""Errors of an ensemble name the argument, the value passed, and what is allowed."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gnt
from tests.helpers.ensembles import mlp
from tests.helpers.small_runs import conv_net

NET = mlp(4, 6, 2)


def widening() -> Callable[[], nn.Module]:
    """A function whose networks get one unit wider from call to call."""
    widths = iter(range(5, 100))
    return lambda: mlp(4, next(widths), 2)()


class ComputesMore(nn.Module):
    """A network that computes more than its listed layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out + 1.0


class UnlistedParameter(nn.Module):
    """A network with a parameter outside its list of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)])
        self.scale = nn.Parameter(torch.ones(()))


def with_layer(layer: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 2))


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    return net


def hooked() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    net[1].register_forward_hook(lambda module, args, output: 2 * output)
    return net


def parametrized() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 2))


ONE_NET = NET()


def sharing() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), ONE_NET[2])


REFUSED: list[tuple[type[Exception], str, Callable[[], nn.Module] | Any, Any, dict[str, Any]]] = [
    (TypeError, "make_net must be a function that makes a network, got Sequential", NET(), [1], {}),
    (TypeError, "make_net must return a torch.nn.Module, got int", lambda: 3, [1], {}),
    (TypeError, "seeds must be a list of integers, one for each member, got 3", NET, 3, {}),
    (TypeError, "one for each member, got '7'", NET, [1, "7"], {}),
    (TypeError, "one for each member, got True", NET, [True], {}),
    (ValueError, "seeds must hold an integer for at least one member, got none", NET, [], {}),
    (ValueError, "the network of seed 9 has another shape: layer '0' is Linear(in_features=4", widening(), [8, 9], {}),
    (ValueError, "got the same network for seeds 8 and 9", lambda: ONE_NET, [8, 9], {}),
    (ValueError, "got networks that share a parameter or buffer for seeds 8 and 9", sharing, [8, 9], {}),
    (ValueError, "the list of layers of make_net's UnlistedParameter leaves out scale", UnlistedParameter, [1], {}),
    (ValueError, "'1' (PReLU) cannot be stacked for an ensemble; allowed are Linear", with_layer(nn.PReLU()), [1], {}),
    (ValueError, "'1' (Softmax) cannot be stacked", with_layer(nn.Softmax(1)), [1], {}),
    (ValueError, "'2' (Linear) cannot be stacked: its parameters are", tied, [1], {"replacement_rate": 0.0}),
    (ValueError, "'1' (ReLU) cannot be stacked: it has hooks", hooked, [1], {}),
    (ValueError, "'0' (ParametrizedLinear) cannot be stacked: it has layers inside", parametrized, [1], {}),
    (ValueError, "has no .layers", lambda: nn.LSTM(4, 2), [1], {}),
    (ValueError, "accumulate must be True or 'one' for an ensemble, got False", NET, [1], {"accumulate": False}),
    (ValueError, "replacement_rate must be a number in [0, 1], got 2", NET, [1], {"replacement_rate": 2}),
    (ValueError, "utility must be one of", NET, [1], {"utility": "contributions"}),
    (ValueError, "utility must be one of", NET, [1], {"utility": "contributions", "replacement_rate": 0.0}),
    (ValueError, "init must be one of auto, default", NET, [1], {"init": "he", "replacement_rate": 0.0}),
    (TypeError, "init must be a name for an ensemble", NET, [1], {"init": lambda tensor, slot, generator: None}),
    (TypeError, "bias_transfer must be True or False, got 1", NET, [1], {"bias_transfer": 1}),
    (ValueError, "loss must be one of mse", NET, [1], {"loss": "mae"}),
    (ValueError, "opt must be one of sgd, adam, adamw", NET, [1], {"opt": "lbfgs"}),
    (TypeError, "unknown setting beta: sgd takes", NET, [1], {"beta": 1}),
    (TypeError, "unknown setting generator: sgd takes", NET, [1], {"generator": torch.Generator()}),
    (TypeError, "unknown setting process_group: sgd takes", NET, [1], {"process_group": None}),
    (TypeError, "unknown setting kernels: adam takes", NET, [1], {"opt": "adam", "kernels": True}),
    (TypeError, "unknown setting momentum: adam takes", NET, [1], {"opt": "adam", "momentum": 0.9}),
    (TypeError, "the ensemble has its own parameters; got SGD", NET, [1], {"opt": torch.optim.SGD(NET().parameters())}),
    (TypeError, "LBFGS cannot train an ensemble, whose members share", NET, [1], {"opt": torch.optim.LBFGS}),
    (TypeError, "Adafactor cannot train", NET, [1], {"opt": torch.optim.Adafactor, "replacement_rate": 0.0}),
    (TypeError, "opt must return a torch.optim.Optimizer, got list", NET, [1], {"opt": list}),
    (TypeError, "step_size would be ignored", NET, [1], {"opt": torch.optim.RMSprop, "step_size": 0.1}),
    (TypeError, "generators must be a list of 2 torch.Generators", NET, [1, 2], {"generators": [torch.Generator()]}),
    (ValueError, "generators must be distinct", NET, [1, 2], {"generators": [torch.default_generator] * 2}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "make_net", "seeds", "settings"), REFUSED, ids=range(len(REFUSED)))
def test_bad_arguments_are_refused_at_construction(
    error: type[Exception], message: str, make_net: Any, seeds: Any, settings: dict[str, Any]
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        gnt.Ensemble(make_net, seeds, **settings)


def x(*shape: int) -> torch.Tensor:
    return torch.ones(*shape, dtype=torch.float64)


BATCHES: list[tuple[str, torch.Tensor, torch.Tensor]] = [
    ("x must be (members, batch, ...) with 2 members, got (3, 5, 4)", x(3, 5, 4), x(2, 5, 2)),
    ("x must be (members, batch, ...) with 2 members, got (4,)", x(4), x(2, 5, 2)),
    ("y must be (members, batch, ...) with 2 members, got (5, 2)", x(2, 5, 4), x(5, 2)),
    ("at least one sample for each member, got (2, 0, 4)", x(2, 0, 4), x(2, 0, 2)),
    ("output (2, 5, 2), y (2, 5, 1)", x(2, 5, 4), x(2, 5, 1)),
    ("the member of seed 1 cannot take x of shape (5, 3)", x(2, 5, 3), x(2, 5, 2)),
]


@pytest.mark.parametrize(("message", "x", "y"), BATCHES, ids=range(len(BATCHES)))
def test_batches_that_do_not_fit_are_refused_and_nothing_changes(
    message: str, x: torch.Tensor, y: torch.Tensor
) -> None:
    ensemble = gnt.Ensemble(NET, [1, 2])
    before = {key: value.clone() for key, value in ensemble.net.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(message)):
        ensemble.learn(x, y)
    torch.testing.assert_close(dict(ensemble.net.state_dict()), before, rtol=0, atol=0)
    assert ensemble.gnt is not None
    assert ensemble.gnt.updates == 0


def test_a_first_batch_that_is_not_finite_is_refused() -> None:
    ensemble = gnt.Ensemble(NET, [1, 2])
    bad = x(2, 5, 4)
    bad[1] = torch.nan
    with pytest.raises(FloatingPointError, match="the loss of seed 2 is not finite"):
        ensemble.learn(bad, x(2, 5, 2))
    with pytest.raises(TypeError, match="x must be a tensor"):
        ensemble.learn(bad.tolist(), x(2, 5, 2))  # type: ignore[arg-type]


def test_a_network_that_computes_more_than_its_layers_is_refused() -> None:
    ensemble = gnt.Ensemble(ComputesMore, [1, 2])
    with pytest.raises(ValueError, match="ComputesMore computes something else than its list of layers"):
        ensemble.learn(x(2, 5, 4), x(2, 5, 2))


def test_bad_losses_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("a scalar tensor for each member, got shape (5, 2)")):
        gnt.Ensemble(NET, [1, 2], loss=lambda output, y: output - y).learn(x(2, 5, 4), x(2, 5, 2))
    with pytest.raises(ValueError, match="loss must depend on the output"):
        gnt.Ensemble(NET, [1, 2], loss=lambda output, y: y.mean()).learn(x(2, 5, 4), x(2, 5, 2))
    with pytest.raises(ValueError, match="cross_entropy needs a target for each sample of each member"):
        gnt.Ensemble(NET, [1, 2], loss="cross_entropy").learn(x(2, 5, 4), torch.zeros(2, 4, dtype=torch.int64))


def test_the_engine_replaces_only_what_it_selected() -> None:
    ensemble = gnt.Ensemble(NET, [1, 2])
    assert ensemble.gnt is not None
    with pytest.raises(ValueError, match="replaces what its select"):
        ensemble.gnt.replace([torch.tensor([0])])
    with pytest.raises(ValueError, match="there is nothing to report"):
        gnt.Ensemble(NET, [1, 2], replacement_rate=0.0).report()


@pytest.mark.parametrize("name", ["ExperienceReplay", "DER", "AGEM", "GEM", "GenerativeReplay", "LwF"])
def test_methods_that_take_the_members_for_samples_are_refused_by_name(name: str) -> None:
    ensemble, buffer, loss = gnt.Ensemble(NET, [1, 2]), gnt.ReplayBuffer(4), nn.functional.mse_loss
    build: dict[str, Callable[[], Any]] = {
        "ExperienceReplay": lambda: gnt.ExperienceReplay(buffer),
        "DER": lambda: gnt.DER(ensemble.net, buffer),
        "AGEM": lambda: gnt.AGEM(ensemble.net, buffer, loss),
        "GEM": lambda: gnt.GEM(ensemble.net, loss, per_task=4),
        "GenerativeReplay": lambda: gnt.GenerativeReplay(ensemble.net, gnt.VAE(4, [3], 2)),
        "LwF": lambda: gnt.LwF(ensemble.net),
    }
    kept = ensemble.methods = (gnt.L2Init(ensemble.net, 0.1),)
    with pytest.raises(TypeError, match=f"methods of an ensemble must not have {name}: it takes the first dimension"):
        ensemble.methods = [build[name]()]
    assert ensemble.methods == kept
    with pytest.raises(TypeError, match=f"methods of an ensemble must not have {name}"):
        gnt.Ensemble(NET, [1, 2], loss="cross_entropy", methods=[build[name]()])


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_methods_given_at_construction_act_in_each_step(rate: float) -> None:
    shapes: list[Any] = []

    class Seen:
        def before_batch(self, x: torch.Tensor, y: torch.Tensor) -> None:
            shapes.append(x.shape)

    gnt.Ensemble(NET, [1, 2], replacement_rate=rate, methods=[Seen()]).learn(x(2, 5, 4), x(2, 5, 2))
    assert shapes == [(2, 5, 4)]


def test_packnet_is_refused() -> None:
    ensemble = gnt.Ensemble(conv_net, [1, 2])
    with pytest.raises(
        TypeError, match="methods of an ensemble must not have PackNet: its owners belong to the weights of"
    ):
        ensemble.methods = [gnt.PackNet(ensemble.net)]


class OnlyInTraining(ComputesMore):
    def forward(self, given: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            given = layer(given)
        return torch.nn.functional.dropout(given, 0.5, self.training)


def test_a_network_that_computes_more_in_training_mode_is_refused() -> None:
    ensemble = gnt.Ensemble(OnlyInTraining, [1, 2])
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="the forward of OnlyInTraining computes something else in training mode"):
        ensemble.learn(x(2, 5, 4), x(2, 5, 2))
    assert torch.equal(torch.get_rng_state(), state)
