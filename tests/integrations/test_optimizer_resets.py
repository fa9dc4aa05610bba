"""The tables of the state of third-party optimizers, proved with the optimizers, and with stand-ins of their state."""

from __future__ import annotations

import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import gnt
from gnt.replacement import known_optimizers
from gnt.replacement._optimizer_reset_table import SHARED, STATE_RESETS
from tests.helpers.package_optimizers import PackageOptimizer, package_optimizers
from tests.helpers.reset_proof import prove_reset, resumes
from tests.helpers.small_runs import batch, mlp

PUBLIC = {each.name: each for each in package_optimizers("pytorch_optimizer")}
ELSEWHERE = {"DeMo", "DistributedMuon", "SpectralSphere"}  # by scripts/optimizer_resets.py: processes, long compilation
PROVED = [PUBLIC[name] for name in known_optimizers("pytorch_optimizer") if name not in ELSEWHERE]


@pytest.mark.parametrize("optimizer", PROVED, ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_replaced_units_have_the_state_of_a_new_parameter(optimizer: PackageOptimizer):
    prove_reset(optimizer.build, optimizer.way)


@pytest.mark.parametrize("name", ["ADOPT", "Lookahead", "Prodigy"])
def test_training_with_replacements_resumes_bit_for_bit(name):
    assert resumes(PUBLIC[name].build, PUBLIC[name].way)


def test_a_wrong_initial_value_is_found(monkeypatch):
    """The proof itself: it does not read the table."""
    for wrong in ({"exp_avg": 0.0, "exp_avg_sq": 1e-3}, {"exp_avg": 0.0, "exp_avg_sq": SHARED}):
        monkeypatch.setitem(STATE_RESETS, pytorch_optimizer.ADOPT, wrong)
        with pytest.raises(AssertionError, match="exp_avg_sq"):
            prove_reset(PUBLIC["ADOPT"].build)


def stand_in(module: str, name: str, make, **options) -> type[Optimizer]:
    """A class with the name of a third-party optimizer, whose state is ``make(param)``."""

    def init(self, params) -> None:
        Optimizer.__init__(self, params, {"lr": 0.1, **options})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for param in self.param_groups[0]["params"]:
            if param not in self.state:
                self.state[param] = make(param)
            param.sub_(0.1 * param.grad)

    return type(name, (Optimizer,), {"__module__": module, "__init__": init, "step": step})


def stepped(kind: type[Optimizer], net: nn.Module) -> tuple[Optimizer, gnt.GnT]:
    optimizer = kind(net.parameters())
    engine = gnt.GnT(net, optimizer, replacement_rate=0.0).attach()
    x, y = batch(0)
    (net(x) - y).square().mean().backward()
    optimizer.step()
    return optimizer, engine


UNIT = [torch.tensor([3]), torch.tensor([], dtype=torch.int64)]


def test_stacked_moments_are_reset_in_each_part():
    kind = stand_in(
        "bitsandbytes.optim.ademamix",
        "AdEMAMix",
        lambda p: {"state1": torch.ones(2, *p.shape), "state2": torch.ones_like(p), "unorm_vec": torch.ones(1)},
    )
    net = mlp()
    optimizer, engine = stepped(kind, net)
    engine.replace(UNIT)
    rows, columns = optimizer.state[net[0].weight], optimizer.state[net[2].weight]
    assert not rows["state1"][:, 3].any()
    assert not rows["state2"][3].any()
    assert not columns["state1"][:, :, 3].any()
    assert rows["state1"].sum() == 2 * (8 - 1) * 4
    assert columns["state1"].sum() == 2 * 6 * (8 - 1)
    assert rows["unorm_vec"] == 1


def flat(p: Tensor) -> dict[str, Tensor]:
    return {"s": torch.ones(p.numel()), "p0": p.detach().flatten().clone() if p.any() else torch.tensor(0.0)}


def test_flat_copies_follow_the_weights_and_biases():
    """prodigyopt keeps its copies flat, and one 0 for a parameter of zeros."""
    net = mlp()
    nn.init.zeros_(net[2].bias)
    optimizer, engine = stepped(stand_in("prodigyopt.prodigy", "Prodigy", flat), net)
    for param in net.parameters():
        optimizer.state[param]["p0"].add_(1.0)
    bias = net[2].bias.detach().clone()
    engine.replace(UNIT)
    rows, columns = optimizer.state[net[0].weight], optimizer.state[net[2].weight]
    assert torch.equal(rows["p0"].view(8, 4)[3], net[0].weight[3])
    assert not rows["s"].view(8, 4)[3].any()
    assert torch.equal(columns["p0"].view(6, 8)[:, 3], net[2].weight[:, 3])
    assert columns["s"].sum() == 6 * (8 - 1)
    moved = net[2].bias.detach() - bias
    assert moved.any()
    torch.testing.assert_close(optimizer.state[net[2].bias]["p0"], 1.0 + moved)


def test_state_of_every_eleventh_element_is_refused():
    net = mlp()
    kind = stand_in("prodigyopt.prodigy", "Prodigy", lambda p: {"s": torch.ones(p.numel()).flatten()[::11].clone()})
    with pytest.raises(TypeError, match=r"Prodigy keeps state 's' of shape \(3,\) for 0\.weight"):
        stepped(kind, net)


def zeros(p: Tensor) -> dict[str, Tensor]:
    return {"state1": torch.zeros_like(p)}


REFUSED = {
    "8 bits": (stand_in("bitsandbytes.optim.adam", "PagedAdam8bit", zeros), "quantised in blocks"),
    "8 bits, of a class that is reset": (
        type(
            "AdEMAMix8bit", (stand_in("bitsandbytes.optim", "AdEMAMix", zeros),), {"__module__": "bitsandbytes.optim"}
        ),
        "quantised in blocks",
    ),
    "base class": (type("Mine", (pytorch_optimizer.CAME,), {}), r"state of Mine cannot .*second moment is factored"),
    "same name": (
        stand_in("mine.adopt", "ADOPT", zeros),
        r"does not know its state, but that of ADOPT of pytorch_optimizer; this is mine\.adopt",
    ),
    "wrong case": (stand_in("pytorch_optimizer.optimizer.lamb", "LAMB", zeros), "does not know its state"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name):
    kind, reason = REFUSED[name]
    net = mlp()
    with pytest.raises(TypeError, match=reason):
        gnt.GnT(net, kind(net.parameters()))


def test_eps_of_zero_is_accepted_where_nothing_is_divided_by_state():
    net = mlp()
    gnt.GnT(net, stand_in("bitsandbytes.optim.lion", "Lion", zeros, eps=0)(net.parameters()))
    with pytest.raises(ValueError, match="Adam has eps=0"):
        gnt.GnT(net, stand_in("bitsandbytes.optim.adam", "Adam", zeros, eps=0)(net.parameters()))


def test_a_subclass_with_further_state_is_refused_when_the_state_appears():
    class More(pytorch_optimizer.Lamb):
        def step(self, closure=None):
            super().step(closure)
            for param in self.param_groups[0]["params"]:
                self.state[param]["extra"] = torch.ones_like(param)

    with pytest.raises(TypeError, match="More keeps state 'extra' of shape"):  # noqa: PT012
        _, engine = stepped(More, mlp())  # here, unless Lamb.step runs the hooks before the state is there
        engine.replace(UNIT)


def test_wrappers_without_hooks_are_not_attached_to():
    net = mlp()
    optimizer = pytorch_optimizer.Lookahead(torch.optim.SGD(net.parameters(), lr=0.1))
    engine = gnt.GnT(net, optimizer)
    with pytest.raises(TypeError, match=r"cannot attach to Lookahead: .*call step\(\) after each step"):
        engine.attach()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    engine.optimizer.step()
    engine.close()


def test_an_ensemble_takes_no_optimizer_that_mixes_elements():
    with pytest.raises(TypeError, match=r"Lamb cannot train an ensemble.*element by element"):
        gnt.Ensemble(mlp, [1, 2], opt=lambda parameters: pytorch_optimizer.Lamb(parameters))


def test_state_that_a_wrapper_keeps_in_that_of_its_optimizer_is_reset():
    """As timm's Lookahead does."""

    def lookahead(self, inner) -> None:
        self.inner, self.param_groups, self.defaults, self.state = inner, inner.param_groups, inner.defaults, {}

    kind = type("Lookahead", (Optimizer,), {"__module__": "timm.optim.lookahead", "__init__": lookahead})
    net = mlp()
    inner = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    engine = gnt.GnT(net, kind(inner))
    for param in net.parameters():
        inner.state[param] = {"lookahead_slow_buff": param.detach() + 1, "momentum_buffer": torch.ones_like(param)}
    engine.replace(UNIT)
    state = inner.state[net[0].weight]
    assert torch.equal(state["lookahead_slow_buff"][3], net[0].weight[3])
    assert torch.equal(state["lookahead_slow_buff"][2], net[0].weight[2] + 1)
    assert not state["momentum_buffer"][3].any()
    assert torch.equal(state["momentum_buffer"][2], torch.ones(4))


def test_a_wrapper_may_refer_to_the_state_of_its_optimizer():
    """As torch_optimizer's Lookahead does; any other tensor in an attribute is refused."""
    net = mlp()
    inner = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    optimizer = pytorch_optimizer.Lookahead(inner)
    optimizer.fast_state = inner.state
    for param in net.parameters():
        inner.state[param]["momentum_buffer"] = torch.ones_like(param)
    gnt.GnT(net, optimizer).replace(UNIT)
    assert not inner.state[net[0].weight]["momentum_buffer"][3].any()
    optimizer.other = [torch.ones(8, 4)]
    with pytest.raises(TypeError, match=r"Lookahead keeps a tensor of shape \(8, 4\), .*'other\.0'"):
        gnt.GnT(net, optimizer)


def test_numbers_in_options_are_not_taken_for_state_of_a_layer_with_one_unit():
    net = mlp(4, 1, 2)
    optimizer = pytorch_optimizer.Prodigy(net.parameters())
    optimizer.param_groups[0]["d_numerator"] = torch.ones(1)  # as in its first step
    gnt.GnT(net, optimizer)


def test_the_new_weights_survive_the_next_step(monkeypatch):
    """FTRL computes the weights from its state, so that a reset would undo them."""
    monkeypatch.setitem(STATE_RESETS, pytorch_optimizer.FTRL, {"z": 0.0, "n": 0.0})
    with pytest.raises(AssertionError, match="did not survive"):
        prove_reset(PUBLIC["FTRL"].build)
