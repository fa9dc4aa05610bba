"""L2, L2 Init, shrink and perturb, CReLU: what they leave alone, going on from a saved state, what they refuse."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gnt


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def numbers(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def frozen() -> nn.Sequential:
    some = net()
    some[0].weight.requires_grad = False
    return some


def test_l2_init_is_0_at_its_start_and_remembers_it() -> None:
    some = net()
    reg = gnt.L2Init(some, 0.5)
    assert reg().item() == 0.0
    reg().backward()
    assert all(p.grad is not None and not p.grad.any() for p in some.parameters())
    with torch.no_grad():
        some[2].bias.add_(2.0)
    assert reg().item() == pytest.approx(0.5 * 2 * 4.0)
    reg.strength = 0.25
    assert reg.penalty().item() == pytest.approx(0.25 * 2 * 4.0)


def test_gradients_are_left_alone_until_the_backward_and_added_to() -> None:
    some = net()
    reg = gnt.L2(some, 0.5)
    for p in some.parameters():
        p.grad = torch.ones_like(p)
    value = reg()
    assert all(p.grad is not None and torch.equal(p.grad, torch.ones_like(p)) for p in some.parameters())
    value.backward()
    assert all(torch.equal(p.grad, 1.0 + p.detach()) for p in some.parameters() if p.grad is not None)


def test_frozen_parameters_of_a_module_are_left_out() -> None:
    some = frozen()
    reg = gnt.L2(some, 1.0)
    assert reg.names == ["0.bias", "2.weight", "2.bias"]
    before = some[0].weight.detach().clone()
    gnt.ShrinkAndPerturb(some, shrink=0.5, noise=0.1).step()
    assert torch.equal(some[0].weight, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_parameters_are_summed_in_float32(dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.full((1000, 100), 2.0, dtype=dtype))
    value = gnt.L2([p], 1.0)()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(400_000.0, rel=1e-5)
    value.backward()
    assert p.grad is not None
    assert p.grad.dtype == dtype
    assert torch.equal(p.grad, torch.full_like(p, 4.0))


def test_the_penalty_follows_a_network_that_moves_to_another_dtype() -> None:
    some = net()
    reg = gnt.L2Init(some, 1.0)
    some.double()
    assert reg().dtype == torch.float64
    assert reg().item() == 0.0


def test_the_penalty_compiles() -> None:
    some = net()
    reg = gnt.L2Init(some, 0.3)
    x = torch.ones(3, 4)
    with torch.no_grad():
        some[0].weight.mul_(2.0)

    def loss() -> torch.Tensor:
        return some(x).square().mean() + reg()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(), loss())
    wanted = torch.autograd.grad(loss(), list(some.parameters()))
    for mine, theirs in zip(torch.autograd.grad(compiled(), list(some.parameters())), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_l2_init_goes_on_from_a_saved_start(tmp_path: Any) -> None:
    some = net()
    reg = gnt.L2Init(some, 0.5)
    gnt.ShrinkAndPerturb(some, shrink=0.3, noise=0.1).step()
    torch.save([some.state_dict(), reg.state_dict()], tmp_path / "state")
    weights, start = torch.load(tmp_path / "state", weights_only=True)
    other = net(1)
    other.load_state_dict(weights)
    resumed = gnt.L2Init(other, 0.5)
    assert resumed().item() == 0.0
    resumed.load_state_dict(start)
    assert torch.equal(resumed(), reg())
    start["start"][0].zero_()  # a copy was taken
    assert torch.equal(resumed(), reg())


@pytest.mark.parametrize("every", [1, 3])
def test_shrink_and_perturb_goes_on_bit_by_bit(every: int, tmp_path: Any) -> None:
    def built(seed: int) -> tuple[nn.Sequential, gnt.ShrinkAndPerturb]:
        some = net(seed)
        return some, gnt.ShrinkAndPerturb(some, shrink=0.99, noise=0.1, every=every)

    some, perturb = built(0)
    acted = [perturb.step() for _ in range(4)]
    torch.save([some.state_dict(), perturb.state_dict()], tmp_path / "state")
    acted += [perturb.step() for _ in range(4)]
    assert acted == [(i + 1) % every == 0 for i in range(8)]
    other, resumed = built(1)
    weights, state = torch.load(tmp_path / "state", weights_only=True)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert [resumed.step() for _ in range(4)] == acted[4:]
    assert all(torch.equal(p, q) for p, q in zip(some.parameters(), other.parameters(), strict=True))


def test_every_0_waits_for_apply() -> None:
    some = net()
    perturb = gnt.ShrinkAndPerturb(some, shrink=0.5, noise=0.0, every=0)
    before = numbers(some)
    assert not any(perturb.step() for _ in range(5))
    assert all(torch.equal(p, q) for p, q in zip(some.parameters(), before, strict=True))
    perturb.apply()
    assert all(torch.equal(p, 0.5 * q) for p, q in zip(some.parameters(), before, strict=True))
    assert perturb.steps == 5


def test_draws_are_governed_by_torchs_seed_and_leave_it_alone() -> None:
    runs = []
    for _ in range(2):
        some = net()
        perturb = gnt.ShrinkAndPerturb(some, shrink=1.0, noise=1.0)
        state = torch.get_rng_state()
        perturb.step()
        assert torch.equal(torch.get_rng_state(), state)
        runs.append(numbers(some))
    assert all(torch.equal(p, q) for p, q in zip(*runs, strict=True))


def test_memory_format_and_dtype_are_kept() -> None:
    conv = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(conv).to(memory_format=torch.contiguous_format)
    for each in (conv, plain):
        gnt.ShrinkAndPerturb(each, shrink=0.5, noise=0.5, generator=torch.Generator().manual_seed(0)).step()
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(conv.weight, plain.weight)
    half = nn.Linear(3, 3).half()
    gnt.ShrinkAndPerturb(half, shrink=0.5, noise=0.5).step()
    assert half.weight.dtype == torch.float16


def test_crelu_says_what_it_is_and_has_gradients_everywhere() -> None:
    crelu = gnt.CReLU(dim=-1)
    assert repr(crelu) == "CReLU(dim=-1)"
    x = torch.tensor([[-2.0, 3.0]], requires_grad=True)
    crelu(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[-1.0, 1.0]]


def test_a_list_with_crelu_is_refused_and_trace_knows_both_columns() -> None:
    some = nn.Sequential(nn.Linear(4, 6), gnt.CReLU(), nn.Linear(12, 2)).double()
    with pytest.raises(ValueError, match=r"CReLU \('1'\) after '0' cannot be walked: .*; gnt.trace\(model, inputs\)"):
        gnt.walk(some)
    x = torch.randn(1, 4, dtype=torch.float64)
    engine = gnt.GnT(gnt.trace(some, x))
    before = some(x)
    engine.update()
    engine.replace([torch.tensor([1, 4])])
    assert not some[2].weight[:, [1, 4, 7, 10]].any()  # both columns of each
    assert some[2].weight[:, [0, 2, 3, 5, 6, 8, 9, 11]].all()
    torch.testing.assert_close(some(x), before)  # the mean of this one input has moved into the bias


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))


def tied_list() -> list[nn.Parameter]:
    layer = nn.Linear(2, 2)
    return [layer.weight, layer.weight]


def used_up() -> Any:
    parameters = net().parameters()
    list(parameters)
    return parameters


WHICH = [
    (TypeError, "takes a module or a list of parameters, got str", lambda: "net"),
    (TypeError, "takes a module or a list of parameters, got Parameter", lambda: net()[0].weight),
    (TypeError, "takes parameters; number 0 is a dict", lambda: [{"params": []}]),
    (ValueError, "was given an empty list of parameters (a generator that was used up?)", used_up),
    (ValueError, "found no parameter that requires a gradient in this ReLU", nn.ReLU),
    (ValueError, "parameter 0.weight is lazy and has no values yet: run one forward", lazy),
    (ValueError, "parameter 0 is frozen (requires_grad=False)", lambda: [frozen()[0].weight]),
    (ValueError, "was given a parameter twice", tied_list),
    (ValueError, "parameter 0 is of torch.complex64", lambda: [nn.Parameter(torch.ones(1, dtype=torch.complex64))]),
]
REMEDIES = {
    "L2": lambda params: gnt.L2(params, 0.1),
    "L2Init": lambda params: gnt.L2Init(params, 0.1),
    "ShrinkAndPerturb": lambda params: gnt.ShrinkAndPerturb(params, shrink=0.5, noise=0.1, distribution="normal"),
}


@pytest.mark.parametrize("remedy", REMEDIES)
@pytest.mark.parametrize(("error", "message", "params"), WHICH)
def test_parameters_that_are_refused(
    remedy: str, error: type[Exception], message: str, params: Callable[[], Any]
) -> None:
    if isinstance(given := params(), str):
        given = 7 if remedy == "L2" else object()
        message = message.replace("str", type(given).__name__)
    with pytest.raises(error, match=re.escape(message)) as caught:
        REMEDIES[remedy](given)
    assert remedy in str(caught.value) or "parameter" in str(caught.value)


def perturbed(**settings: Any) -> Callable[[], Any]:
    return lambda: gnt.ShrinkAndPerturb(net(), **{"shrink": 0.5, "noise": 0.1, **settings})


one = torch.Generator()
MULTIHEAD = nn.Sequential(nn.Linear(2, 2), nn.MultiheadAttention(2, 1))
SETTINGS = [
    (ValueError, "strength must be a finite number >= 0, got -1.0", lambda: gnt.L2(net(), -1.0)),
    (ValueError, "strength must be a finite number >= 0, got nan", lambda: gnt.L2Init(net(), float("nan"))),
    (ValueError, "strength must be a finite number >= 0, got '1'", lambda: gnt.L2Init(net(), "1")),  # type: ignore[arg-type]
    (
        ValueError,
        "strength must be a finite number >= 0, got True",
        lambda: setattr(gnt.L2(net(), 1), "strength", True),
    ),
    (ValueError, "shrink must lie in [0, 1], got 1.5", perturbed(shrink=1.5)),
    (ValueError, "shrink must be a finite number >= 0, got -0.5", perturbed(shrink=-0.5)),
    (ValueError, "noise must be a finite number >= 0, got inf", perturbed(noise=float("inf"))),
    (ValueError, "every must be an integer >= 1, got -1", perturbed(every=-1)),
    (ValueError, "every must be an integer >= 1, got False", perturbed(every=False)),
    (ValueError, "distribution must be 'init' or 'normal', got 'gaussian'", perturbed(distribution="gaussian")),
    (TypeError, "generator must be a torch.Generator, a list of them", perturbed(generator=3)),
    (TypeError, "generator must be a torch.Generator, a list of them", perturbed(generator=[])),
    (ValueError, "generator holds a generator twice", perturbed(generator=[one, one])),
    (
        ValueError,
        "parameter 0.weight of shape (6, 4) does not hold 4 members' one after the other",
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
    (TypeError, "dim must be an integer, got 1.0", lambda: gnt.CReLU(1.0)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("error", "message", "build"), SETTINGS)
def test_settings_that_are_refused(error: type[Exception], message: str, build: Callable[[], Any]) -> None:
    with pytest.raises(error, match=re.escape(message)):
        build()


def state_of(remedy: Any, **changes: Any) -> Any:
    return {**remedy.state_dict(), **changes}


START = gnt.L2Init(net(), 0.1)
PERTURB = gnt.ShrinkAndPerturb(net(), shrink=0.5, noise=0.1)
STATES = [
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


@pytest.mark.parametrize(("remedy", "state", "message"), STATES)
def test_states_that_are_refused_change_nothing(remedy: Any, state: Any, message: str) -> None:
    before = copy.deepcopy(remedy.state_dict())
    with pytest.raises(ValueError, match=re.escape(message)):
        remedy.load_state_dict(state)
    torch.testing.assert_close(remedy.state_dict(), before, rtol=0, atol=0)
