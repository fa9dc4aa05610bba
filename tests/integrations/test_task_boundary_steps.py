"""`TaskBoundaries` around optimizer steps: methods get each batch of a step once, and none of a step not made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

import gnt
from gnt.integrations.lightning import TaskBoundaries
from tests.helpers.small_runs import assert_same, mlp
from tests.integrations.lightning_helpers import USUAL_WARNINGS, Regression, loader, trainer

pytestmark = USUAL_WARNINGS
EACH_BATCH_AND_EACH_STEP_OF_TWO = pytest.mark.parametrize("batches", [1, 2])


def make_agem(net: nn.Module) -> gnt.AGEM:
    return gnt.AGEM(net, gnt.ReplayBuffer(30, generator=torch.Generator().manual_seed(1)), F.mse_loss, batch_size=16)


def make_replay(net: nn.Module) -> gnt.ExperienceReplay:
    return gnt.ExperienceReplay(gnt.ReplayBuffer(30, generator=torch.Generator().manual_seed(1)))


def make_gem(net: nn.Module) -> gnt.GEM:
    return gnt.GEM(net, F.mse_loss, per_task=20, generator=torch.Generator().manual_seed(1))


@EACH_BATCH_AND_EACH_STEP_OF_TWO
@pytest.mark.parametrize("make", [make_agem, make_gem])
def test_projections_equal_a_plain_loop(make, batches, tmp_path):
    module = Regression()
    method = make(module.net)
    boundaries = TaskBoundaries(method)
    for task in range(3):
        trainer(tmp_path, [boundaries], 1, accumulate_grad_batches=batches).fit(module, loader(task))
    net = mlp()
    own = make(net)
    for task in range(3):
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        attached = own.attach(optimizer)
        own.begin_task(task)
        pairs = list(loader(task))
        for first in range(0, len(pairs), batches):
            step = pairs[first : first + batches]
            optimizer.zero_grad()
            for x, y in step:
                (F.mse_loss(net(x), y) / batches).backward()
            optimizer.step()
            for x, y in step:
                own.add(x, y)
        attached.remove()
    assert_same([dict(module.net.state_dict()), method.state_dict()], [dict(net.state_dict()), own.state_dict()])


class Replayed(Regression):
    """Adds the penalty of a method that ``make`` returns."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.methods = [make(self.net)]

    def training_step(self, pair, index):
        x, y = pair
        output = self(x)
        return F.mse_loss(output, y) + self.methods[0].penalty(x, y, output)


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_buffers_get_all_batches_of_a_step(batches, tmp_path):
    module = Replayed(lambda net: gnt.DER(net, gnt.ReplayBuffer(100)))
    der, replay = module.methods[0], gnt.ExperienceReplay(gnt.ReplayBuffer(100))
    for own, method in ((module, der), (Regression(), replay)):
        trainer(tmp_path, [TaskBoundaries(method)], 1, accumulate_grad_batches=batches).fit(own, loader())
        assert method.buffer.seen == 48


class Center(nn.Module):
    """A generative model: its loss is the squared distance from a point."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.zeros(4))

    def loss(self, x):
        return (x - self.point).square().mean()

    def sample(self, n):
        return self.point + torch.randn(n, 4)


@EACH_BATCH_AND_EACH_STEP_OF_TWO
def test_the_model_of_generative_replay_learns_from_all_batches_of_a_step(batches, tmp_path):
    module = Replayed(lambda net: gnt.GenerativeReplay(net, Center(), loss=F.mse_loss, targets=F.mse_loss))
    replay, model = module.methods[0], Center()
    trainer(tmp_path, [TaskBoundaries(replay)], 1, accumulate_grad_batches=batches).fit(module, loader())
    optimizer = torch.optim.Adam(model.parameters())
    for x in torch.cat([x for x, _ in loader()]).split(8 * batches):
        optimizer.zero_grad()
        model.loss(x).backward()
        optimizer.step()
    torch.testing.assert_close(replay.model.point, model.point)


@EACH_BATCH_AND_EACH_STEP_OF_TWO
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("make", [make_agem, make_gem, make_replay])
def test_batches_of_a_step_that_a_scaler_skips_are_dropped(make, fused, batches, tmp_path):
    class Overflowing(Regression):
        def training_step(self, pair, index):
            loss = super().training_step(pair, index)
            return loss * float("inf") if index == 2 else loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.01, fused=fused)

    module = Overflowing()
    method, own = make(module.net), make(mlp())
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0))
    run = trainer(tmp_path, [TaskBoundaries(method)], 1, accumulate_grad_batches=batches, plugins=[scaled])
    run.fit(module, loader())
    own.begin_task(0)
    pairs = list(loader())
    for first in range(0, len(pairs), batches):
        if first != 2:
            for x, y in pairs[first : first + batches]:
                own.before_batch(x, y)
                own.keep_batch()
            own.after_step()
    assert_same(method.state_dict(), own.state_dict())


def test_batches_are_kept_until_their_step_in_manual_optimization(tmp_path):
    class Manual(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, pair, index):
            self.manual_backward(super().training_step(pair, index))
            if index % 2:
                self.optimizers().step()
                self.optimizers().zero_grad()

    replay = gnt.ExperienceReplay(gnt.ReplayBuffer(100))
    trainer(tmp_path, [TaskBoundaries(replay)], 1).fit(Manual(), loader())
    assert replay.buffer.seen == 48


def test_batches_without_a_step_are_dropped_at_the_end_of_a_fit_and_after_an_error(tmp_path):
    class Ending(Regression):
        def on_train_batch_start(self, pair: Any, index: int) -> int | None:
            return -1 if index == 3 else None

    class Failing(Regression):
        def training_step(self, pair, index):
            if index == 3:
                raise KeyError("in the middle of a step")
            return super().training_step(pair, index)

    replay = gnt.ExperienceReplay(gnt.ReplayBuffer(100))
    boundaries = TaskBoundaries(replay)
    trainer(tmp_path, [boundaries], 2, accumulate_grad_batches=2).fit(Ending(), loader())
    assert replay.buffer.seen == 2 * 16
    with pytest.raises(KeyError):
        trainer(tmp_path, [boundaries], 1, accumulate_grad_batches=2).fit(Failing(), loader())
    trainer(tmp_path, [boundaries], 1, accumulate_grad_batches=2).fit(Regression(), loader())
    assert replay.buffer.seen == 3 * 16 + 48


class Halving:
    """Halves the gradients and notes their sum."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.sums = net, []

    def after_backward(self) -> None:
        for each in self.net.parameters():
            each.grad *= 0.5
        self.sums.append(sum(float(each.grad.sum()) for each in self.net.parameters()))


@EACH_BATCH_AND_EACH_STEP_OF_TWO
def test_gradients_can_be_changed_once_in_each_step(batches, tmp_path):
    module = Regression()
    method = Halving(module.net)
    trainer(tmp_path, [TaskBoundaries(method)], 1, accumulate_grad_batches=batches).fit(module, loader())
    net = mlp()
    own, optimizer = Halving(net), torch.optim.AdamW(net.parameters(), lr=0.01)
    pairs = list(loader())
    for first in range(0, len(pairs), batches):
        optimizer.zero_grad()
        for x, y in pairs[first : first + batches]:
            (F.mse_loss(net(x), y) / batches).backward()
        own.after_backward()
        optimizer.step()
    assert method.sums == own.sums
    assert_same(dict(module.net.state_dict()), dict(net.state_dict()))


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_that_methods_change_are_not_scaled(fused, tmp_path):
    class Own(Regression):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01, fused=fused)

    results = []
    for scale in (4.0, 1024.0):
        module = Own()
        method = Halving(module.net)
        scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
        run = trainer(tmp_path, [TaskBoundaries(method)], 1, plugins=[scaled])
        if fused:
            with pytest.raises(ValueError, match=r"Halving has after_backward, which .* give SGD fused=False"):
                run.fit(module, loader())
            return
        run.fit(module, loader())
        results.append(method.sums)
    assert results[0] == pytest.approx(results[1], rel=1e-2)
