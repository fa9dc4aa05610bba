"""`GenerativeReplay`: against a loop with deep copies; isolation, heads that grow, resuming, refusals."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, mlp
from tests.replay.growing_net import Growing

TASKS, STEPS = 3, 3


def stream(task: int) -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(task)
    return [(torch.rand(6, 4, generator=draws), torch.randint(2, (6,), generator=draws)) for _ in range(STEPS)]


def vae(**settings: Any) -> gnt.VAE:
    torch.manual_seed(1)
    return gnt.VAE(4, hidden=[8], latent=3, **settings)


def method(net: nn.Module, model: nn.Module | None = None, **settings: Any) -> gnt.GenerativeReplay:
    return gnt.GenerativeReplay(net, model or vae(), generator=torch.Generator().manual_seed(3), **settings)


class Seeds:
    """The seeds that the method draws, and torch's global generator after one of them."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(3)

    def next(self) -> None:
        torch.manual_seed(int(torch.randint(2**63 - 1, (), generator=self._generator)))


def squares(output: Tensor, old: Tensor) -> Tensor:
    return (output - old).square().mean()


@pytest.mark.parametrize(
    ("targets", "weight", "count"), [("hard", None, None), ("soft", None, 4), (squares, 0.3, None), ("hard", 0.0, 5)]
)
def test_network_and_model_learn_from_the_batch_and_from_samples_of_frozen_copies(targets, weight, count):
    net, twin, model = mlp(), mlp(), vae()
    replay = method(net, targets=targets, weight=weight, batch_size=count, temperature=3.0)
    learner = gnt.Backprop(net, loss="cross_entropy", step_size=0.1, methods=[replay])
    optimizer, adam, seeds = torch.optim.SGD(twin.parameters(), lr=0.1), torch.optim.Adam(model.parameters()), Seeds()
    past: Any = None
    for task in range(TASKS):
        r = 1 / (task + 1) if weight is None else weight
        for x, y in stream(task):
            learner.learn(x, y)
            loss = F.cross_entropy(twin(x), y)
            if past is not None:
                old_model, old_net = past
                with torch.no_grad():
                    seeds.next()
                    samples = old_model.sample(count or len(x))
                    old = old_net(samples)
                if targets == "hard":
                    on_samples = F.cross_entropy(twin(samples), old.argmax(1))
                elif targets == "soft":
                    on_samples = 9 * F.cross_entropy(twin(samples) / 3, (old / 3).softmax(1))
                else:
                    on_samples = squares(twin(samples), old)
                loss = r * loss + (1 - r) * on_samples
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seeds.next()
            model_loss = model.loss(x)
            if past is not None:
                model_loss = r * model_loss + (1 - r) * model.loss(samples)
            adam.zero_grad()
            model_loss.backward()
            adam.step()
        learner.end_task()
        past = copy.deepcopy(model).eval(), copy.deepcopy(twin).eval()
    pairs = zip([*net.parameters(), *replay.model.parameters()], [*twin.parameters(), *model.parameters()], strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_loop_of_ones_own_equals_the_learner():
    net, other = mlp(), mlp()
    learner = gnt.Backprop(net, loss="cross_entropy", step_size=0.1, methods=[method(net)])
    replay, optimizer = method(other), torch.optim.SGD(other.parameters(), lr=0.1)
    for task in range(TASKS):
        learner.begin_task(task=task)  # ends the task before
        for x, y in stream(task):
            learner.learn(x, y)
            output = other(x)
            loss = F.cross_entropy(output, y) + replay(x, y, output)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        learner.begin_task(task=task)  # changes nothing
        replay.end_task()
    assert_same(net.state_dict(), other.state_dict())
    assert_same(learner.methods[0].model.state_dict(), replay.model.state_dict())
    assert (learner.methods[0].tasks, replay.tasks) == (TASKS - 1, TASKS)


def test_without_weight_on_the_past_training_is_plain_bit_by_bit():
    """Also beside an engine, and with dropout, which draws from torch's global generator."""

    def run(*kinds: Any) -> dict[str, Any]:
        net = nn.Sequential(*list(mlp(4, 8, 2))[:2], nn.Dropout(0.3), nn.Linear(8, 2))
        methods = [kind(net) for kind in kinds]
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(1)
        settings = {**FREQUENT_REPLACEMENT, "generator": generator, "opt": "adam", "loss": "cross_entropy"}
        learner = gnt.ContinualBackprop(net, methods=methods, **settings)
        for task in range(2):
            for x, y in stream(task):
                learner.learn(x, y)
            learner.end_task()
        return {"net": net.state_dict(), "engine": learner.gnt.state_dict(), "global": torch.get_rng_state()}

    plain = run()
    assert_same(run(lambda net: method(net, weight=1.0), lambda net: gnt.LwF(net, 0.0)), plain)


class Noisy(nn.Module):
    """Dropout, a statistic that moves in every forward, and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.register_buffer("forwards", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        return self.last(F.dropout(self.norm(self.first(x)).relu(), 0.5, self.training))


def test_drawing_leaves_network_model_engines_and_random_state_as_they_were():
    net, (x, y) = Noisy(), stream(0)[0]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine = gnt.GnT([net.first, net.norm, nn.ReLU(), net.last], optimizer)
    replay = method(net)
    replay(x, y, net(x))
    replay.end_task()
    engine.discard()
    net.first.eval()
    before = copy.deepcopy((net.state_dict(), replay.model.state_dict(), torch.get_rng_state()))
    kept = copy.deepcopy(net).eval()
    one, other = replay.sample(5), replay.sample(5)
    assert_same((net.state_dict(), replay.model.state_dict(), torch.get_rng_state()), before)
    assert not engine.waiting
    assert all(parameter.grad is None for parameter in net.parameters())
    assert (net.training, net.first.training, net.norm.training) == (True, False, True)
    assert not one[0].equal(other[0])
    with torch.no_grad():  # later weights and statistics make no difference
        net.norm.running_mean.add_(1.0)
        net.last.weight.zero_()
    x, old = replay.sample(5)
    assert old.equal(kept(x))
    assert replay.state_dict()["past"]["solver"]["forwards"] == 1  # as at the end of the task


def test_only_the_network_itself_draws_from_torchs_global_generator():
    net, (x, y) = mlp(), stream(0)[0]
    replay = method(net)
    replay(x, y, net(x))
    replay.end_task()
    state = torch.get_rng_state()
    replay(x, y, net(x)).backward()
    assert torch.get_rng_state().equal(state)


def test_the_model_keeps_its_precision_under_autocast():
    models = []
    for enabled in (False, True):
        net = mlp()
        replay = method(net, weight=0.5)
        for x, y in stream(0):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                output = net(x)
                assert output.dtype == (torch.bfloat16 if enabled else torch.float32)
                (F.cross_entropy(output, y) + replay(x, y, output)).backward()
                replay.end_task()
        models.append(replay.model.state_dict())
    assert_same(*models)


def test_an_engine_measures_units_on_current_and_generated_samples():
    net, (x, y) = mlp(), stream(0)[0]
    replay = method(net, batch_size=4)
    replay(x, y, net(x))
    replay.end_task()
    engine = gnt.GnT(net, decay_rate=0.0)
    before = replay.generator.get_state()
    output = net(x)
    (F.cross_entropy(output, y) + replay(x, y, output)).backward()
    engine.step()
    replay.generator.set_state(before)
    features = net[:2](torch.cat([x, replay.sample(4)[0]])).mean(0)
    torch.testing.assert_close(engine.groups[0].state.mean_feature, features.detach())


def test_the_frozen_network_follows_a_change_of_dtype():
    net, (x, y) = mlp(), stream(0)[0]
    replay = method(net)
    replay(x, y, net(x))
    replay.end_task()
    state = replay.generator.get_state()
    before = replay.sample(5)
    net.double()
    replay.generator.set_state(state)
    for old, new in zip(before, replay.sample(5), strict=True):
        torch.testing.assert_close(new, old.double(), rtol=1e-5, atol=1e-6)
    x = x.double()
    assert replay(x, y, net(x)).dtype == torch.float64


@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_classes_added_since_get_probability_zero(targets):
    net, (x, y) = Growing(), stream(0)[0]
    replay = method(net, targets=targets, temperature=1.0, weight=0.0)
    replay(x, y, net(x))
    replay.end_task()
    net.heads.grow(3)
    with torch.no_grad():
        list(net.parameters())[-1].fill_(5.0)  # the new outputs are the largest
    state = replay.generator.get_state()
    samples, old = replay.sample(6)
    replay.generator.set_state(state)
    assert old.shape == (6, 2)
    padded = torch.cat([old.softmax(1), torch.zeros(6, 3)], 1)
    wanted = padded if targets == "soft" else padded.argmax(1)
    total = replay.penalty(x, y, net(x)) + F.cross_entropy(net(x), y)
    torch.testing.assert_close(total, F.cross_entropy(net(samples), wanted))
    replay.discard()
    # a layer that was replaced by a wider one runs with its old weights
    net.heads.heads["task_0"][0] = nn.Linear(4, 7)
    assert_same(replay.sample(6)[1].shape, old.shape)


class Custom(nn.Module):
    """A model by a user, with batch norm and dropout: a generator that reconstructs its own latent draws."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 4))

    def sample(self, n: int) -> Tensor:
        return self.net(torch.randn(n, 3))

    def loss(self, x: Tensor) -> Tensor:
        return (self.sample(len(x)).mean(0) - x.mean(0)).square().sum()


def test_a_learner_resumes_exactly_with_a_model_of_the_user():
    def learner() -> gnt.ContinualBackprop:
        net, model = mlp(), Custom()
        replay = method(net, model, targets="soft", optimizer=torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
        settings = {**FREQUENT_REPLACEMENT, "loss": "cross_entropy", "opt": "adam"}
        return gnt.ContinualBackprop(net, methods=[replay], **settings)

    one, other = learner(), learner()
    for task in range(2):
        one.begin_task(task=task)
        for x, y in stream(task):
            one.learn(x, y)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert (other.methods[0].tasks, other.methods[0].steps) == (1, STEPS)
    for each in (one, other):
        torch.manual_seed(0)
        each.begin_task(task=1)
        each._steps = [tuple(each.learn(x, y)) for x, y in stream(5)]
        each.begin_task(task=2)
        each._steps += [tuple(each.learn(x, y)) for x, y in stream(2)]
    assert_same(one._steps, other._steps)
    assert_same(one.state_dict(), other.state_dict())
    assert sum(group.state.replaced for group in one.gnt.groups) > 0


def test_a_step_that_fails_changes_nothing():
    net = mlp()
    replay = method(net, Custom())
    learner = gnt.Backprop(net, loss="cross_entropy", opt="adam", methods=[replay])
    x, y = stream(0)[0]
    learner.learn(x, y)
    learner.end_task()
    before = copy.deepcopy(learner.state_dict())
    loss = replay.model.loss
    for broken, error, message in [
        (lambda x: loss(x) * torch.nan, FloatingPointError, "the loss of Custom is nan; nothing was changed"),
        (lambda x: loss(x)[None], ValueError, r"loss of Custom must return a scalar with a gradient, got shape \(1,\)"),
        (lambda x: loss(x).detach(), ValueError, "must return a scalar with a gradient"),
    ]:
        replay.model.loss = broken
        with pytest.raises(error, match=message):
            learner.learn(x, y)
        assert_same(learner.state_dict(), before)
    replay.model.loss = loss
    replay.model.sample = lambda n: torch.rand(n, 5)
    with pytest.raises(ValueError, match=r"samples of Custom have the shape \(5,\), and inputs \(4,\)"):
        learner.learn(x, y)
    replay.model.sample = lambda n: torch.rand(n + 1, 4)
    with pytest.raises(
        ValueError, match=r"sample\(6\) of Custom must return 6 inputs, got torch.float32 of shape \(7, 4\)"
    ):
        learner.learn(x, y)
    with pytest.raises(RuntimeError, match="task 2 has ended before a batch of it was learned"):
        learner.end_task()
    with pytest.raises(FloatingPointError):
        learner.learn(x * torch.nan, y)
    assert_same(learner.state_dict(), before)


def test_wrong_settings_and_states_are_refused():
    net, model = mlp(), vae()
    twice, frozen = Custom(), vae().requires_grad_(False)
    twice.net[3] = net[0]
    part = torch.optim.SGD(model.encoder.parameters(), lr=0.1)
    for build, error, message in [
        (lambda: method("net"), TypeError, "net must be a torch.nn.Module, got str"),
        (lambda: method(net, nn.Linear(4, 4)), TypeError, r"with loss\(x\) and sample\(n\), got Linear"),
        (lambda: method(net, frozen), ValueError, "model must have parameters that require a gradient"),
        (lambda: method(net, twice), ValueError, "model must have parameters of its own; net.3.weight is one of net"),
        (lambda: method(net, model, optimizer=part), ValueError, "does not have parameter moments.weight"),
        (lambda: method(net, model, optimizer="adam"), TypeError, "optimizer must be a torch.optim.Optimizer or None"),
        (lambda: method(net, loss="mse"), TypeError, "loss must be a function"),
        (lambda: method(net, forward=3), TypeError, "forward must be a function"),
        (lambda: method(net, targets="firm"), ValueError, "targets must be 'hard', 'soft' or a function"),
        (lambda: method(net, temperature=0), ValueError, "temperature must be a finite number > 0, got 0"),
        (lambda: method(net, weight=1.5), ValueError, r"weight must be in \[0, 1\] or None, got 1.5"),
        (lambda: method(net, batch_size=0), ValueError, "batch_size must be an integer >= 1"),
        (lambda: gnt.GenerativeReplay(net, model, generator=3), TypeError, "generator must be a torch.Generator"),
    ]:
        with pytest.raises(error, match=message):
            build()
    replay, (x, y) = method(net, model), stream(0)[0]
    with pytest.raises(RuntimeError, match=r"nothing to replay yet: call end_task\(\)"):
        replay.sample(3)
    with pytest.raises(RuntimeError, match="task 1 has ended before"):
        replay.end_task()
    with pytest.raises(TypeError, match="output must be the network's output, a tensor, got list"):
        replay(x, y, [])
    replay(x, y, net(x))
    replay.end_task()
    before = copy.deepcopy(replay.state_dict())
    replay(x, y, net(x))
    wider = method(mlp(4, 9, 6, 2))
    for other, change, message in [
        (wider, {"past": {**before["past"], "solver": mlp(4, 10, 6, 2).state_dict()}}, "of another network"),
        (replay, {"past": {**before["past"], "solver": {"else": x}}}, "its solver has 'else' of shape"),
        (replay, {"model": vae(likelihood="gaussian").encoder.state_dict()}, "a model or an optimizer that does not"),
        (replay, {"optimizer": part.state_dict()}, "a model or an optimizer that does not fit"),
        (replay, {"tasks": 0}, "0 tasks, which do not fit its 'past'"),
        (replay, {"outputs": -1}, "outputs"),
    ]:
        kept = copy.deepcopy(other.state_dict())
        with pytest.raises(ValueError, match=message):
            other.load_state_dict({**before, **change})
        assert_same(other.state_dict(), kept)
    lines = nn.Linear(4, 1)
    replay = method(lines, loss=F.mse_loss)
    replay(x, y[:, None].float(), lines(x))
    replay.end_task()
    with pytest.raises(ValueError, match=r"targets='hard' needs outputs \(batch, classes, ...\), got \(6, 1\)"):
        replay(x, y[:, None].float(), lines(x))


class SumOfWeights(Custom):
    """A model with one gradient for two parameters, and one for all entries of a third."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
        self.third = nn.Parameter(torch.ones(4))

    def loss(self, x: Tensor) -> Tensor:
        return super().loss(x) + ((self.first + self.second) * x.mean(0)).sum() + self.third.sum()


def test_a_hook_of_the_models_optimizer_may_change_gradients_in_place():
    net, model = mlp(), SumOfWeights()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def halve(*_: Any) -> None:
        for parameter in model.parameters():
            parameter.grad.mul_(0.5)

    optimizer.register_step_pre_hook(halve)
    x, y = stream(0)[0]
    gnt.Backprop(net, loss="cross_entropy", methods=[method(net, model, optimizer=optimizer)]).learn(x, y)
    for each in (model.first, model.second):
        torch.testing.assert_close(each.detach(), 1.0 - 0.5 * x.mean(0))
    assert model.third.tolist() == [0.5] * 4
