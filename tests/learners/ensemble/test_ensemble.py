"""What an ensemble returns, saves and loads, and what it does not change."""

import copy
import io

import pytest
import torch
from torch import nn

import gnt
from gnt.learners import MemberLinear
from tests.helpers.ensembles import FREQUENT_REPLACEMENT, conv_net, member_batches, mlp, single_run
from tests.helpers.small_runs import assert_same, without_global_hooks

NET = mlp(4, 6, 5, 2)


def batch(t: int, members: int = 3, size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return member_batches(t, members, size, (4,), 2, "mse")


def test_learn_returns_losses_outputs_and_replaced_units_by_member() -> None:
    ensemble = gnt.Ensemble(NET, [1, 2, 3], **FREQUENT_REPLACEMENT)
    for t in range(100):
        step = ensemble.learn(*batch(t))
        assert step.loss.shape == (3,)
        assert step.output.shape == (3, 2, 2)
        assert not step.loss.requires_grad
        assert not step.output.requires_grad
        for units, size in zip(step.replaced, (6, 5), strict=True):
            assert units.dtype == torch.int64
            assert units.shape[0] == 3
            assert ((units >= 0) & (units < size)).all()
    assert len(ensemble) == 3
    assert len({tuple(member.flatten().tolist()) for member in ensemble.net.parameters()}) > 1
    # equal seeds are equal members, different seeds are not
    twins = gnt.Ensemble(NET, [5, 5, 6])
    weights = [twins.member(i)[0].weight for i in range(3)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_torchs_global_generator_is_left_unchanged() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    ensemble = gnt.Ensemble(NET, [1, 2], **FREQUENT_REPLACEMENT)
    for t in range(30):
        ensemble.learn(*batch(t, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_member_returns_a_copy_of_one_network() -> None:
    ensemble = gnt.Ensemble(conv_net, [1, 2], **FREQUENT_REPLACEMENT)
    for t in range(5):
        ensemble.learn(*member_batches(t, 2, 4, (1, 10, 10), 3, "mse"))
    x = member_batches(99, 2, 4, (1, 10, 10), 3, "mse")[0]
    outputs = ensemble.predict(x)
    for wrong in (x[:1], x[0, 0], x.numpy()):
        with pytest.raises(ValueError, match=r"x must be a tensor \(\d members, batch, \.\.\.\), got"):
            ensemble.predict(wrong)
    assert all(module.training for module in ensemble.net.modules())
    for i in range(2):
        member = ensemble.member(i)
        assert repr(member) == repr(conv_net())
        assert [key for key, _ in member.named_parameters()] == [key for key, _ in conv_net().named_parameters()]
        torch.testing.assert_close(member.eval()(x[i]), outputs[i])
        with torch.no_grad():
            for parameter in member.parameters():
                parameter.zero_()
    torch.testing.assert_close(ensemble.predict(x), outputs, rtol=0, atol=0)
    with pytest.raises(IndexError, match=r"member must lie in 0\.\.1, got 2"):
        ensemble.member(2)


def test_a_deep_copy_is_independent_and_continues_alike() -> None:
    ensemble = gnt.Ensemble(conv_net, [1, 2], opt="adam", **FREQUENT_REPLACEMENT)
    stream = [member_batches(t, 2, 4, (1, 10, 10), 3, "mse") for t in range(12)]
    for x, y in stream[:6]:
        ensemble.learn(x, y)
    other = copy.deepcopy(ensemble)
    before = copy.deepcopy(ensemble.member(1).state_dict())
    for x, y in stream[6:]:
        other.learn(x, y)
    assert_same(dict(ensemble.member(1).state_dict()), dict(before))
    for x, y in stream[6:]:
        ensemble.learn(x, y)
    assert_same(dict(ensemble.member(1).state_dict()), dict(other.member(1).state_dict()))
    assert_same(ensemble.state_dict(), other.state_dict())


def test_the_report_equals_that_of_a_single_run() -> None:
    ensemble = gnt.Ensemble(NET, [1, 2, 3], **FREQUENT_REPLACEMENT)
    run = single_run(NET, 2, **FREQUENT_REPLACEMENT)
    for t in range(50):
        x, y = batch(t)
        ensemble.learn(x, y)
        run.learn(x[1], y[1])
    mine, theirs = ensemble.report(), run.gnt.report()
    for own, single, dead in zip(mine.groups, theirs.groups, mine.dead_by_member, strict=True):
        for key in ("name", "units", "eligible", "replaced", "next_due"):
            assert getattr(own, key) == getattr(single, key)
        assert dead[1] == single.dead
        assert own.dead == sum(dead)
    assert "after 50 updates, 3 members" in str(mine)
    assert "EnsembleReport" in repr(mine)


@pytest.mark.parametrize("opt", ["sgd", "adam"])
@pytest.mark.parametrize("rate", [0.02, 0.0])
def test_training_resumes_bit_for_bit_from_a_saved_state(opt: str, rate: float) -> None:
    """Saved to a file and loaded into an ensemble with other weights, with the generators of dropout."""
    settings = {**FREQUENT_REPLACEMENT, "opt": opt, "step_size": 0.01, "replacement_rate": rate}
    first = gnt.Ensemble(conv_net, [1, 2], **settings)
    stream = [member_batches(t, 2, 4, (1, 10, 10), 3, "mse") for t in range(30)]
    for x, y in stream[:15]:
        first.learn(x, y)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    expected = [first.learn(x, y) for x, y in stream[15:]]
    file.seek(0)
    second = gnt.Ensemble(conv_net, [1, 2], **settings)
    second.learn(*stream[3])
    second.load_state_dict(torch.load(file, weights_only=True))
    for (x, y), step in zip(stream[15:], expected, strict=True):
        again = second.learn(x, y)
        assert torch.equal(again.loss, step.loss)
        assert all(torch.equal(a, b) for a, b in zip(again.replaced, step.replaced, strict=True))
    for a, b in zip(first.net.state_dict().values(), second.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_loading_a_state_that_does_not_fit_changes_nothing() -> None:
    ensemble = gnt.Ensemble(NET, [1, 2], **FREQUENT_REPLACEMENT)
    before = copy.deepcopy(ensemble.state_dict())
    with pytest.raises(ValueError, match=r"state_dict is of seeds \[1, 3\], this ensemble's are \[1, 2\]"):
        ensemble.load_state_dict(gnt.Ensemble(NET, [1, 3], **FREQUENT_REPLACEMENT).state_dict())
    with pytest.raises(ValueError, match="saved with replacement_rate=0"):
        ensemble.load_state_dict(gnt.Ensemble(NET, [1, 2], replacement_rate=0.0).state_dict())
    with pytest.raises(ValueError, match="state_dict\\(\\) of an Ensemble, with 'seeds'"):
        ensemble.load_state_dict(single_run(NET, 1, **FREQUENT_REPLACEMENT).state_dict())
    with pytest.raises(ValueError, match="another architecture"):
        ensemble.load_state_dict(gnt.Ensemble(mlp(4, 7, 2), [1, 2], **FREQUENT_REPLACEMENT).state_dict())
    assert_same(ensemble.state_dict(), before)


@pytest.mark.parametrize("rate", [0.02, 0.0])
def test_the_error_for_a_nonfinite_loss_names_the_seeds_and_nothing_changes(rate: float) -> None:
    ensemble = gnt.Ensemble(conv_net, [10, 20, 30], **{**FREQUENT_REPLACEMENT, "replacement_rate": rate})
    for t in range(8):
        ensemble.learn(*member_batches(t, 3, 4, (1, 10, 10), 3, "mse"))
    before = copy.deepcopy({key: value for key, value in ensemble.state_dict().items() if key != "dropout"})
    x, y = member_batches(8, 3, 4, (1, 10, 10), 3, "mse")
    y[1] = torch.inf
    with pytest.raises(FloatingPointError, match="the loss of seed 20 is not finite; nothing was changed"):
        ensemble.learn(x, y)
    y[2] = torch.nan
    with pytest.raises(FloatingPointError, match="the loss of seeds 20, 30 is not finite"):
        ensemble.learn(x, y)
    after = {key: value for key, value in ensemble.state_dict().items() if key != "dropout"}
    assert_same(after, before)


def test_the_error_for_nonfinite_weights_names_the_seed() -> None:
    ensemble = gnt.Ensemble(NET, [10, 20], **FREQUENT_REPLACEMENT)
    ensemble.learn(*batch(0, 2))
    with torch.no_grad():
        ensemble.net.layers[-2].weight[2:4, 0] = torch.inf  # not read by the loss as long as its feature is 0
    group = ensemble.gnt.groups[1]
    features = [torch.zeros(1, g.num_units, dtype=torch.float64) for g in ensemble.gnt.groups]
    with pytest.raises(FloatingPointError, match=rf"group {group.name!r} are not finite.*\(seed 20\)"):
        ensemble.gnt.step(features)


def test_a_failed_update_draws_no_random_utility() -> None:
    ensemble = gnt.Ensemble(NET, [10, 20], **FREQUENT_REPLACEMENT, utility="random")
    before = [each.get_state() for each in ensemble.gnt.generators]
    features = [torch.full((1, g.num_units), torch.nan, dtype=torch.float64) for g in ensemble.gnt.groups]
    with pytest.raises(FloatingPointError):
        ensemble.gnt.step(features)
    assert all(torch.equal(g.get_state(), b) for g, b in zip(ensemble.gnt.generators, before, strict=True))


def test_given_generators_are_used() -> None:
    given = [torch.Generator().manual_seed(100 + i) for i in range(2)]
    ensemble = gnt.Ensemble(NET, [1, 2], generators=given, **FREQUENT_REPLACEMENT)
    torch.manual_seed(2)
    net = NET()
    run = gnt.ContinualBackprop(net, generator=torch.Generator().manual_seed(101), **FREQUENT_REPLACEMENT)
    for t in range(40):
        x, y = batch(t, 2)
        ensemble.learn(x, y)
        run.learn(x[1], y[1])
    torch.testing.assert_close(dict(ensemble.member(1).state_dict()), dict(net.state_dict()), rtol=0, atol=1e-12)


def test_an_optimizer_built_by_a_function() -> None:
    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, lr=0.01, momentum=0.9)

    ensemble = gnt.Ensemble(NET, [1, 2], opt=make, **FREQUENT_REPLACEMENT)
    torch.manual_seed(2)
    net = NET()
    run = gnt.ContinualBackprop(net, opt=make(list(net.parameters())), **FREQUENT_REPLACEMENT)
    for t in range(60):
        x, y = batch(t, 2)
        ensemble.learn(x, y)
        run.learn(x[1], y[1])
    torch.testing.assert_close(dict(ensemble.member(1).state_dict()), dict(net.state_dict()), rtol=0, atol=1e-10)


@pytest.mark.parametrize("opt", ["sgd", "adam"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_step_of_the_optimizer_computes_the_means_of_each_members_weights(
    opt: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_global_hooks(monkeypatch)
    ensemble = gnt.Ensemble(mlp(4, 70, 65, 2, dtype=dtype), [1, 2, 3], opt=opt, utility="adaptable_contribution")
    for t in range(3):
        ensemble.learn(*(each.to(dtype) for each in batch(t)))
    all_means = ensemble.gnt.weight_means
    assert len(all_means) == 3
    for weight in ensemble.net.parameters():
        if (means := all_means.get(id(weight))) is None:
            continue
        assert means.version == weight._version
        by_member = weight.detach().abs().view(3, -1, weight.shape[1])
        if means.rows is not None:
            torch.testing.assert_close(means.rows, by_member.mean(2).flatten())
        if means.columns is not None:
            torch.testing.assert_close(means.columns, by_member.mean(1).flatten())


def test_the_loss_leaves_out_ignored_targets() -> None:
    """Targets of -100 are ignored: each member's loss is the mean over its other targets."""
    ensemble = gnt.Ensemble(NET, [1, 2], loss="cross_entropy")
    run = single_run(NET, 2, loss="cross_entropy")
    x, y = member_batches(0, 2, 4, (4,), 2, "cross_entropy")
    y[1, 2:] = -100
    torch.testing.assert_close(ensemble.learn(x, y).loss[1], run.learn(x[1], y[1]).loss)


def test_members_do_not_influence_each_other() -> None:
    """The data of one member changes no bit of the others."""
    one, other = (gnt.Ensemble(NET, [1, 2, 3], opt="adam", step_size=0.01, **FREQUENT_REPLACEMENT) for _ in range(2))
    for t in range(60):
        x, y = batch(t)
        one.learn(x, y)
        x, y = x.clone(), y.clone()
        x[1], y[1] = 3.0 * x[1], -y[1]
        other.learn(x, y)
    for i, same in ((0, True), (1, False), (2, True)):
        pairs = zip(one.member(i).parameters(), other.member(i).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) is same


def test_member_linear_gives_the_same_result_for_a_traced_batch_of_one() -> None:
    class Traced(torch.Tensor):
        """A tensor subclass, as used while a step is captured."""

    generator = torch.Generator().manual_seed(0)
    weight, bias = (nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((15, 4), (15,)))
    x = torch.randn(3, 4, 1, generator=generator)
    for layer in (MemberLinear(weight, bias, 3), MemberLinear(weight, None, 3)):
        torch.testing.assert_close(torch.Tensor(layer(x.as_subclass(Traced))), layer(x).detach())
