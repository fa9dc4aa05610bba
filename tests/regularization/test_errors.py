"""Errors of `L2`, `L2Init` and `ShrinkAndPerturb`."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gnt
from tests.regularization.networks import net, partly_frozen


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))


def tied_list() -> list[nn.Parameter]:
    layer = nn.Linear(2, 2)
    return [layer.weight, layer.weight]


def exhausted_generator() -> Any:
    parameters = net().parameters()
    list(parameters)
    return parameters


INVALID_PARAMETERS = [
    (TypeError, "takes a module or a list of parameters, got str", lambda: "net"),
    (TypeError, "takes a module or a list of parameters, got Parameter", lambda: net()[0].weight),
    (TypeError, "takes parameters; item 0 is of type dict", lambda: [{"params": []}]),
    (ValueError, "was given an empty list of parameters (or a generator that is exhausted)", exhausted_generator),
    (ValueError, "found no parameter that requires a gradient in this ReLU", nn.ReLU),
    (ValueError, "parameter 0.weight is lazy and has no values yet: run one forward", lazy),
    (ValueError, "parameter 0 is frozen (requires_grad=False)", lambda: [partly_frozen()[0].weight]),
    (ValueError, "was given a parameter twice", tied_list),
    (ValueError, "parameter 0 is of torch.complex64", lambda: [nn.Parameter(torch.ones(1, dtype=torch.complex64))]),
]
METHODS = {
    "L2": lambda params: gnt.L2(params, 0.1),
    "L2Init": lambda params: gnt.L2Init(params, 0.1),
    "ShrinkAndPerturb": lambda params: gnt.ShrinkAndPerturb(params, shrink=0.5, noise=0.1, distribution="normal"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("error", "message", "params"), INVALID_PARAMETERS)
def test_invalid_parameters_raise(method: str, error: type[Exception], message: str, params: Callable[[], Any]) -> None:
    if isinstance(given := params(), str):
        given = 7 if method == "L2" else object()
        message = message.replace("str", type(given).__name__)
    with pytest.raises(error, match=re.escape(message)) as caught:
        METHODS[method](given)
    assert method in str(caught.value) or "parameter" in str(caught.value)


def perturbed(**settings: Any) -> Callable[[], Any]:
    return lambda: gnt.ShrinkAndPerturb(net(), **{"shrink": 0.5, "noise": 0.1, **settings})


GENERATOR = torch.Generator()
MULTIHEAD = nn.Sequential(nn.Linear(2, 2), nn.MultiheadAttention(2, 1))
INVALID_SETTINGS = [
    (ValueError, "strength must be a finite number >= 0, got -1.0", lambda: gnt.L2(net(), -1.0)),
    (ValueError, "strength must be a finite number >= 0, got nan", lambda: gnt.L2Init(net(), float("nan"))),
    (ValueError, "strength must be a finite number >= 0, got '1'", lambda: gnt.L2Init(net(), "1")),  # type: ignore[arg-type]
    (
        ValueError,
        "strength must be a finite number >= 0, got True",
        lambda: setattr(gnt.L2(net(), 1), "strength", True),
    ),
    (ValueError, "shrink must be in [0, 1], got 1.5", perturbed(shrink=1.5)),
    (ValueError, "shrink must be a finite number >= 0, got -0.5", perturbed(shrink=-0.5)),
    (ValueError, "noise must be a finite number >= 0, got inf", perturbed(noise=float("inf"))),
    (ValueError, "every must be an integer >= 0, got -1", perturbed(every=-1)),
    (ValueError, "every must be an integer >= 0, got False", perturbed(every=False)),
    (ValueError, "distribution must be 'init' or 'normal', got 'gaussian'", perturbed(distribution="gaussian")),
    (TypeError, "kernels must be True, False or None, got 'yes'", perturbed(kernels="yes")),
    (TypeError, "generator must be a torch.Generator, a list of them", perturbed(generator=3)),
    (TypeError, "generator must be a torch.Generator, a list of them", perturbed(generator=[])),
    (ValueError, "generator holds a generator twice", perturbed(generator=[GENERATOR, GENERATOR])),
    (
        ValueError,
        "parameter 0.weight of shape (6, 4) does not hold the parameters of 4 members",
        perturbed(generator=[torch.Generator() for _ in range(4)]),
    ),
    (
        TypeError,
        "distribution 'init' needs the module",
        lambda: gnt.ShrinkAndPerturb(list(net().parameters()), shrink=0.5, noise=0.1),
    ),
    (
        ValueError,
        "the initial distribution of 1.in_proj_weight (MultiheadAttention), 1.in_proj_bias (MultiheadAttention) is not "
        "known; known are those of Linear",
        lambda: gnt.ShrinkAndPerturb(MULTIHEAD, shrink=0.5, noise=0.1),
    ),
]


@pytest.mark.parametrize(("error", "message", "build"), INVALID_SETTINGS)
def test_invalid_settings_raise(error: type[Exception], message: str, build: Callable[[], Any]) -> None:
    with pytest.raises(error, match=re.escape(message)):
        build()


def state_of(method: Any, **changes: Any) -> Any:
    return {**method.state_dict(), **changes}


START = gnt.L2Init(net(), 0.1)
PERTURB = gnt.ShrinkAndPerturb(net(), shrink=0.5, noise=0.1)
INVALID_STATES = [
    (START, None, "state_dict is not one of L2Init.state_dict(): it must hold start, version, got NoneType"),
    (START, PERTURB.state_dict(), "it must hold start, version, got generators, steps, version"),
    (START, state_of(START, version=9), "state_dict has version 9; this gnt reads version 1"),
    (START, state_of(START, start=START.start[:1]), "must hold 4 tensors, one for each parameter, got 1 tensors"),
    (START, state_of(START, start=START.start[::-1]), "parameter 0.weight has shape (6, 4), got (2,)"),
    (PERTURB, {}, "state_dict is not one of ShrinkAndPerturb.state_dict()"),
    (PERTURB, state_of(PERTURB, steps=-1), "state_dict holds steps -1"),
    (PERTURB, state_of(PERTURB, generators=[]), "state_dict must hold 1 states of generators"),
    (PERTURB, state_of(PERTURB, generators=[torch.zeros(3)]), "a saved generator does not fit this one, on cpu"),
]


@pytest.mark.parametrize(("method", "state", "message"), INVALID_STATES)
def test_invalid_saved_states_raise_and_change_nothing(method: Any, state: Any, message: str) -> None:
    before = copy.deepcopy(method.state_dict())
    with pytest.raises(ValueError, match=re.escape(message)):
        method.load_state_dict(state)
    torch.testing.assert_close(method.state_dict(), before, rtol=0, atol=0)


def test_si_says_that_it_has_recorded_no_step():
    model = net()
    si, optimizer = gnt.SI(model, 1.0), torch.optim.SGD(model.parameters(), lr=0.1)
    width = model[0].in_features

    def train() -> None:
        (model(torch.randn(4, width)).square().mean() + si()).backward()
        optimizer.step()
        optimizer.zero_grad()

    train()
    with pytest.warns(UserWarning, match=r"SI has recorded no step of this task.*call attach\(optimizer\) once"):
        si.consolidate()
    si.attach(optimizer)
    (model(torch.randn(4, width)).square().mean()).backward()
    optimizer.step()
    si.consolidate()
    assert si.tasks == 2


def test_data_that_are_no_batches_are_refused_with_the_remedy():
    model = nn.Linear(4, 3)
    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    ewc = gnt.EWC(model, 1.0)
    with pytest.raises(TypeError, match=r"data \[x, y\] would be two batches of inputs: give the tuple \(x, y\)"):
        ewc.consolidate(model, [x, y])
    with pytest.raises(TypeError, match=r"got a TensorDataset: give DataLoader\(data, batch_size="):
        ewc.consolidate(model, torch.utils.data.TensorDataset(x, y))
    ewc.consolidate(model, [x, x])
    assert ewc.tasks == 1
