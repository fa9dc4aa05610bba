"""A-GEM and GEM: closed forms, scipy's solver, and that nothing but ``.grad`` is changed."""

from __future__ import annotations

import copy
import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import Tensor, nn

import gnt
from gnt.replay._nnls import nonnegative_least_squares
from gnt.replay._projection import rescale
from tests.helpers.small_runs import assert_same, mlp


def linear_loss(output: Tensor, y: Tensor) -> Tensor:
    """The mean output, whose gradient for the weights of one output is the mean input."""
    return output.mean() + 0.0 * y.sum()


def one_layer(inputs: int) -> nn.Linear:
    return nn.Linear(inputs, 1, bias=False, dtype=torch.float64)


def vectors(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def gem_of(references: Tensor, margin: float = 0.0) -> gnt.GEM:
    """GEM whose reference gradients are the given rows."""
    gem = gnt.GEM(one_layer(references.shape[1]), linear_loss, margin=margin)
    for row in references:
        gem.begin_task()
        gem.add(row[None], torch.zeros(1))
    gem.begin_task()
    return gem


def projected(method: Any, gradient: Tensor) -> Tensor:
    weight = next(method.net.parameters())
    weight.grad = gradient[None].clone()
    method.project()
    return weight.grad[0]


def agem_of(reference: Tensor) -> gnt.AGEM:
    memory = gnt.ReplayBuffer(1)
    memory.add(reference[None], torch.zeros(1))
    return gnt.AGEM(one_layer(len(reference)), memory, linear_loss)


def literal_projection(references: Tensor, gradient: Tensor, margin: float) -> Tensor:
    """The best of all sets of active constraints, tried one after the other."""
    start = gradient + margin * references.sum(0)
    best, least = None, float("inf")
    for size in range(len(references) + 1):
        for chosen in combinations(range(len(references)), size):
            active = references[list(chosen)]
            factors = -torch.linalg.pinv(active @ active.T) @ (active @ start) if size else start.new_zeros(0)
            result = start + active.T @ factors
            if (factors >= -1e-9).all() and result.norm() < least - 1e-12:
                best, least = result, result.norm()
    assert best is not None
    return best


def test_the_solver_agrees_with_scipy_for_dependent_zero_and_badly_scaled_rows():
    draws = np.random.default_rng(0)
    for trial in range(200):
        rows, columns = draws.integers(1, 25), draws.integers(1, 30)
        matrix = draws.standard_normal((rows, columns)) * 10 ** draws.uniform(-4, 4, (rows, 1))
        if trial % 3 == 0 and rows > 2:
            matrix[1], matrix[2] = matrix[0], 0.0
        if trial % 5 == 0:
            matrix = matrix[:, :1] * draws.standard_normal(columns)
        target = draws.standard_normal(columns)
        u = nonnegative_least_squares(matrix @ matrix.T, matrix @ target)
        expected, _ = nnls(matrix.T, -target, maxiter=10_000)
        assert (u >= 0).all()
        distances = [np.linalg.norm(matrix.T @ each + target) for each in (u, expected)]
        assert distances[0] == pytest.approx(distances[1], rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_gem_is_the_nearest_vector_that_no_constraint_forbids(margin):
    """Against all sets of active constraints, with equal rows, zero rows, and more rows than parameters."""
    draws = torch.Generator().manual_seed(0)
    for trial in range(20):
        references = torch.randn(4, 3, dtype=torch.float64, generator=draws)
        if trial % 3 == 0:
            references[1], references[2] = references[0], 0.0
        gradient = torch.randn(3, dtype=torch.float64, generator=draws)
        result = projected(gem_of(references, margin), gradient)
        if (references @ gradient >= 0).all():
            assert result.equal(gradient)
            continue
        torch.testing.assert_close(result, literal_projection(references, gradient, margin), rtol=0, atol=1e-7)
        assert (references @ result).min() >= -1e-9


def test_gem_satisfies_all_constraints_where_one_projection_after_the_other_does_not():
    """Products with the gradient before any projection leave both of these constraints violated."""
    references, gradient = vectors((1.0, 0.2), (-0.8, 0.6)), vectors(-0.5, -1.0)
    stale = gradient.clone()
    for row in references:
        stale -= min(float(row @ gradient), 0.0) / (row @ row) * row
    assert (references @ stale).tolist() == pytest.approx([-0.136, -0.458], abs=2e-3)
    assert (references @ projected(gem_of(references), gradient)).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


def test_gem_with_orthogonal_constraints_projects_one_after_the_other():
    references, gradient = vectors((2.0, 0.0, 0.0), (0.0, 0.5, 0.0)), vectors(-1.0, -3.0, 4.0)
    torch.testing.assert_close(projected(gem_of(references), gradient), vectors(0.0, 0.0, 4.0))


def test_gem_with_one_task_and_no_margin_is_agem():
    reference, gradient = vectors(1.0, 2.0, -1.0), vectors(-1.0, 0.5, 3.0)
    expected = gradient - (gradient @ reference) / (reference @ reference) * reference
    torch.testing.assert_close(projected(gem_of(reference[None]), gradient), expected)
    torch.testing.assert_close(projected(agem_of(reference), gradient), expected)


def test_agem_keeps_the_current_gradient_and_removes_only_what_raises_the_loss_on_memory():
    """The step is never taken along the memory's gradient alone."""
    reference = vectors(1.0, 2.0, -1.0)
    agreeing, opposed = vectors(3.0, 0.0, 1.0), vectors(-3.0, 0.0, 1.0)
    assert projected(agem_of(reference), agreeing).equal(agreeing)
    result = projected(agem_of(reference), opposed)
    assert float(result @ reference) == pytest.approx(0.0, abs=1e-12)
    assert result.norm() <= opposed.norm()
    assert not result.equal(opposed)


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e-22, 1e-15, 1e15, 1e30, 1e37])
@pytest.mark.parametrize("kind", ["agem", "gem"])
def test_the_size_of_memory_gradients_does_not_matter_in_float32(kind, size):
    """Squares of a well-learned memory's gradients vanish in float32; the projection depends on directions only."""
    torch.manual_seed(0)
    rows = torch.randn(3 if kind == "gem" else 1, 500)
    gradient = torch.randn(500) - 0.5 * rows.sum(0)
    results = []
    for factor in (1.0, size):
        method = (gem_of if kind == "gem" else lambda each: agem_of(each[0]))(rows * factor)
        method.net.float()
        results.append(projected(method, gradient))
    expected, result = results
    assert (expected - gradient).norm() > 1.0
    rtol = 1e-5 if size > 1e-37 else 0.1  # a denormal number has few digits
    torch.testing.assert_close(result, expected, rtol=rtol, atol=rtol)
    if kind == "gem":  # tasks of very different sizes
        method = gem_of(rows * torch.tensor([[1.0], [size], [1e-3]]))
        method.net.float()
        torch.testing.assert_close(projected(method, gradient), expected, rtol=rtol, atol=rtol)


def test_memory_gradients_are_rescaled_beside_tensors_without_elements_and_without_gradient():
    gradients = [torch.tensor([3e-30, -8e-30]), torch.zeros(0), None, torch.tensor([[1e-30]])]
    factor = rescale(gradients)
    assert math.frexp(factor)[0] == 0.5  # a power of 2
    torch.testing.assert_close(gradients[0], torch.tensor([3e-30, -8e-30]) * factor, rtol=0.0, atol=0.0)
    assert 0.5 <= gradients[0].abs().max() <= 1.0
    for unchanged in ([None], [torch.zeros(0), None], [torch.zeros(2)], [torch.tensor([1.0, float("nan")])]):
        assert rescale(unchanged) == 1.0


def test_a_memory_without_gradient_constrains_nothing():
    for kind in ("agem", "gem"):
        method = agem_of(torch.zeros(4)) if kind == "agem" else gem_of(torch.zeros(2, 4))
        method.net.float()
        gradient = torch.tensor([1.0, -2.0, 3.0, -4.0])
        assert torch.equal(projected(method, gradient), gradient)


def test_margin_favours_earlier_tasks():
    references, gradient = vectors((1.0, 0.0)), vectors(-1.0, 1.0)
    torch.testing.assert_close(projected(gem_of(references, margin=1.5), gradient), vectors(0.5, 1.0))


def heads() -> Any:
    """Two heads on one layer, chosen by the task."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.heads = nn.Linear(4, 5), nn.ModuleList(nn.Linear(5, 2) for _ in range(2))

        def forward(self, x: Tensor, task: int) -> Tensor:
            return self.heads[task](self.body(x))

    torch.manual_seed(0)
    return Heads().double()


def test_gem_constrains_heads_that_the_current_task_does_not_run():
    """Their parameters have no gradient of the current loss, and count in the products with earlier tasks."""
    net = heads()
    draws = torch.Generator().manual_seed(1)
    x, y = torch.randn(12, 4, dtype=torch.float64, generator=draws), torch.arange(12) % 2
    gem = gnt.GEM(net, F.cross_entropy, margin=0.5, forward=net)
    gem.begin_task(0)
    gem.add(x, y)
    gem.begin_task(1)
    reference = torch.autograd.grad(F.cross_entropy(net(x, 0), y), list(net.parameters()), allow_unused=True)
    F.cross_entropy(net(x, 1), y).backward()
    for parameter, gradient in zip(net.body.parameters(), reference[:2], strict=True):
        parameter.grad = -gradient  # opposed to the first task
    assert net.heads[0].weight.grad is None
    gem.project()
    product = sum((p.grad * r).sum() for p, r in zip(net.parameters(), reference, strict=True) if r is not None)
    assert float(product) >= -1e-12
    assert net.heads[0].weight.grad is not None


def test_agem_gives_each_stored_item_its_head():
    net = heads()
    memory = gnt.ReplayBuffer(20)
    seen: list[Tensor] = []

    def forward(x: Tensor, task: Tensor | None) -> Tensor:
        assert task is not None
        seen.append(task)
        return torch.stack([net(each, int(number)) for each, number in zip(x, task, strict=True)])

    agem = gnt.AGEM(net, memory, F.cross_entropy, task=0, forward=forward)
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 2
    for task in (0, 1, 2):
        agem.begin_task(task)
        agem.add(x, y)
    agem.begin_task(2)
    (-F.cross_entropy(net(x, 0), y)).backward()
    agem.project()
    assert sorted(seen[0].tolist()) == [0] * 6 + [1] * 6  # the current task is left out


def test_agem_is_constrained_by_the_few_items_that_other_tasks_have_left():
    memory = gnt.ReplayBuffer(200)
    agem = gnt.AGEM(one_layer(2), memory, linear_loss, batch_size=4, task=0)
    agem.add(vectors((1.0, 0.0)), torch.zeros(1))
    agem.begin_task(1)
    assert projected(agem, vectors(-1.0, 1.0)).equal(vectors(0.0, 1.0))
    agem.add(torch.ones(150, 2, dtype=torch.float64), torch.zeros(150))
    assert all(projected(agem, vectors(-1.0, 1.0)).equal(vectors(0.0, 1.0)) for _ in range(20))
    agem.begin_task(0)
    drawn = memory.sample(4, other_than=0)
    assert (drawn.task == 1).all()
    assert len(drawn.x) == 4
    memory.load_state_dict(gnt.ReplayBuffer(200).state_dict())
    agem.add(vectors((1.0, 0.0)), torch.zeros(1))
    assert projected(agem, vectors(-1.0, 1.0)).equal(vectors(-1.0, 1.0))  # no other task has items


def test_projection_changes_nothing_but_gradients():
    """Statistics of batch norm, modes, generators, hooks and the features of an engine are as before."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    net[1].eval()
    engine = gnt.GnT(net, torch.optim.SGD(net.parameters(), lr=0.1))
    x, y = torch.randn(8, 4), torch.arange(8) % 2
    gem = gnt.GEM(net, F.cross_entropy, per_task=8, margin=0.0)
    agem = gnt.AGEM(net, gnt.ReplayBuffer(8), F.cross_entropy)
    gem.begin_task()
    gem.add(x, y)
    agem.add(x, y)
    gem.begin_task()
    called: list[Tensor] = []
    net[0].weight.register_hook(called.append)
    F.cross_entropy(net(x), y).backward()
    called.clear()
    recorded = copy.deepcopy([tap.recorded() for tap in engine.feature_buffer.taps])
    for method in (gem, agem):
        before = copy.deepcopy([net.state_dict(), [m.training for m in net.modules()]]), torch.get_rng_state()
        method.project()
        after = [net.state_dict(), [m.training for m in net.modules()]], torch.get_rng_state()
        assert_same(before, after)
        assert not called
    assert recorded
    assert_same(recorded, [tap.recorded() for tap in engine.feature_buffer.taps])


def test_reference_gradients_are_those_of_evaluation_mode():
    """So they do not depend on dropout, nor on which stored items a normalization layer sees together."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    x, y = torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 2
    agem, gem = gnt.AGEM(net, gnt.ReplayBuffer(8), F.cross_entropy), gnt.GEM(net, F.cross_entropy, margin=0.0)
    gem.begin_task()
    for method in (agem, gem):
        method.add(x, y)
    gem.begin_task()
    reference = torch.autograd.grad(F.cross_entropy(net.eval()(x), y), list(net.parameters()))
    net.train()
    for method in (agem, gem):
        for parameter, gradient in zip(net.parameters(), reference, strict=True):
            parameter.grad = -gradient
        method.project()
        assert all(p.grad.abs().max() < 1e-12 for p in net.parameters())
    assert net[1].num_batches_tracked == 0


def stream(task: int, steps: int = 4) -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(task)
    return [(torch.randn(6, 4, generator=draws), torch.randint(2, (6,), generator=draws)) for _ in range(steps)]


def method_of(kind: str, net: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(3)
    if kind == "gem":
        return gnt.GEM(net, F.cross_entropy, per_task=5, generator=generator)
    return gnt.AGEM(net, gnt.ReplayBuffer(10, generator=generator), F.cross_entropy, batch_size=4, task=0)


@pytest.mark.parametrize("kind", ["gem", "agem"])
def test_a_learner_equals_a_loop_and_resumes_exactly(kind):
    def learner() -> Any:
        net = mlp()
        return gnt.Backprop(net, loss="cross_entropy", step_size=0.3, methods=[method_of(kind, net)])

    one, other, net = learner(), learner(), mlp()
    method, optimizer = method_of(kind, net), torch.optim.SGD(net.parameters(), lr=0.3)
    changed = 0
    for task in range(3):
        one.begin_task(task=task)
        method.begin_task(task)
        for x, y in stream(task):
            one.learn(x, y)
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            before = [p.grad.clone() for p in net.parameters()]
            method.before_batch(x, y)
            method.project()
            changed += any(not a.equal(p.grad) for a, p in zip(before, net.parameters(), strict=True))
            optimizer.step()
            method.after_step()
            assert_same([*one.net.parameters()], [*net.parameters()])
        if task == 1:
            other.load_state_dict(copy.deepcopy(one.state_dict()))
        elif task == 2:
            other.begin_task(task=task)
            for x, y in stream(task):
                other.learn(x, y)
    assert changed > 2
    assert_same(one.state_dict(), other.state_dict())


def test_the_memory_is_a_sample_of_the_whole_task():
    """It is not the first items of the task, and has a place for each of them."""
    gem = gnt.GEM(mlp(), F.cross_entropy, per_task=50, generator=torch.Generator().manual_seed(0))
    gem.begin_task()
    for number in range(100):
        gem.add(torch.full((10, 4), float(number)), torch.zeros(10, dtype=torch.int64))
    assert gem.memories[0].items().x[:, 0].mean() == pytest.approx(50, abs=15)


def test_wrong_settings_and_calls_are_refused_and_change_nothing():
    net, memory = mlp(), gnt.ReplayBuffer(4)
    for build, error, message in [
        (lambda: gnt.AGEM(net, [], F.cross_entropy), TypeError, "buffer must be a gnt.ReplayBuffer, got list"),
        (lambda: gnt.AGEM(net, memory, "mse"), TypeError, "loss must be a function"),
        (lambda: gnt.AGEM([], memory, F.cross_entropy), TypeError, "net must be a torch.nn.Module, got list"),
        (
            lambda: gnt.AGEM(net, memory, F.cross_entropy, batch_size=0),
            ValueError,
            "batch_size must be an integer >= 1",
        ),
        (lambda: gnt.AGEM(net, memory, F.cross_entropy, task="a"), TypeError, "task must be an integer or None"),
        (lambda: gnt.GEM(net, F.cross_entropy, per_task=0), ValueError, "per_task must be an integer >= 1, got 0"),
        (lambda: gnt.GEM(net, F.cross_entropy, margin=-1), ValueError, "margin must be a finite number >= 0, got -1"),
        (lambda: gnt.GEM(net, F.cross_entropy, generator=3), TypeError, "generator must be a torch.Generator"),
        (lambda: gnt.GEM(nn.ReLU(), F.cross_entropy), ValueError, "found no parameter that requires a gradient"),
        (lambda: gnt.GEM(net, F.cross_entropy, forward=1), TypeError, "forward must be a function"),
    ]:
        with pytest.raises(error, match=message):
            build()
    gem = gnt.GEM(net, F.cross_entropy)
    x, y = stream(0)[0]
    with pytest.raises(RuntimeError, match=r"call begin_task\(task=...\) first"):
        gem.add(x, y)
    gem.begin_task(3)
    gem.add(x, y)
    gem.begin_task(3)
    with pytest.raises(RuntimeError, match=r"call it between loss.backward\(\) and optimizer.step\(\)"):
        gem.project()
    gem.begin_task(1)
    with pytest.raises(ValueError, match="task 3 has ended: its memory is a constraint of task 1"):
        gem.begin_task(3)
    assert (gem.task, list(gem.memories)) == (1, [3, 1])
    F.cross_entropy(net(x), y).backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    gem.memories[3].add(torch.full((1, 4), torch.nan), y[:1])
    with pytest.raises(FloatingPointError, match="the gradient on the memory of task 3 is not finite"):
        gem.project()
    agem = gnt.AGEM(net, gem.memories[3], F.cross_entropy)
    with pytest.raises(FloatingPointError, match="the gradient on stored items is not finite"):
        agem.project()
    agem.begin_task(0)
    with pytest.raises(ValueError, match="the buffer stores no tasks, so items of task 0 cannot be left out"):
        agem.project()
    assert_same(gradients, [p.grad for p in net.parameters()])


@pytest.mark.parametrize("kind", ["gem", "agem"])
def test_items_of_another_dtype_than_the_networks_are_refused_in_words(kind):
    net, (x, y) = mlp(), stream(0)[0]
    method = method_of(kind, net)
    method.begin_task(0)
    method.add(x, y)
    method.begin_task(1)
    net.double()
    F.cross_entropy(net(x.double()), y).backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    message = r"items were stored as torch.float32, and the network is of torch.float64"
    with pytest.raises(ValueError, match=message):
        method.project()
    assert_same(gradients, [p.grad for p in net.parameters()])
    method.forward = lambda x, _: net(x.double())  # a network that takes them
    method.project()


@pytest.mark.parametrize("kind", ["gem", "agem"])
def test_a_saved_state_that_does_not_fit_changes_nothing(kind):
    method = method_of(kind, mlp())
    method.begin_task(0)
    method.add(*stream(0)[0])
    before = copy.deepcopy(method.state_dict())
    saved = copy.deepcopy(before)
    inner = saved["memories"][0] if kind == "gem" else saved["buffer"]
    inner["size"] = 99
    for wrong in (saved, {**before, "task": "a"}, {**before, "version": 7}, {}, None):
        with pytest.raises(ValueError, match="state_dict"):
            method.load_state_dict(wrong)
    assert_same(before, method.state_dict())


@pytest.mark.parametrize("kind", ["gem", "agem"])
def test_an_attached_method_projects_before_each_step_and_is_saved_with_the_optimizer(kind):
    """With and without a closure it equals a call of project(), and a resumed run equals the uninterrupted one."""

    def run(how: str, resumed_from: Any = None) -> tuple[nn.Module, Any]:
        net = mlp()
        method, optimizer = method_of(kind, net), torch.optim.SGD(net.parameters(), lr=0.3)
        if how != "project":
            method.attach(optimizer)
        if resumed_from is not None:
            net.load_state_dict(resumed_from[0])
            optimizer.load_state_dict(resumed_from[1])
        for task in range(3):
            if task == 2 and how == "saved":
                return net, (net.state_dict(), optimizer.state_dict())
            if resumed_from is not None and task < 2:
                continue
            method.begin_task(task)
            for x, y in stream(task):

                def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                    optimizer.zero_grad()
                    loss = F.cross_entropy(net(x), y)
                    loss.backward()
                    return loss

                if how == "closure":
                    optimizer.step(closure)
                else:
                    closure()
                    if how == "project":
                        method.project()
                    optimizer.step()
                method.add(x, y)
        return net, None

    expected = run("project")[0].state_dict()
    saved = copy.deepcopy(run("saved")[1])
    assert "gnt_memory" in saved[1]
    for net, _ in (run("attach"), run("closure"), run("attach", saved)):
        assert_same(expected, net.state_dict())
    net = mlp()
    with pytest.raises(ValueError, match=f"does not have parameter 0.bias of {kind.upper()}"):
        method_of(kind, net).attach(torch.optim.SGD([net[0].weight], lr=0.1))
    with pytest.raises(TypeError, match="got str"):
        method_of(kind, net).attach("sgd")
