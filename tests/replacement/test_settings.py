"""What is given is used, or refused: activations, selections, optimizers, predict."""

import pytest
import torch
from torch import nn

import gnt


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


ACTIVATIONS = {
    "a module": (mlp, nn.ReLU(), TypeError, "activation must be a name"),
    "shown by the list": (mlp, "tanh", ValueError, "activation='tanh' would be ignored"),
    "with groups": (lambda: gnt.walk(mlp()), "tanh", ValueError, "unit groups have their own"),
}


@pytest.mark.parametrize(("make", "activation", "error", "message"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_an_activation_that_nothing_would_use(make, activation, error, message):
    with pytest.raises(error, match=message):
        gnt.GnT(make(), activation=activation)


@pytest.mark.parametrize(
    ("flag", "allowed"), [("accumulate", "True, False or 'one'"), ("bias_transfer", "True or False")]
)
def test_flags_are_true_or_false(flag, allowed):
    with pytest.raises(TypeError, match=f"{flag} must be {allowed}, got 'no'"):
        gnt.GnT(mlp(), **{flag: "no"})


def test_nobody_is_due_twice_for_one_update():
    engine = gnt.GnT(mlp(), replacement_rate=0.5, maturity_threshold=0)
    engine.update([torch.ones(3, 6)])
    assert [len(units) for units in engine.select()] == [3]
    engine.update([torch.ones(0, 6)])  # an empty batch is no update
    assert [len(units) for units in engine.select()] == [0]
    assert engine.groups[0].state.accumulated == 0.0


def test_an_empty_batch_replaces_nobody_and_says_so():
    engine = gnt.GnT(mlp(), replacement_rate=1.0, maturity_threshold=0)
    engine.step([torch.ones(3, 6)])
    assert [len(units) for units in engine.replaced] == [6]
    engine.step([torch.ones(0, 6)])
    assert [len(units) for units in engine.replaced] == [0]


def test_units_that_the_optimizer_cannot_address_are_refused_at_construction():
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm((2, 3, 8)), nn.ReLU(), nn.Linear(8, 2))
    gnt.GnT(net, torch.optim.Adam(net.parameters()))
    with pytest.raises(TypeError, match=r"dimension 2 of 1\.weight, and reset_units of AdamGnT"):
        gnt.GnT(net, gnt.AdamGnT(net.parameters()))


def test_a_value_at_birth_that_no_option_holds_is_refused_at_construction():
    class Signum(torch.optim.SGD):
        pass

    net = mlp()
    gnt.register_state_reset(Signum, {"momentum_buffer": "nonsense"})
    with pytest.raises(TypeError, match="Signum has no number 'nonsense'"):
        gnt.GnT(net, Signum(net.parameters()))
    with pytest.raises(TypeError, match="resets must be a mapping"):
        gnt.register_state_reset(Signum, None)


def test_an_optimizer_of_another_network_is_refused():
    with pytest.raises(ValueError, match="SGD holds no parameter of net"):
        gnt.Backprop(mlp(), opt=torch.optim.SGD(mlp().parameters()))


def test_predict_must_return_output_and_features():
    class Net(nn.Sequential):
        def predict(self, x):
            return self(x)

    net = Net(*mlp())
    for learner in (gnt.Backprop(net), gnt.ContinualBackprop(net)):
        with pytest.raises(TypeError, match=r"predict of Net must return \(output, features\), got Tensor"):
            learner.learn(torch.randn(2, 4), torch.randn(2, 2))


class MeanFree(nn.Module):
    """Subtracts the mean over units, in training only."""

    def forward(self, x):
        return x - x.mean(1, keepdim=True) if self.training else x


@pytest.mark.parametrize("layer", [MeanFree(), lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=1e3)])
def test_what_mixes_units_in_training_or_at_large_numbers_is_refused(layer):
    with pytest.raises(ValueError, match="does not act on each unit alone"):
        gnt.walk([nn.Linear(4, 6), layer, nn.Linear(6, 2)])


def test_layers_that_look_after_themselves_are_not_looked_after_twice():
    first, second = nn.Linear(4, 6), nn.Linear(6, 2)
    net = nn.Sequential(first, nn.ReLU(), gnt.CBPLinear(first, second), second)
    with pytest.raises(ValueError, match="it has its own engine: use CBPLinear/CBPConv or GnT, not both"):
        gnt.ContinualBackprop(net)


def test_a_checkpointed_forward_counts_once():
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = mlp()

        def forward(self, x):
            return checkpoint(self.layers, x, use_reentrant=False)

    torch.manual_seed(0)
    plain = mlp()
    kept = Checkpointed()
    kept.layers.load_state_dict(plain.state_dict())
    learners = [gnt.ContinualBackprop(net, maturity_threshold=2, replacement_rate=0.3) for net in (plain, kept)]
    learners[1].gnt.generator.set_state(learners[0].gnt.generator.get_state())
    for _ in range(20):
        x, y = torch.randn(3, 4), torch.randn(3, 2)
        for learner in learners:
            learner.learn(x, y)
    for a, b in zip(plain.parameters(), kept.parameters(), strict=True):
        assert torch.equal(a, b)
